"""Sphinx builds the documentation with this file: `./scripts/docs`."""

from docutils import nodes

import jaxseg

project = "jaxseg"
author = "the jaxseg authors"
release = jaxseg.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]

html_theme = "sphinx_book_theme"
html_title = "jaxseg"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the sidebar has the search field
}
html_show_copyright = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # scripts/run_notebooks.py executes them

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
default_role = "code"
python_maximum_signature_line_length = 80


def _change_docstring(app, what, name, obj, options, lines) -> None:
    """Show the indented parts of a module's docstring, tables and drawings, as they are written."""
    if lines and lines[0].startswith("Alias for field number"):  # a named tuple's own docstring
        lines.clear()
    if what != "module":
        return
    shown, inside = [], False
    for line in lines:
        if line.startswith("    ") and not inside:
            shown += ["", "::", ""]
        elif line and not line.startswith("    ") and inside:
            shown.append("")
        inside = line.startswith("    ") or (inside and not line)
        shown.append(line)
    lines[:] = shown


def _name_arrays(app, doctree, page) -> None:
    """Name JAX's arrays in annotations as the code does."""
    for text in [text for text in doctree.findall(nodes.Text) if "jaxlib._jax.Array" in text]:
        text.parent.replace(text, nodes.Text(text.replace("jaxlib._jax.Array", "Array")))


def setup(app) -> None:
    """Register the changes; that of docstrings before napoleon's."""
    app.connect("autodoc-process-docstring", _change_docstring, priority=400)
    app.connect("doctree-resolved", _name_arrays)

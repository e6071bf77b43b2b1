"""Sphinx builds the documentation with this file: `./scripts/docs`."""

import pathlib
import shutil

import jaxseg

_HERE = pathlib.Path(__file__).resolve().parent

project = "jaxseg"
author = "the jaxseg authors"
release = jaxseg.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]

html_theme = "sphinx_book_theme"
html_title = "jaxseg"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
html_show_copyright = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are stored with their outputs; tests execute them

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": False}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80


def _copy_notebooks() -> None:
    """Copy the notebooks below this folder, where Sphinx looks for its sources."""
    notebooks = _HERE.parent / "experiments" / "notebooks"
    target = _HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in sorted(notebooks.glob("*.ipynb")):
        shutil.copy(file, target)


_copy_notebooks()

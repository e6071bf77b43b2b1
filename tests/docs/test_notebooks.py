"""Each notebook is in step with the `.py` that it is paired with, and all its cells run."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "experiments" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
PACKAGES = ("ipykernel", "jupytext", "matplotlib", "nbclient", "nbformat")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES),
    reason="needs the extra notebooks (jupytext, nbclient)",
)


def read_pair(name):
    """Return the notebook of the `.py` and the one with outputs."""
    import jupytext
    import nbformat

    return jupytext.read(FOLDER / f"{name}.py"), nbformat.read(FOLDER / f"{name}.ipynb", 4)


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_notebook_has_its_pair():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_in_step(name):
    script, notebook = read_pair(name)
    assert cells(script) == cells(notebook), (
        f"run python scripts/run_notebooks.py {name}, or jupytext --sync if no result changes"
    )


@pytest.mark.parametrize("name", NAMES)
def test_cells_parse_and_are_short(name):
    script, _ = read_pair(name)
    for cell in script.cells:
        if cell.cell_type == "code":
            compile(cell.source, name, "exec")
            assert len(cell.source.splitlines()) <= 25, cell.source


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_have_pictures_and_no_errors(name):
    _, notebook = read_pair(name)
    check_outputs(notebook)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 2**20


def check_outputs(notebook):
    """Check that no cell failed, and that there are pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebooks_run(name, tmp_path):
    import nbformat

    # The kernel runs as a user's, without the flags of the tests.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    ran = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_notebooks.py", "--out", tmp_path, name],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    check_outputs(nbformat.read(tmp_path / f"{name}.ipynb", 4))

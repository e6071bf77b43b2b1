"""Execute notebooks and write each, with its outputs, to the `.ipynb` that it is paired with.

    python scripts/run_notebooks.py [--out FOLDER] [NAME ...]

Without names, all of `experiments/notebooks`; without `--out`, beside the `.py`. Stops at the first
cell that fails. Needs the extra `notebooks`.
"""

import argparse
import base64
import io
import pathlib
import time

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "experiments" / "notebooks"


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """Return the notebook of a `.py` in percent format with the outputs of all cells."""
    notebook = jupytext.read(path)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # else random: every execution would change all cells
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": path.parent}},
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = reduce_colors(output["data"]["image/png"])
    return notebook


def reduce_colors(picture: str) -> str:
    """Return a PNG (base64) with 256 colours: the noise of the scenes takes half the bytes."""
    reduced = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(256).save(reduced, "PNG", optimize=True)
    return base64.b64encode(reduced.getvalue()).decode()


def main() -> None:
    """Execute the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=pathlib.Path, default=FOLDER)
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.stem for path in FOLDER.glob("*.py"))
    for name in names:
        started = time.monotonic()
        notebook = execute(FOLDER / f"{name}.py")
        nbformat.write(notebook, arguments.out / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""`jaxseg experiments`: the experiments that come with jaxseg, which `train` finds by name."""

import ast
import difflib
import pathlib

import jaxseg


def experiments_folder() -> pathlib.Path:
    """Return the folder of jaxseg's own experiments.

    A wheel has them inside the package, a source checkout beside it. Raises FileNotFoundError if
    neither is there.
    """
    package = pathlib.Path(jaxseg.__file__).resolve().parent
    folders = (package / "experiments", package.parent / "experiments")
    for folder in folders:
        if (folder / "mask_rcnn_r50_fpn_1x.py").is_file():
            return folder
    raise FileNotFoundError(
        f"this installation has no experiments, neither in {folders[0]} nor in {folders[1]}: "
        "install jaxseg again"
    )


def experiment_files() -> dict[str, pathlib.Path]:
    """Return the files of jaxseg's own experiments by name."""
    return {path.stem: path for path in sorted(experiments_folder().glob("[!_]*.py"))}


def find_experiment(path: pathlib.Path) -> pathlib.Path:
    """Return `path` if it is a file, else the file of jaxseg's experiment with that name.

    Raises FileNotFoundError with similar names if there is neither.
    """
    if path.is_file():
        return path
    files = experiment_files()
    name = path.name.removesuffix(".py")
    if path.parent == pathlib.Path() and name in files:
        return files[name]
    similar = difflib.get_close_matches(name, files, n=3)
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    raise FileNotFoundError(
        f"no experiment file {path}, and none of jaxseg's own has that name: {hint}"
        "`jaxseg experiments` lists them"
    )


def describe(path: pathlib.Path) -> str:
    """Return the text above an experiment's fields in `jaxseg train EXPERIMENT --help`."""
    return "\n\n".join(
        [
            *filter(None, [_summary(path)]),
            "These are the experiment's fields, with its own values as defaults. "
            "jaxseg train --help shows the flags of the run, such as --workdir.",
        ]
    )


def format_experiments() -> str:
    """Return a line for each experiment: its name and the first line of its docstring."""
    files = experiment_files()
    width = max(map(len, files))
    return "\n".join(f"{name:<{width}}  {_summary(path)}" for name, path in files.items())


def _summary(path: pathlib.Path) -> str:
    """Return the first line of a file's docstring; the file is not run."""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return text.partition("\n")[0]

"""The version of jaxseg that is running."""

import importlib.metadata
import pathlib
import tomllib


def find_version() -> str:
    """Return the version of the source checkout that this file is in, else of the package.

    The checkout comes first: the metadata of an editable install is that of the day it was
    installed, and a checkout on the path may have none.
    """
    try:
        text = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text()
        project = tomllib.loads(text)["project"]
        if project["name"] == "jaxseg":
            return project["version"]
    except (OSError, ValueError, KeyError):
        pass
    return importlib.metadata.version("jaxseg")

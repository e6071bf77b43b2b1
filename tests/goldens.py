"""Reads the golden arrays of the reference implementations."""

import json
import pathlib
from typing import Any

import numpy as np


def load_golden(shared: pathlib.Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """`(meta, arrays)` of one topic."""
    with np.load(shared / "goldens" / "reference" / f"{name}.npz") as file:
        meta = json.loads(str(file["meta"]))
        return meta, {key: file[key] for key in file.files if key != "meta"}

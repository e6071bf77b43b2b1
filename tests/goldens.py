"""Read the golden arrays of the reference implementations."""

import importlib.util
import json
import pathlib
from typing import Any

import numpy as np


def load_golden(shared: pathlib.Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return `(meta, arrays)` of one topic."""
    with np.load(shared / "goldens" / "reference" / f"{name}.npz") as file:
        meta = json.loads(str(file["meta"]))
        return meta, {key: file[key] for key in file.files if key != "meta"}


def load_model(
    shared: pathlib.Path, name: str, folder: str = "reference"
) -> tuple[dict[str, np.ndarray], dict, dict]:
    """Return `(state dict, meta, arrays)` of a whole model, its weights regenerated."""
    path = shared / "goldens" / "load_golden.py"
    spec = importlib.util.spec_from_file_location("load_golden_weights", path)
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.params(str(shared / "goldens" / folder / f"{name}.npz"))


def difference(actual: Any, expected: Any) -> float:
    """Return the largest difference relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def nchw(x: Any, step: int = 1) -> np.ndarray:
    """Return NHWC as NCHW, of the channels every `step`th."""
    return np.asarray(x).transpose(0, 3, 1, 2)[:, ::step]

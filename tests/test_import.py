"""`import jaxseg`: light, and with a version."""

import importlib.metadata
import subprocess
import sys
import tomllib

import pytest

import jaxseg
from jaxseg import version
from tests.conftest import ROOT

CODE = """
import sys, time
start = time.perf_counter()
import jaxseg
jaxseg.__version__
seconds = time.perf_counter() - start
assert seconds < 0.3, seconds
heavy = {"jax", "numpy", "cv2", "flax", "grain"} & set(sys.modules)
assert not heavy, heavy
assert {"load", "__version__"} <= set(dir(jaxseg))
"""


def test_the_import_is_fast_and_imports_no_jax():
    result = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_version_is_that_of_the_checkout():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert jaxseg.__version__ == project["version"]


def test_the_version_of_an_installed_package_is_in_its_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "__file__", str(tmp_path / "jaxseg" / "version.py"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"that of {name}")
    assert version.find_version() == "that of jaxseg"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "7"')
    assert version.find_version() == "that of jaxseg"


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = jaxseg.absent

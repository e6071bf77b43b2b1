"""`import jaxseg`: light, and with a version."""

import importlib.metadata
import subprocess
import sys

import pytest

import jaxseg
from tests.conftest import ROOT

CODE = """
import sys
import jaxseg
jaxseg.__version__
heavy = {"jax", "numpy", "cv2", "flax", "grain"} & set(sys.modules)
assert not heavy, heavy
assert {"load", "__version__"} <= set(dir(jaxseg))
"""


def test_the_import_imports_no_jax():
    result = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_version_is_that_of_the_package():
    assert jaxseg.__version__ == importlib.metadata.version("jaxseg")


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = jaxseg.absent

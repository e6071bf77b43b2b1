"""Shared arrays: whose folders are removed, and whose stay."""

import errno
import pathlib
import pickle
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from jaxseg.data import shared_arrays
from jaxseg.data.shared_arrays import SharedArrays

OWNER = """
import pickle, sys, tempfile, time
import numpy as np
from jaxseg.data.shared_arrays import SharedArrays

tempfile.tempdir = sys.argv[1]
arrays = SharedArrays({"x": np.zeros(1 << 20)})
pickle.dumps(arrays)
print(arrays._files["x"], flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(temporary_folder):
    """Another process that shares an array, and the array's folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(temporary_folder)], stdout=subprocess.PIPE, text=True
    )
    yield process, pathlib.Path(process.stdout.readline().strip()).parent
    process.kill()
    process.communicate()


def share():
    arrays = SharedArrays({"x": np.ones(1 << 20)})
    pickle.dumps(arrays)
    return arrays


def test_folders_of_the_killed_are_removed_and_those_of_the_living_stay(owner):
    process, folder = owner
    mine = share()
    assert folder.is_dir()  # by its name nobody knows whose it is, here or in another container
    assert str(process.pid) not in folder.name
    process.kill()
    process.wait()
    share()
    assert not folder.exists()
    assert (pickle.loads(pickle.dumps(mine))["x"] == 1).all()


def test_the_folders_of_this_process_stay(temporary_folder):
    arrays = [share() for _ in range(3)]
    assert len(list(temporary_folder.iterdir())) == 3
    del arrays
    assert not list(temporary_folder.iterdir())


def test_without_locks_no_folder_of_another_is_removed(owner, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    process, folder = owner
    monkeypatch.setattr(shared_arrays.fcntl, "flock", flock)
    process.kill()
    process.wait()
    mine = share()
    assert folder.is_dir()
    monkeypatch.undo()
    # Nor is the one removed later that has no lock.
    shared_arrays._remove_orphans()
    assert pathlib.Path(mine._files["x"]).is_file()

"""Checkpoint files are read without torch, and whatever a file names, nothing is run.

Terms as in `jaxseg.zoo.pickles`. The files are built by `tests.zoo.builders`.
"""

import collections
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxseg.zoo.files import read_state_dict, write_safetensors
from tests.zoo.builders import (
    EXAMPLE,
    FILES,
    Call,
    Named,
    Storage,
    assert_same,
    pickled,
    plain_pickle,
    tensor,
    torch_legacy,
    torch_zip,
    whole,
)

# NumPy's and Hugging Face's formats


def test_npz_is_read_by_content_whatever_its_extension(tmp_path):
    for save in (np.savez, np.savez_compressed):
        with (tmp_path / "weights.bin").open("wb") as file:
            save(file, **EXAMPLE, note=np.asarray("from a zoo"), __version__=np.asarray([None]))
        with pytest.raises(ValueError, match=r"weights\.bin.*[Oo]bject arrays"):
            read_state_dict(tmp_path / "weights.bin")
        with (tmp_path / "weights.bin").open("wb") as file:
            save(file, **EXAMPLE, note=np.asarray("from a zoo"))
        assert_same(read_state_dict(tmp_path / "weights.bin"), EXAMPLE)


def test_npz_comes_in_native_byte_order_and_only_with_plain_numbers(tmp_path):
    np.savez(tmp_path / "big.npz", a=np.arange(3, dtype=">f4"))
    assert_same(read_state_dict(tmp_path / "big.npz"), {"a": np.arange(3, dtype=np.float32)})
    np.savez(tmp_path / "dates.npz", a=np.zeros(1, "datetime64[s]"))
    with pytest.raises(ValueError, match="a is of dtype datetime64"):
        read_state_dict(tmp_path / "dates.npz")
    np.savez(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="no arrays"):
        read_state_dict(tmp_path / "none.npz")


def test_safetensors_round_trip(tmp_path):
    arrays = {**EXAMPLE, "transposed": np.arange(6.0).reshape(2, 3).T}
    write_safetensors(tmp_path / "w.safetensors", arrays)
    got = read_state_dict((tmp_path / "w.safetensors").rename(tmp_path / "w.bin"))
    assert_same(dict(sorted(got.items())), dict(sorted(arrays.items())))


def test_safetensors_gives_bfloat16_as_float32(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"a": np.asarray([1.5], ml_dtypes.bfloat16)})
    got = read_state_dict(tmp_path / "w.safetensors")
    assert_same(got, {"a": np.asarray([1.5], np.float32)})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, EXAMPLE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be written"):
        write_safetensors(path, {"a": np.asarray([None])})
    with pytest.raises(ValueError, match="cannot be written"):
        write_safetensors(tmp_path / "missing" / "w.safetensors", EXAMPLE)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


# Torch's formats


@FILES
@pytest.mark.parametrize("protocol", [2, 4])
def test_torch_state_dict(tmp_path, write, protocol):
    kinds = {"half": "Half", "steps": "Long", "flags": "Bool"}
    state = collections.OrderedDict(
        (name, whole(kinds.get(name, "Float"), str(place), array))
        for place, (name, array) in enumerate(EXAMPLE.items())
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    path = write(tmp_path / "w.pth", state, protocol=protocol)
    got = read_state_dict(path)
    assert_same(got, EXAMPLE)
    assert all(array.flags.writeable for array in got.values())


@FILES
def test_torch_views_of_a_shared_storage(tmp_path, write):
    numbers = np.arange(60, dtype=np.float32)
    storage = Storage("Float", "0", numbers)
    state = {
        "all": tensor(storage, (5, 12), (12, 1)),
        "transposed": tensor(storage, (12, 5), (1, 12)),
        "part": tensor(storage, (3, 2), (12, 3), offset=14),
        "last": tensor(storage, (), (), offset=59),
        "parameter": Call(
            "torch._utils",
            "_rebuild_parameter",
            (tensor(storage, (60,), (1,)), True, collections.OrderedDict()),
        ),
    }
    grid = numbers.reshape(5, 12)
    expected = {
        "all": grid,
        "transposed": grid.T,
        "part": grid[1:4, 2:8:3],
        "last": numbers[59],
        "parameter": numbers,
    }
    got = read_state_dict(write(tmp_path / "w.pth", state))
    assert_same(got, expected)
    got["all"][:] = 0
    np.testing.assert_array_equal(got["parameter"], numbers)


@FILES
def test_torch_bfloat16_comes_as_float32(tmp_path, write):
    numbers = np.asarray([[1.5, -3.0, 2.0**100]], ml_dtypes.bfloat16)
    state = {"a": whole("BFloat16", "0", numbers.view(np.uint16))}
    got = read_state_dict(write(tmp_path / "w.pth", state))
    assert_same(got, {"a": numbers.astype(np.float32)})


def test_torch_zip_of_a_big_endian_machine(tmp_path):
    state = {"a": whole("Int", "0", np.asarray([1, 2], np.int32))}
    got = read_state_dict(torch_zip(tmp_path / "w.pth", state, big=True))
    assert_same(got, {"a": np.asarray([1, 2], np.int32)})


@FILES
@pytest.mark.parametrize("nest", ["state_dict", "model"])
def test_torch_training_state_gives_the_models_arrays(tmp_path, write, nest):
    one = np.ones(2, np.float32)
    content = {
        "meta": {
            "CLASSES": ("cat", "dog"),
            "device": Call("torch", "device", ("cpu",)),
            "size": Call("torch", "Size", ((2, 3),)),
            "dtype": Named("torch", "float16"),
        },
        "best": whole("Float", "9", one),
        nest: {"module.a": whole("Float", "0", one), "module.epoch": 3, "module.b": None},
        "optimizer": {"state": {0: {"momentum_buffer": whole("Float", "1", one)}}},
    }
    assert_same(read_state_dict(write(tmp_path / "w.pth", content)), {"a": one})


def test_only_storages_in_use_are_read(tmp_path):
    state = {"state_dict": {"a": whole("Float", "0", np.ones(1, np.float32))}}
    state["optimizer"] = whole("Float", "1", np.ones(2, np.float32))
    path = torch_zip(tmp_path / "w.pth", state)
    kept = tmp_path / "kept.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(kept, "w") as new:
        for name in set(old.namelist()) - {"archive/data/1"}:
            new.writestr(name, old.read(name))
    assert_same(read_state_dict(kept), {"a": np.ones(1, np.float32)})


def test_module_is_stripped_only_from_all_names(tmp_path):
    np.savez(tmp_path / "w.npz", **{"module.a": np.ones(1), "b": np.ones(1)})
    assert set(read_state_dict(tmp_path / "w.npz")) == {"module.a", "b"}


# Pickles of NumPy arrays


@pytest.mark.parametrize("protocol", range(6))
def test_detectron2_pickle(tmp_path, protocol):
    arrays = {
        **EXAMPLE,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "scalar": np.float32(2.5),
    }
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    expected = {**arrays, "big": np.arange(3, dtype=np.int32), "scalar": np.asarray(2.5, "f4")}
    assert_same(read_state_dict(path), expected)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_as_python_2_wrote_them(tmp_path, core):
    numbers = np.asarray([[1.0, -2.0], [3.5, 1e-30]], np.float32)
    dtype = Call("numpy", "dtype", ("f4", 0, 1), (3, "<", None, None, None, -1, -1, 0))
    made = (Named("numpy", "ndarray"), (0,), "b")
    state = (1, (2, 2), dtype, False, "@data@")
    array = Call(f"{core}.multiarray", "_reconstruct", made, state)
    path = plain_pickle(tmp_path / "w.pkl", {"a": array, "b": 3, "__note__": ["x"]})
    # Python 2's `str`: bytes without an encoding, where Python 3 would write text.
    written = path.read_bytes()
    text = b"X" + struct.pack("<i", 6) + b"@data@"
    assert written.count(text) == 1
    path.write_bytes(written.replace(text, b"U" + bytes([numbers.nbytes]) + numbers.tobytes()))
    assert_same(read_state_dict(path), {"a": numbers})


# Corrupt and other files


@pytest.mark.parametrize("kind", ["npz", "safetensors", "zip", "legacy", "pickle"])
def test_truncated_files_are_value_errors_that_name_the_file(tmp_path, kind):
    path = tmp_path / "w.file"
    state = {"a": whole("Float", "0", np.arange(9, dtype=np.float32)), "b": 1}
    if kind == "npz":
        np.savez(tmp_path / "w.npz", **EXAMPLE)
        (tmp_path / "w.npz").rename(path)
    elif kind == "safetensors":
        write_safetensors(path, EXAMPLE)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(EXAMPLE, 2))
    else:
        {"zip": torch_zip, "legacy": torch_legacy}[kind](path, state)
    content = path.read_bytes()
    read_state_dict(path)
    for end in (0, 1, 5, 12, 30, len(content) // 2, len(content) - 4, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"w\.file cannot be read: .*Readable: .*\.npz"):
            read_state_dict(path)


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_state_dict(tmp_path / "absent.pth")
    path = tmp_path / "page.pth"
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"page\.pth.*format is unknown.*DOCTYPE.*safetensors"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"page\.pth cannot be read"):
        read_state_dict(path)


def test_a_dict_without_arrays_lists_its_keys(tmp_path):
    one = whole("Float", "0", np.ones(1, np.float32))
    path = torch_zip(tmp_path / "w.pth", {"weights": {"a": one}, "epoch": 3, "model": {}})
    with pytest.raises(ValueError, match=r"no arrays.*'epoch', 'model', 'weights'"):
        read_state_dict(path)
    path = torch_zip(path, {"a": one, "b": {"c": one}})
    with pytest.raises(ValueError, match="not flat: 'b' is a dict"):
        read_state_dict(path)
    path = torch_zip(path, [one])
    with pytest.raises(ValueError, match="not of a dict"):
        read_state_dict(path)


def test_a_plain_pickle_has_no_storages(tmp_path):
    content, _ = pickled({"a": whole("Float", "0", np.ones(1, np.float32))})
    path = tmp_path / "w.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.pkl cannot be read"):
        read_state_dict(path)

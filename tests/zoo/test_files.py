"""Checkpoint files are read without torch, and whatever a file names, nothing is run.

Terms as in `jaxseg.zoo.files`. The files are built by `tests.zoo.builders`.
"""

import collections
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from jaxseg.zoo.files import read_state_dict, write_safetensors
from tests.conftest import ROOT
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


# Hostile files


def hostile(path, how):
    if how == "zip":
        return torch_zip(path, {"a": Call("os", "system", (f"touch {path}.ran",))})
    if how == "legacy":
        return torch_legacy(path, {"a": Call("os", "system", (f"touch {path}.ran",))})
    module, name = {"posix": ("posix", "system"), "os": ("os", "system")}[how]
    return plain_pickle(path, Call(module, name, (f"touch {path}.ran",)))


@pytest.mark.parametrize("how", ["os", "posix", "zip", "legacy"])
def test_a_pickle_cannot_run_a_command(tmp_path, how):
    path = hostile(tmp_path / "w.pth", how)
    with pytest.raises(ValueError, match=r"w\.pth.*system.*nothing in the file was executed"):
        read_state_dict(path)
    assert os.listdir(tmp_path) == ["w.pth"]


def test_the_hostile_pickle_would_have_run(tmp_path):
    path = hostile(tmp_path / "w.pth", "os")
    pickle.loads(path.read_bytes())
    assert (tmp_path / "w.pth.ran").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core", "multiarray._reconstruct.__globals__"),
        ("torch", "load"),
        ("torch", "hub.FloatStorage"),
        ("torch._utils", "_rebuild_tensor_v2.__call__"),
        ("collections", "OrderedDict.fromkeys"),
        ("_codecs", "lookup"),
        ("jaxseg.zoo.files", "read_state_dict"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_only_what_arrays_need_may_be_named(tmp_path, module, name, protocol):
    if protocol == 4:
        content = (
            pickle.PROTO
            + b"\x04"
            + b"".join(
                pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode()
                for part in (module, name)
            )
        )
        (tmp_path / "w.pkl").write_bytes(content + pickle.STACK_GLOBAL + pickle.STOP)
    else:
        plain_pickle(tmp_path / "w.pkl", {"a": Call(module, name, ("1",))})
    with pytest.raises(ValueError, match=r"nothing in the file was executed"):
        read_state_dict(tmp_path / "w.pkl")


def test_state_set_on_what_a_pickle_names_does_not_outlive_it(tmp_path):
    good = tmp_path / "good.pkl"
    good.write_bytes(pickle.dumps(EXAMPLE, 2))
    for asked in (b"cnumpy\ndtype\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"):
        for state in ({"name": "os.system"}, (None, {"name": "os.system", "items": 1})):
            build = asked + pickle.dumps(state, 2)[2:-1] + pickle.BUILD
            (tmp_path / "bad.pkl").write_bytes(pickle.PROTO + b"\x02" + build + pickle.STOP)
            with pytest.raises(ValueError, match=r"bad\.pkl cannot be read"):
                read_state_dict(tmp_path / "bad.pkl")
            assert_same(read_state_dict(good), EXAMPLE)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array", [np.asarray([None, "x"]), np.zeros(2, [("a", "O")]), np.zeros(2, "M8[s]")]
)
def test_numpy_arrays_that_are_not_plain_numbers(tmp_path, array, protocol):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": array, "b": np.ones(1)}}, protocol))
    with pytest.raises(ValueError, match=r"w\.pkl.*a: its dtype is .*not plain numbers"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("code", "order"), [("O8", "|"), ("O", "<"), ("f4,O", "<"), ("f4", "O,"), ("f4", "")]
)
def test_dtypes_that_would_hold_objects(tmp_path, code, order):
    dtype = Call("numpy", "dtype", (code, 0, 1), (3, order, None, None, None, -1, -1, 63))
    made = (Named("numpy", "ndarray"), (0,), b"b")
    state = (1, (1,), dtype, False, Call("_codecs", "encode", ("\0" * 8, "latin1")))
    array = Call("numpy.core.multiarray", "_reconstruct", made, state)
    path = plain_pickle(tmp_path / "w.pkl", {"a": array})
    with pytest.raises(ValueError, match="not plain numbers"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (Call("_codecs", "encode", ("\0" * 8, "rot13")), (2,)),
        (Call("_codecs", "encode", ("\0" * 8, "latin1")), (3,)),
        (Call("_codecs", "encode", ("\0" * 8, "latin1")), (-1,)),
        (Call("_codecs", "encode", ("\u0394" * 8, "latin1")), (2,)),
        (8, (2,)),
        ([0] * 8, (2,)),
    ],
)
def test_numpy_arrays_whose_data_does_not_fit(tmp_path, data, shape):
    dtype = Call("numpy", "dtype", ("f4", 0, 1), (3, "<", None, None, None, -1, -1, 0))
    made = (Named("numpy", "ndarray"), (0,), b"b")
    array = Call("numpy.core.multiarray", "_reconstruct", made, (1, shape, dtype, False, data))
    path = plain_pickle(tmp_path / "w.pkl", {"a": array})
    with pytest.raises(ValueError, match=r"w\.pkl cannot be read: a: "):
        read_state_dict(path)


@FILES
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2, 3), (3, 1), 1),
        ((2, 3), (4, 1), 0),
        ((7,), (1,), 0),
        ((2,), (2**62,), 0),
        ((2**40,), (0,), 0),
        ((2,), (-1,), 3),
        ((-2,), (1,), 0),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
        ((1,), (1,), 6),
        ((2.0,), (1,), 0),
        ("12", (1, 1), 0),
    ],
)
def test_tensors_that_reach_outside_their_storage(tmp_path, write, size, stride, offset):
    storage = Storage("Float", "0", np.arange(6, dtype=np.float32))
    path = write(tmp_path / "w.pth", {"a.b": tensor(storage, size, stride, offset)})
    with pytest.raises(ValueError, match=r"w\.pth cannot be read: a\.b: "):
        read_state_dict(path)


def test_a_storage_shorter_than_declared(tmp_path):
    path = torch_zip(tmp_path / "w.pth", {"a": whole("Float", "0", np.ones(5, np.float32))})
    short = tmp_path / "short.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(short, "w") as new:
        new.writestr("archive/data.pkl", old.read("archive/data.pkl"))
        new.writestr("archive/data/0", old.read("archive/data/0")[:-1])
    with pytest.raises(ValueError, match="should have 20 bytes, not 19"):
        read_state_dict(short)


def test_storages_that_numpy_has_no_numbers_for(tmp_path):
    path = torch_zip(tmp_path / "w.pth", {"a": whole("QInt8", "0", np.ones(5, np.int8))})
    with pytest.raises(ValueError, match="QInt8Storage"):
        read_state_dict(path)


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


# Small files that would take all memory or time


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("member", ["archive/data/0", "archive/extra", "archive/data.pkl"])
def test_a_zip_that_unpacks_to_much_more_is_refused_by_member(tmp_path, method, member):
    path = torch_zip(tmp_path / "w.pth", {"a": whole("Float", "0", np.zeros(4, np.float32))})
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            if name != member:
                archive.writestr(name, content)
        archive.writestr(member, contents.get(member, b"") + bytes(1 << 27))
    assert path.stat().st_size < 1 << 18
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=f"(up to {member} unpack to 134|is packed by another)"
        ):
            read_state_dict(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_a_packed_npz_that_unpacks_to_much_more_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(1 << 25, np.float32))
    with pytest.raises(ValueError, match=r"up to a.npy unpack to 134\d+ bytes"):
        read_state_dict(tmp_path / "w.npz")


@FILES
def test_many_views_of_one_storage_are_refused(tmp_path, write):
    storage = Storage("Float", "0", np.zeros(1 << 20, np.float32))
    state = {f"view{n}": tensor(storage, (1 << 20,), (1,)) for n in range(40)}
    with pytest.raises(ValueError, match=r"its arrays up to view\d\d have \d+ bytes, more than"):
        read_state_dict(write(tmp_path / "w.pth", state))


EXPLOSIVE = b"K\x01" + b"\x85" + b"2\x86" * 60
"""A tuple of (the one before) twice, 60 times: its hash would take 2**60 steps."""


@pytest.mark.parametrize(
    "pickled_bytes",
    [
        b"\x80\x02}" + EXPLOSIVE + b"K\x01s.",
        b"\x80\x02}(" + EXPLOSIVE + b"K\x01u.",
        b"\x80\x02(" + EXPLOSIVE + b"K\x01d.",
        b"\x80\x04\x8f(" + EXPLOSIVE + b"\x90.",
        b"\x80\x04(" + EXPLOSIVE + b"\x91.",
        b"\x80\x02ccollections\nOrderedDict\n]" + EXPLOSIVE + b"K\x01\x86a\x85R.",
    ],
    ids=["setitem", "setitems", "dict", "additems", "frozenset", "ordered dict"],
)
def test_keys_whose_hash_takes_time_that_doubles_per_level_are_refused(tmp_path, pickled_bytes):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickled_bytes)
    code = (
        "import pathlib; from jaxseg.zoo.files import read_state_dict\n"
        f"read_state_dict(pathlib.Path({str(path)!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "its pickle has a tuple as a key or in a set" in result.stderr

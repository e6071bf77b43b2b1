"""Hostile checkpoint files: nothing that they name is run, and small ones take little memory.

Terms as in `jaxseg.zoo.pickles`. The files are built by `tests.zoo.builders`.
"""

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from jaxseg.zoo.files import read_state_dict
from tests.conftest import ROOT
from tests.zoo.builders import (
    EXAMPLE,
    FILES,
    Call,
    Named,
    Storage,
    assert_same,
    plain_pickle,
    tensor,
    torch_legacy,
    torch_zip,
    whole,
)


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
        ("jaxseg.zoo.pickles", "read_state_dict"),
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


READ_ALL = """
import pathlib, resource, sys
from jaxseg.zoo.files import read_state_dict
resource.setrlimit(resource.RLIMIT_DATA, (1 << 31, 1 << 31))
for path in sys.argv[1:]:
    try:
        read_state_dict(pathlib.Path(path))
    except ValueError as error:
        print(error)
"""


def assert_refused_at_once(message, *paths):
    """Read files in a process of their own, with 2 GB of memory and a minute."""
    command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    errors = result.stdout.splitlines()
    for path, error in zip(paths, errors, strict=True):
        assert path.name in error
        assert message in error


EXPLOSIVE = b"K\x01" + b"\x85" + b"2\x86" * 60
"""A tuple of (the one before) twice, 60 times: its hash would take 2**60 steps."""


EXPLOSIVE_KEYS = {
    "setitem": b"\x80\x02}" + EXPLOSIVE + b"K\x01s.",
    "setitems": b"\x80\x02}(" + EXPLOSIVE + b"K\x01u.",
    "dict": b"\x80\x02(" + EXPLOSIVE + b"K\x01d.",
    "additems": b"\x80\x04\x8f(" + EXPLOSIVE + b"\x90.",
    "frozenset": b"\x80\x04(" + EXPLOSIVE + b"\x91.",
    "ordered_dict": b"\x80\x02ccollections\nOrderedDict\n]" + EXPLOSIVE + b"K\x01\x86a\x85R.",
}


def test_keys_whose_hash_takes_time_that_doubles_per_level_are_refused(tmp_path):
    paths = [tmp_path / f"{name}.pkl" for name in EXPLOSIVE_KEYS]
    for path, content in zip(paths, EXPLOSIVE_KEYS.values(), strict=True):
        path.write_bytes(content)
    assert_refused_at_once("its pickle has a tuple as a key or in a set", *paths)


MARK, TUPLE, MEMOIZE, REDUCE = b"(", b"t", b"\x94", b"R"
ENCODE, ORDERED_DICT = b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n"
NONES = MARK + b"N" * 300_000 + TUPLE
PAIRS = b"](" + b"".join(b"K\x00K\x00\x86" for _ in range(100_000)) + b"e\x85"


@pytest.mark.parametrize(
    ("called", "arguments"), [(ENCODE, NONES), (ORDERED_DICT, PAIRS)], ids=["call", "dict"]
)
def test_calls_that_copy_a_large_value_again_and_again_are_refused(tmp_path, called, arguments):
    content = b"\x80\x04" + called + MEMOIZE + arguments + MEMOIZE + b"]("
    path = tmp_path / "w.pkl"
    path.write_bytes(content + (b"h\x00h\x01" + REDUCE) * 20_000 + b"e.")
    assert path.stat().st_size < 1 << 20
    assert_refused_at_once(
        "its pickle makes or copies values, or reads storages, of more than", path
    )


def test_long_numbers_are_no_keys(tmp_path):
    path = plain_pickle(tmp_path / "w.pkl", {1 << 70: 1})
    with pytest.raises(ValueError, match="a number of more than 64 bits as a key"):
        read_state_dict(path)


@FILES
def test_storages_that_are_read_in_turn_are_refused(tmp_path, write):
    storages = [Storage("Float", key, np.zeros(1 << 20, np.float32)) for key in "01"]
    state = {f"{n}": tensor(storages[n % 2], (1,), (1,)) for n in range(40)}
    with pytest.raises(ValueError, match="makes or copies values, or reads storages, of more than"):
        read_state_dict(write(tmp_path / "w.pth", state))


@pytest.mark.parametrize("dimensions", [64, 65])
def test_shapes_have_at_most_the_dimensions_of_numpy(tmp_path, dimensions):
    storage = Storage("Float", "0", np.zeros(1, np.float32))
    state = {"a": tensor(storage, (1,) * dimensions, (1,) * dimensions)}
    path = torch_zip(tmp_path / "w.pth", state)
    if dimensions == 64:
        assert read_state_dict(path)["a"].ndim == 64
    else:
        with pytest.raises(ValueError, match="at most 64 numbers"):
            read_state_dict(path)


@pytest.mark.parametrize("named", [ORDERED_DICT, b"]"])
def test_a_pickle_sets_no_attributes_of_functions_and_lists(tmp_path, named):
    state = pickle.dumps((None, {"__defaults__": None}), 2)[2:-1]
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + named + state + pickle.BUILD + pickle.STOP)
    with pytest.raises(ValueError, match=r"its pickle sets attributes of a (method|list)"):
        read_state_dict(tmp_path / "w.pkl")


def test_a_pickle_refers_to_nothing_but_storages(tmp_path):
    long_id = MARK + b"N" * 9 + TUPLE
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + long_id + pickle.BINPERSID + pickle.STOP)
    with pytest.raises(ValueError, match="other than a storage"):
        read_state_dict(tmp_path / "w.pkl")


NONE = MARK + b"N" + TUPLE
DICT_OF_TEXTS = b"}(" + b"".join(b"X\x02\0\0\0%cxK\x00" % n for n in range(65, 91)) + b"u\x85"


@pytest.mark.parametrize(
    "opcodes",
    [
        MARK + ENCODE + NONE + b"o",
        MARK + b"N" + b"i_codecs\nencode\n",
        ENCODE + NONE + b"\x81",
        ENCODE + NONE + b"}\x92",
        ORDERED_DICT + DICT_OF_TEXTS + REDUCE,
    ],
    ids=["obj", "inst", "newobj", "newobj_ex", "dict of texts"],
)
def test_objects_are_made_by_calls_with_lists_alone(tmp_path, opcodes):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04" + opcodes + b".")
    with pytest.raises(ValueError, match=r"its pickle makes (objects other|a dict of a dict)"):
        read_state_dict(path)


def test_millions_of_empty_sets_are_refused(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04" + b"\x8f" * 3_000_000 + b".")
    assert_refused_at_once("its pickle makes or copies values", path)


def test_sizes_of_many_digits_are_refused(tmp_path):
    storage = Storage("Float", "0", np.zeros(1, np.float32))
    path = torch_zip(tmp_path / "w.pth", {"a": tensor(storage, (1 << 80_000,) * 63, (1,) * 63)})
    assert_refused_at_once("not whole numbers from 0 to 2**63 - 1", path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(1000, np.float32))
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry, tail = content[start:end], bytearray(content[end:])
    tail[8:12] = struct.pack("<HH", 3, 3)  # the number of members
    tail[12:16] = struct.pack("<I", 3 * len(entry))  # the size of their list
    path.write_bytes(content[:start] + 3 * entry + tail)
    with pytest.raises(ValueError, match=r"a\.npy has the same bytes as another member"):
        read_state_dict(path)


def test_views_copy_their_own_elements_alone(tmp_path):
    storage = Storage("Float", "0", np.zeros(1 << 22, np.float32))
    view = tensor(storage, (2,), ((1 << 22) - 1,))
    path = torch_zip(tmp_path / "w.pth", {f"{n}": view for n in range(100)})
    tracemalloc.start()
    try:
        assert len(read_state_dict(path)) == 100
        assert tracemalloc.get_traced_memory()[1] < 3 << 24  # the storage, once or twice
    finally:
        tracemalloc.stop()

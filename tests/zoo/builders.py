"""Checkpoint files built byte by byte, as torch and NumPy write them, out of stand-ins.

Terms as in `jaxseg.zoo.pickles`.
"""

import collections
import io
import pickle
import struct
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Named(NamedTuple):
    """Is pickled as a mention of a global, whatever that is."""

    module: str
    name: str


class Call(NamedTuple):
    """Is pickled as the call of a global, and state for what it returned unless None."""

    module: str
    name: str
    arguments: tuple
    state: object = None


class Storage(NamedTuple):
    kind: str
    key: str
    numbers: np.ndarray


class TorchPickler(pickle._Pickler):
    """Writes `Named`, `Call` and `Storage` as torch's own objects would come out.

    It is Python's slow pickler, since the fast one checks that globals can be imported.
    """

    def __init__(self, file, protocol=2, legacy=False):
        super().__init__(file, protocol)
        self.tail = (None,) if legacy else ()
        self.storages = {}

    def persistent_id(self, value):
        if isinstance(value, Storage):
            self.storages[value.key] = value.numbers
            storage_class = Named("torch", f"{value.kind}Storage")
            return ("storage", storage_class, value.key, "cpu", value.numbers.size, *self.tail)
        return None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(Named(value.module, value.name))
            self.save(value.arguments)
            self.write(pickle.REDUCE)
            if value.state is not None:
                self.save(value.state)
                self.write(pickle.BUILD)
        else:
            super().save(value, save_persistent_id)


def pickled(value, **options):
    file = io.BytesIO()
    pickler = TorchPickler(file, **options)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def plain_pickle(path, value, protocol=2):
    path.write_bytes(pickled(value, protocol=protocol)[0])
    return path


def torch_zip(path, value, big=False, **options):
    content, storages = pickled(value, **options)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "big" if big else "little")
        for key, numbers in storages.items():
            stored = numbers.byteswap() if big else numbers
            archive.writestr(f"archive/data/{key}", stored.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def torch_legacy(path, value, **options):
    content, storages = pickled(value, legacy=True, **options)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickled(part)[0] for part in (LEGACY_MAGIC, 1001, machine)]
    parts += [content, pickled(sorted(storages))[0]]
    for key in sorted(storages):
        parts += [struct.pack("<q", storages[key].size), storages[key].tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def tensor(storage, size, stride, offset=0):
    hooks = collections.OrderedDict()
    arguments = (storage, offset, size, stride, False, hooks)
    return Call("torch._utils", "_rebuild_tensor_v2", arguments)


def whole(kind, key, array):
    """A contiguous tensor with a storage of its own."""
    stride = tuple(step // array.itemsize for step in array.strides)
    return tensor(Storage(kind, key, array.ravel()), array.shape, stride)


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, err_msg=name, strict=True)


EXAMPLE = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.asarray([0.5, -2.0], np.float16),
    "steps": np.asarray(7, np.int64),
    "flags": np.asarray([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}
FILES = pytest.mark.parametrize("write", [torch_zip, torch_legacy])

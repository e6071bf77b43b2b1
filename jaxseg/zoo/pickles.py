"""Read the arrays of pickles from untrusted sources without executing anything.

Terms:
    storage     a flat array that holds the numbers of one or more torch tensors; a tensor is an
                offset, a size and strides (all in elements) over a storage
    call        a `_PickledCall`: a function or class that a pickle names, or a call of it

Unpickling executes any code that the file names. Here nothing is imported, not even torch: the few
names that arrays require become such calls, and all others are refused. The calls of the state dict
are not executed but read as data, with every number checked. Memory and time are bounded by the
file's size, as a few bytes of a pickle may refer to large values: all arrays, what calls copy,
storages that are read again, shapes, and the hashes of keys.
"""

import collections
import functools
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np

# torch's storage classes: kind and bytes as NumPy writes them, and bf2 for bfloat16.
# fmt: off
_STORAGE_DTYPES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bf2", "ComplexDouble": "c16",
    "ComplexFloat": "c8", "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1",
    "Bool": "b1", "Untyped": "u1",
}
# fmt: on
PLAIN_NUMBERS = re.compile("[<>=|](?:b1|[iu][1248]|f[248]|c8|c16)")
"""NumPy's codes for numbers: byte order, kind, bytes."""
_ARRAYS = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|"
    r"numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
)
_PARTS_OF_ARRAYS = re.compile(
    r"torch\.((cuda|storage)\.)?[A-Z]\w*Storage|torch\.(Size|device|bool|[a-z]+\d+)|"
    r"numpy\.(ndarray|dtype)|_codecs\.encode|(__builtin__|builtins)\.bytes"
)
_ITEM_BYTES = 100
"""Memory for each item of a list or dict, approximately."""
_OPCODE_BYTES = 50
"""Memory for the result of an opcode, at least; the empty set, of one byte, takes 220."""
_MAX_DIMENSIONS = 64  # NumPy's own


class _PickledCall:
    """A global that a pickle names, or a call of it, which is not executed."""

    def __init__(self, name: str, *arguments: Any):
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments: Any) -> "_PickledCall":
        return _PickledCall(self.name, *arguments)


class _Storage(NamedTuple):
    """A pickle's reference to the storage `key` of `numel` numbers in the file."""

    key: str
    numel: int
    code: str
    itemsize: int
    read: Callable[[str, int], bytes]


def _check_keys(keys: Iterable[Any]) -> None:
    """Raise ValueError unless all keys are text or whole numbers of 64 bits.

    To hash a tuple that holds an earlier one twice, and so on, takes time that doubles per level,
    and the hash of a long number is computed each time.
    """
    for key in keys:
        if not isinstance(key, str | int):
            raise ValueError(f"its pickle has a {type(key).__name__} as a key or in a set")
        if isinstance(key, int) and key.bit_length() > 64:
            raise ValueError("its pickle has a number of more than 64 bits as a key or in a set")


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return the function of an opcode, which counts the memory that its result may take."""

    def counted(self: Any) -> None:
        self._spend(_OPCODE_BYTES)
        load(self)

    return counted


_PythonUnpickler: Any = pickle._Unpickler  # its methods and attributes have no types


class _Unpickler(_PythonUnpickler):
    """Unpickle only containers, numbers, text, calls and storages; import nothing.

    It is pickle's Python version, since the other one cannot check keys before it hashes them.

    `latin1` keeps the bytes of Python 2's strings, in which NumPy stored its data. Each reference
    gets a new call, since a pickle can set attributes of the objects it receives.
    """

    def __init__(self, file: Any, read: Callable[[str, int], bytes], limit: int, order: str = "<"):
        super().__init__(file, encoding="latin1")
        # Tensors that share a storage mostly follow each other: keep the last storage alone.
        self.read_storage, self.order = functools.lru_cache(maxsize=1)(self._read), order
        self.storages: dict[str, _Storage] = {}
        self._read_bytes, self._limit, self._spent = read, limit, 0

    def _read(self, key: str, nbytes: int) -> bytes:
        self._spend(nbytes)
        return self._read_bytes(key, nbytes)

    def _spend(self, nbytes: int) -> None:
        """Count bytes that a few bytes of the pickle request; raise ValueError above the limit."""
        self._spent += nbytes
        if self._spent > self._limit:
            raise ValueError(
                f"its pickle makes or copies values, or reads storages, of more than {self._limit} "
                "bytes"
            )

    def find_class(self, module: str, name: str, /) -> Any:
        global_name = f"{module}.{name}"
        if global_name == "collections.OrderedDict":
            return self.ordered_dict
        if _ARRAYS.fullmatch(global_name) or _PARTS_OF_ARRAYS.fullmatch(global_name):
            return _PickledCall(global_name)
        raise ValueError(
            f"it names {global_name}, which is no array; nothing in the file was executed"
        )

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])  # since the mark
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        _check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()

    def load_reduce(self) -> None:
        arguments = self.stack[-1]
        if not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something with other than a tuple of arguments")
        self._spend(_ITEM_BYTES * len(arguments))
        super().load_reduce()

    def ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
        """Return an ordered dict, as the call of its class does."""
        if not isinstance(items, list | tuple):
            raise ValueError(f"its pickle makes a dict of a {type(items).__name__}")
        self._spend(_ITEM_BYTES * len(items))
        pairs = [(key, value) for key, value in items]
        _check_keys(key for key, _ in pairs)
        return collections.OrderedDict(pairs)

    def refuse_object(self) -> None:
        raise ValueError("its pickle makes objects other than by calls")

    def load_build(self) -> None:
        state, receiver = self.stack.pop(), self.stack[-1]
        if isinstance(receiver, _PickledCall):
            receiver.state = state
        elif not isinstance(receiver, dict):  # whose attributes, as torch's `_metadata`, are unused
            raise ValueError(f"its pickle sets attributes of a {type(receiver).__name__}")

    checked = _PythonUnpickler.dispatch | {
        pickle.OBJ[0]: refuse_object,
        pickle.INST[0]: refuse_object,
        pickle.NEWOBJ[0]: refuse_object,
        pickle.NEWOBJ_EX[0]: refuse_object,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }
    dispatch: ClassVar = {opcode: _counted(load) for opcode, load in checked.items()}

    def persistent_load(self, pid: Any, /) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise ValueError("its pickle refers to something other than a storage")
        kind, storage_class, key, _, numel, *view = pid  # `view`: parts of storages, torch < 0.4
        if kind != "storage" or not isinstance(key, str) or any(view):
            raise ValueError("its pickle refers to something other than a whole storage")
        code = _STORAGE_DTYPES.get(storage_class.name.split(".")[-1].removesuffix("Storage"))
        if code is None:
            raise ValueError(f"it holds a {storage_class.name}, which NumPy has no numbers for")
        size = int(code.lstrip("bcfiu"))
        storage = _Storage(key, _ints((numel,))[0], self.order + code, size, self.read_storage)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"its storage {key} is declared with two sizes or dtypes")
        return storage


def read_torch_zip(archive: zipfile.ZipFile, root: str, limit: int) -> dict[str, np.ndarray]:
    def read(key: str, nbytes: int) -> bytes:
        _check_storage(archive.getinfo(f"{root}data/{key}").file_size, nbytes)
        return archive.read(f"{root}data/{key}")

    marked = f"{root}byteorder" in archive.namelist()
    order = ">" if marked and archive.read(f"{root}byteorder") == b"big" else "<"
    with archive.open(f"{root}data.pkl") as file:
        return _state_dict(_Unpickler(file, read, limit, order).load(), limit)


def _check_storage(found: int, nbytes: int) -> None:
    if found != nbytes:
        raise ValueError(f"its storage should have {nbytes} bytes, not {found}")


def read_pickles(file: Any, limit: int) -> dict[str, np.ndarray]:
    """Read a plain pickle, or torch's older format.

    The latter is pickles of a magic number, a version, the writing machine, the object and the
    storages' keys; then for each key the count as int64 and the numbers, little-endian always.
    """
    starts: dict[str, int] = {}

    def read(key: str, nbytes: int) -> bytes:
        file.seek(starts[key])
        return file.read(nbytes)

    content = _Unpickler(file, read, limit).load()
    if content == 0x1950A86A20F9469CFC6C:  # torch's magic number
        for _ in ("version", "machine"):  # one version exists; torch ignores the machine too
            _Unpickler(file, read, limit).load()
        content = (unpickler := _Unpickler(file, read, limit)).load()
        _check_keys(keys := _Unpickler(file, read, limit).load())
        for key in keys:
            storage = unpickler.storages[key]
            if int.from_bytes(file.read(8), "little") != storage.numel:
                raise ValueError(f"its storage {key} has another size than its pickle declares")
            starts[key] = file.tell()
            file.seek(storage.numel * storage.itemsize, os.SEEK_CUR)
    return _state_dict(content, limit)


def _state_dict(content: Any, limit: int) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise ValueError("it is a pickle, but not of a dict")
    # Nested dicts first: a training state beside them may hold arrays of its own.
    for found in (content.get("state_dict"), content.get("model"), content):
        if isinstance(found, dict) and any(map(_is_array, found.values())):
            break
    else:
        keys = ", ".join(sorted(map(repr, content))) or "nothing"
        raise ValueError(
            f"it holds no arrays at its top, in state_dict or in model; its keys are {keys}"
        )
    state, total = {}, 0
    for name, value in found.items():
        if isinstance(name, str) and name.startswith("__"):
            continue
        if not isinstance(name, str) or isinstance(value, dict | list | tuple | set):
            raise ValueError(f"its state dict is not flat: {name!r} is a {type(value).__name__}")
        if _is_array(value):
            try:
                state[name] = _to_array(value)
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from error
            total += state[name].nbytes
            if total > limit:  # many views of one storage, or of packed numbers
                raise ValueError(f"its arrays up to {name} have {total} bytes, more than {limit}")
    return state


def _to_array(call: Any) -> np.ndarray:
    name = call.name.split(".")[-1]
    if name == "_rebuild_parameter":
        return _to_array(call.arguments[0])
    if name.startswith("_rebuild_tensor"):
        return _tensor(*call.arguments[:4])
    layout: Any = "C"
    if name == "scalar":
        (dtype, data), shape = call.arguments, ()
    elif name == "_frombuffer":
        data, dtype, shape, layout = call.arguments
    else:
        shape, dtype, is_fortran, data = call.state[-4:]
        layout = "F" if is_fortran else "C"
    code = dtype.state[1] + dtype.arguments[0]
    if dtype.name != "numpy.dtype" or not PLAIN_NUMBERS.fullmatch(code):
        raise ValueError(f"its dtype is {code}, which is not plain numbers")
    return _numbers(_bytes(data), code).reshape(_ints(shape), order=layout)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    (offset,), size, stride = _ints((offset,)), _ints(size), _ints(stride)
    if not isinstance(storage, _Storage):
        raise ValueError("its pickle describes a tensor without a storage")
    key, numel, code, itemsize, read = storage
    if math.prod(size) == 0:
        return _numbers(b"", code).reshape(size)
    end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    # More elements than the storage has: a few bytes could allocate all memory.
    if end > numel or math.prod(size) > numel:
        raise ValueError(f"{size=} {stride=} {offset=} reach outside its storage of {numel}")
    data = read(key, numel * itemsize)
    _check_storage(len(data), numel * itemsize)
    # A view of the storage, of which only the tensor's own elements are copied.
    stored = np.frombuffer(data, _stored(code), count=end - offset, offset=offset * itemsize)
    strides = [itemsize * s for s in stride]
    return _native(np.lib.stride_tricks.as_strided(stored, size, strides), code)


def _numbers(data: bytes, code: str) -> np.ndarray:
    """Return bytes as a new flat array in native byte order."""
    return _native(np.frombuffer(data, _stored(code)), code)


def _stored(code: str) -> str:
    """Return NumPy's code of stored numbers; bfloat16 is the upper half of a float32."""
    return f"{code[0]}u2" if code[1:] == "bf2" else code


def _native(stored: np.ndarray, code: str) -> np.ndarray:
    """Return stored numbers as a new array in native byte order, bfloat16 as float32."""
    if code[1:] == "bf2":
        return np.asarray(stored.astype(np.uint32, order="C") << 16).view(np.float32)
    return stored.astype(code[1:], order="C")


def _bytes(value: Any) -> bytes:
    """Return the bytes of NumPy's pickles: bytes, Python 2's text, or text to be encoded."""
    if isinstance(value, _PickledCall):
        text = value.arguments[:1]
        if value.arguments in ((), (*text, "latin1")):
            value = "".join(text)
    return value.encode("latin1") if isinstance(value, str) else memoryview(value).tobytes()


def _ints(value: Any) -> tuple[int, ...]:
    if isinstance(value, _PickledCall) and value.name == "torch.Size":
        (value,) = value.arguments
    if not isinstance(value, tuple) or len(value) > _MAX_DIMENSIONS:
        raise ValueError(f"a shape or strides are not a tuple of at most {_MAX_DIMENSIONS} numbers")
    if not all(isinstance(n, int) and 0 <= n < 1 << 63 for n in value):
        raise ValueError("a shape, strides or a count are not whole numbers from 0 to 2**63 - 1")
    return value


def _is_array(value: Any) -> bool:
    return isinstance(value, _PickledCall) and _ARRAYS.fullmatch(value.name) is not None

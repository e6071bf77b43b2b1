"""Read checkpoint files from untrusted sources as named NumPy arrays; write safetensors.

A state dict is a flat `{name: array}`, the form in which weights are published. Nothing in a file
is executed (`jaxseg.zoo.pickles`), and its size bounds what its packed members may unpack to.

Only the functions that read or write safetensors need that package, so that the configs of the
published models can be had without it.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxseg.files import atomic_write
from jaxseg.zoo.pickles import PLAIN_NUMBERS, read_pickles, read_torch_zip

_READABLE = "NumPy .npz, .safetensors, PyTorch .pth of a state dict, .pkl of NumPy arrays"

_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_EXPANSION, _SMALL = 16, 1 << 26


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint by name, in their own layout and in native byte order.

    Reads `.npz`, `.safetensors`, PyTorch's `.pth` (zip, or a stream of pickles before 1.6) and
    pickles of NumPy arrays (Detectron2's `.pkl`), recognised by content. The arrays are at the top
    level, or under `state_dict` or `model`. bfloat16 becomes float32, half float16; a prefix
    `module.` of every name (torch's DataParallel) is removed; text and Python numbers are skipped.

    Raises FileNotFoundError, or ValueError if the file has another format, is corrupt, would
    execute anything, holds no arrays in these places, or holds more than 16 times its size (above
    64 MB).
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    with path.open("rb") as file:
        try:
            state = _read(file, path)
            if not state:
                raise ValueError("it holds no arrays of numbers")
        except Exception as error:  # a corrupt file makes the parsers raise nearly anything
            what = str(error) if isinstance(error, ValueError) else f"it is corrupt ({error!r})"
            raise ValueError(f"{path} cannot be read: {what}. Readable: {_READABLE}.") from error
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): array for name, array in state.items()}
    return state


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """Return the texts that a `.safetensors` file holds beside its arrays; {} for other formats.

    Raises FileNotFoundError, or ValueError if the file is corrupt.
    """
    import safetensors

    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    with path.open("rb") as file:
        if not _is_safetensors(file.read(9)):
            return {}
    try:
        with safetensors.safe_open(path, framework="np") as archive:
            return archive.metadata() or {}
    except Exception as error:  # as in read_state_dict
        raise ValueError(f"{path} cannot be read: it is corrupt ({error!r})") from error


def write_safetensors(
    path: pathlib.Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named arrays, and texts beside them, as a `.safetensors` file, atomically.

    Raises ValueError for dtypes that the format lacks and where the file cannot be written.
    """
    import safetensors.numpy

    # The writer copies an array's memory as it is, and the format is in C order.
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        with atomic_write(path) as partial:
            partial.touch()
            mode = partial.stat().st_mode
            safetensors.numpy.save_file(dense, partial, dict(metadata or {}))
            partial.chmod(mode)  # the writer lets only the owner read the file
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def _read(file: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    limit = max(_SMALL, _MAX_EXPANSION * os.fstat(file.fileno()).st_size)
    start = file.read(9)
    file.seek(0)
    if start[:2] == b"PK":
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, limit)
            for name in archive.namelist():
                if re.fullmatch(r"([^/]+/)?data\.pkl", name):
                    return read_torch_zip(archive, name.removesuffix("data.pkl"), limit)
        with np.load(path, allow_pickle=False) as arrays:
            return _plain_arrays(arrays)
    if _is_safetensors(start):
        import safetensors.numpy

        return _plain_arrays(safetensors.numpy.load_file(path))
    if start[:1] in (b"\x80", b"(", b"}", b"c"):  # protocol 2 and later; earlier ones of a dict
        return read_pickles(file, limit)
    raise ValueError(f"its format is unknown (it starts with {start!r})")


def _is_safetensors(start: bytes) -> bool:
    """Return whether a file with these 9 bytes at its start is a `.safetensors` file."""
    return start[4:] == b"\0\0\0\0{"  # after the header's length, which is never as long as 4 GB


def _check_members(archive: zipfile.ZipFile, limit: int) -> None:
    """Raise ValueError if the members of an archive unpack to more than `limit` bytes."""
    total, starts = 0, set()
    for member in archive.infolist():
        total += member.file_size
        if member.header_offset in starts:
            raise ValueError(f"{member.filename} has the same bytes as another member")
        starts.add(member.header_offset)
        if member.compress_type not in _ZIP_METHODS:
            raise ValueError(f"{member.filename} is packed by another method than deflate")
        if total > limit:
            raise ValueError(
                f"its members up to {member.filename} unpack to {total} bytes, more than {limit}; "
                "nothing was unpacked"
            )


def _plain_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    plain = {}
    for name, array in arrays.items():
        if array.dtype == ml_dtypes.bfloat16:
            plain[name] = array.astype(np.float32)
        elif PLAIN_NUMBERS.fullmatch(array.dtype.str):
            plain[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
        elif array.dtype.kind not in "US" and not name.startswith("__"):
            raise ValueError(f"{name} is of dtype {array.dtype}, which is not plain numbers")
    return plain

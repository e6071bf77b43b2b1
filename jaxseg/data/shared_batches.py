"""The arrays that Grain's workers pass to the training process in shared memory."""

import mmap
import os

import numpy as np

_MIN_VIEW_BYTES = 1 << 20
"""Arrays of at least this size are not copied."""


def take_array(array: np.ndarray) -> np.ndarray:
    """Return an array from a worker as an ordinary one; an array of this process as it is.

    A large array is not copied: the result is a mapping of the same memory, which is free once the
    last array or JAX buffer that refers to it is gone, however the process ends. It may be given to
    JAX, which refers to an array until it has copied it to the device, or, on a CPU, until the
    computation on the array itself is done. Grain's own array would unmap the memory by Python
    code, which fails at the end of a program.
    """
    segment = getattr(array, "shm", None)
    if segment is None:
        return array
    if array.nbytes >= _MIN_VIEW_BYTES:
        try:
            descriptor = os.open(f"/dev/shm/{segment.name}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # not Linux
            return np.array(array)
        try:
            memory = mmap.mmap(descriptor, array.nbytes)
        finally:
            os.close(descriptor)
        return np.ndarray(array.shape, array.dtype, buffer=memory)
    return np.array(array)

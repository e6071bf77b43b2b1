"""A convolution by its definition."""

import itertools

import numpy as np


def convolve(x, kernel, strides, pads, groups=1):
    """Convolve `[B, H, W, C]` with `[kh, kw, C / groups, D]`, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    height, width, inputs, outputs = kernel.shape
    rows = (x.shape[1] - height) // strides[0] + 1
    columns = (x.shape[2] - width) // strides[1] + 1
    result = np.zeros((len(x), rows, columns, outputs))
    for b, r, c, d in itertools.product(range(len(x)), range(rows), range(columns), range(outputs)):
        y, left = r * strides[0], c * strides[1]
        first = d // (outputs // groups) * inputs
        window = x[b, y : y + height, left : left + width, first : first + inputs]
        result[b, r, c, d] = (window * kernel[..., d]).sum()
    return result

"""Bilinear weights along one axis, for NumPy arrays (host) and JAX arrays (device) alike.

Bilinear interpolation is separable: a weight matrix for each axis, then two matrix products.

Terms:
    N         boxes
    cells     cells of a mask along the axis
    P         pixels of the image along the axis, of which the weights are needed
    position  a point of the axis, counted in cells from the centre of the first one
"""

from typing import Literal

import numpy as np
from jaxtyping import Array, Float

HostOrDevice = np.ndarray | Array

Paste = Literal["grid_sample", "integer"]
"""The way that a mask is laid over its box.

`grid_sample` samples the mask at pixel centres, with zeros around it, as Detectron2's and
MMDetection's `grid_sample` do. `integer` pads the mask with a border of zeros, grows the box by one
cell on every side, cuts it to whole pixels and resizes the mask to it, as torchvision's
`paste_masks_in_image` does.
"""

_NO_CELL = -2.0
"""A position at which every cell's weight is 0."""


def bilinear_weights(
    position: Float[HostOrDevice, "*shape"], size: int
) -> Float[HostOrDevice, "*shape size"]:
    """Return the weight that each of `size` cells has at each position.

    A cell's weight is 1 at its centre and falls to 0 at its neighbours' centres, so beyond the
    outer cells' centres the weights fade to 0: clip the positions to repeat these cells instead.

    >>> bilinear_weights(np.asarray([0.0, 1.25, 2.5]), 3)
    array([[1.  , 0.  , 0.  ],
           [0.  , 0.75, 0.25],
           [0.  , 0.  , 0.5 ]])
    """
    xp = position.__array_namespace__()
    cell = xp.arange(size, dtype=position.dtype).reshape((1,) * position.ndim + (size,))
    return xp.maximum(1 - xp.abs(position[..., None] - cell), 0)


def paste_span(
    start: Float[HostOrDevice, "*N"], end: Float[HostOrDevice, "*N"], cells: int, paste: Paste
) -> tuple[Float[HostOrDevice, "*N"], Float[HostOrDevice, "*N"]]:
    """Return the first pixel that each pasted mask can touch, and the one after the last.

    Both are whole numbers in the dtype of `start`, and may lie outside the image. With `integer`
    there is at least one pixel; with `grid_sample` the span of a box without length is empty or
    without weight. Raises ValueError for another `paste`.
    """
    xp = start.__array_namespace__()
    if paste == "grid_sample":
        margin = 0.5 * (end - start) / cells
        return xp.floor(start - margin), xp.ceil(end + margin)
    if paste != "integer":
        raise ValueError(f"paste must be 'grid_sample' or 'integer', not {paste!r}")
    center, half = (start + end) * 0.5, (end - start) * 0.5 * ((cells + 2) / cells)
    first = xp.trunc(center - half)
    return first, xp.maximum(xp.trunc(center + half), first) + 1


def paste_position(
    start: Float[HostOrDevice, "*#shape"],
    end: Float[HostOrDevice, "*#shape"],
    cells: int,
    pixels: Float[HostOrDevice, "*#shape"],
    paste: Paste,
) -> Float[HostOrDevice, "*shape"]:
    """Return the position of each pixel's centre in the mask; -2 for pixels that it leaves out.

    The mask is laid over a box from `start` to `end`, in pixels; `pixels` are whole numbers of
    the same dtype.
    """
    xp = start.__array_namespace__()
    if paste == "grid_sample":
        length = end - start
        covered = length > 0
        scale = cells / xp.where(covered, length, 1)
        position = ((pixels + 0.5) - start) * scale - 0.5
    else:
        first, stop = paste_span(start, end, cells, paste)
        offset = pixels - first
        covered = (offset >= 0) & (offset < stop - first)
        position = (offset + 0.5) * ((cells + 2) / (stop - first)) - 0.5
        # The border's cells are 0 and `cells + 1`; they hold zeros and get no weights.
        position = xp.clip(position, 0, cells + 1) - 1
    return xp.where(covered, position, _NO_CELL)


def paste_weights(
    start: Float[HostOrDevice, " N"],
    end: Float[HostOrDevice, " N"],
    cells: int,
    pixels: Float[HostOrDevice, " P"],
    paste: Paste,
) -> Float[HostOrDevice, "N P cells"]:
    """Return the weights of a mask's cells in the given pixels of one axis.

    The arguments are those of `paste_position`, for every mask and every pixel.
    """
    position = paste_position(start[:, None], end[:, None], cells, pixels[None], paste)  # [N, P]
    return bilinear_weights(position, cells)

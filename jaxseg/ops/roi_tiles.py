"""RoIAlign by products of matrices, for TPUs.

A TPU reads and adds rows of several cells in hardly more time than single cells, and multiplies
matrices fast. So the part of a map that a RoI reads is covered by tiles. The RoI's bins are the
sum, over its tiles, of a matrix of weights times the tile's cells; the gradient of the cells is
the transposed product. A loop takes `CHUNK` tiles at a time, and as many chunks as the RoIs need:
the time depends on their sizes in cells, and not on the number of samples.

Terms, beside those of `jaxseg.ops.roi_align` and `roi_taps`:
    block  `BLOCK` neighbouring cells of a row, the first at a multiple of it, with all channels
    tile   `TILE_ROWS` rows of `TILE_BLOCKS` blocks
    T      tiles of a chunk

A tile has cells that its RoI does not read. Their weights are 0, so they must be finite.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxseg.ops.batching import one_by_one
from jaxseg.ops.roi_taps import Maps, Taps

BLOCK = 8
TILE_ROWS, TILE_BLOCKS = 16, 3
CHUNK = 256

Shape = tuple[int, ...]


class RoITiles(NamedTuple):
    """The tiles of each RoI, row by row; a RoI without a sample in its map has none."""

    first_y: Int[Array, " R"]
    """Row of the map."""
    first_block: Int[Array, " R"]
    """In a row of the map."""
    across: Int[Array, " R"]
    """Tiles beside each other."""
    num_tiles: Int[Array, " R"]
    end: Int[Array, " R"]
    """Number of the tiles of this RoI and of all before it."""


class Chunk(NamedTuple):
    """Consecutive tiles of all RoIs. Those after the last have no weight."""

    roi: Int[Array, " T"]
    blocks: Int[Array, " _"]
    """The blocks of each tile, `T * TILE_ROWS * TILE_BLOCKS`, in the list of all maps' blocks."""
    weights: Float[Array, "T bins cells"]


def pool_tiles(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps
) -> Float[Array, "R oh ow C"]:
    """Return the bins of each RoI, from the map `maps[level]`, summed in float32.

    `jax.vmap` computes one image after the other.
    """
    shapes = [x.shape for x in maps]
    table = jnp.concatenate([_to_blocks(x) for x in maps])
    channels, precision = shapes[0][2], _precision(table.dtype)
    bins = (taps_y.cell.shape[1], taps_x.cell.shape[1])

    def pool(table: Array, level: Array, taps_y: Taps, taps_x: Taps) -> Array:
        def add(chunk: Chunk, total: Array) -> Array:
            cells = table.at[chunk.blocks].get(mode="promise_in_bounds")
            cells = cells.reshape(len(chunk.roi), -1, channels).astype(jnp.float32)
            product = jnp.einsum("tbc,tcd->tbd", chunk.weights, cells, precision=precision)
            rows = _rows_of_bins(chunk.roi, bins[0])
            product = product.reshape(len(rows), -1)
            return total.at[rows].add(product, mode="promise_in_bounds")

        total = jnp.zeros((len(level) * bins[0], bins[1] * channels), jnp.float32)
        return _over_chunks(add, total, shapes, level, taps_y, taps_x)

    pooled = one_by_one(pool)(table, level, taps_y, taps_x)
    return pooled.reshape(len(level), *bins, channels)


def pool_tiles_gradient(
    maps: Maps,
    level: Int[Array, " R"],
    taps_y: Taps,
    taps_x: Taps,
    gradient: Float[Array, "R oh ow C"],
) -> list[Float[Array, "_ _ C"]]:
    """Return the gradient of each map, given that of the bins; summed in float32."""
    shapes, dtype = [x.shape for x in maps], maps[0].dtype
    channels, precision = shapes[0][2], _precision(dtype)
    ends = np.cumsum([height * _blocks_in_row(width) for height, width, _ in shapes])

    def pull(gradient: Array, level: Array, taps_y: Taps, taps_x: Taps) -> Array:
        def add(chunk: Chunk, total: Array) -> Array:
            rows = _rows_of_bins(chunk.roi, taps_y.cell.shape[1])
            bins = gradient.at[rows].get(mode="promise_in_bounds")
            bins = bins.reshape(len(chunk.roi), -1, channels)
            cells = jnp.einsum("tbc,tbd->tcd", chunk.weights, bins, precision=precision)
            cells = cells.reshape(-1, BLOCK * channels)
            return total.at[chunk.blocks].add(cells, mode="promise_in_bounds")

        total = jnp.zeros((ends[-1], BLOCK * channels), jnp.float32)
        return _over_chunks(add, total, shapes, level, taps_y, taps_x).astype(dtype)

    rows = gradient.reshape(gradient.shape[0] * gradient.shape[1], -1)
    table = one_by_one(pull)(rows, level, taps_y, taps_x)
    parts = jnp.split(table, ends[:-1])
    return [_from_blocks(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _over_chunks(
    add: Callable[[Chunk, Array], Array],
    total: Array,
    shapes: Sequence[Shape],
    level: Int[Array, " R"],
    taps_y: Taps,
    taps_x: Taps,
) -> Array:
    """Return `total` after `total = add(chunk, total)` for all chunks of tiles."""
    if not len(level):
        return total
    tiles, size = _tiles_of_rois(taps_y, taps_x), min(CHUNK, len(level))
    chunks = -(-tiles.end[-1] // size)

    def body(number: Array, total: Array) -> Array:
        return add(_make_chunk(number, size, tiles, shapes, level, taps_y, taps_x), total)

    return lax.fori_loop(0, chunks, body, total)


def _tiles_of_rois(taps_y: Taps, taps_x: Taps) -> RoITiles:
    def span(taps: Taps) -> tuple[Array, Array]:
        """Return each RoI's first and last cell with a weight; 0 and -1 if it has none."""
        used = taps.weight > 0
        last = jnp.where(used, taps.cell, -1).max((1, 2, 3))
        first = jnp.where(used, taps.cell, last[:, None, None, None]).min((1, 2, 3))
        return jnp.maximum(first, 0), last

    first_y, last_y = span(taps_y)
    first_x, last_x = span(taps_x)
    first_block = first_x // BLOCK
    down = (last_y - first_y) // TILE_ROWS + 1
    across = (last_x // BLOCK - first_block) // TILE_BLOCKS + 1
    num_tiles = jnp.where((last_y >= 0) & (last_x >= 0), down * across, 0)
    return RoITiles(first_y, first_block, across, num_tiles, jnp.cumsum(num_tiles))


def _make_chunk(
    number: Int[Array, ""],
    size: int,
    tiles: RoITiles,
    shapes: Sequence[Shape],
    level: Int[Array, " R"],
    taps_y: Taps,
    taps_x: Taps,
) -> Chunk:
    """Return `size` tiles from number `number * size` on."""
    index = number * size + jnp.arange(size)
    roi = jnp.searchsorted(tiles.end, index, side="right", method="compare_all")
    exists = roi < len(level)
    roi = jnp.minimum(roi, len(level) - 1)
    of_roi = index - (tiles.end - tiles.num_tiles)[roi]  # number of the tile in its RoI
    y = tiles.first_y[roi] + of_roi // tiles.across[roi] * TILE_ROWS  # [T]
    block = tiles.first_block[roi] + of_roi % tiles.across[roi] * TILE_BLOCKS

    # Block x of row y is first + y * in_row + x in the list of all maps' blocks.
    in_row = np.asarray([_blocks_in_row(width) for _, width, _ in shapes])
    ends = np.cumsum([height * n for (height, *_), n in zip(shapes, in_row, strict=True)])
    first = jnp.asarray(ends - np.diff(ends, prepend=0))[level[roi]]
    row = y[:, None] + jnp.arange(TILE_ROWS)[None]  # [T, rows]
    row = first[:, None] + row * jnp.asarray(in_row)[level[roi]][:, None]
    blocks = row[:, :, None] + block[:, None, None] + jnp.arange(TILE_BLOCKS)[None, None]
    # Blocks beyond the list or the row have no weight.
    blocks = jnp.clip(blocks, 0, ends[-1] - 1).reshape(-1)

    weights_y = _weights(taps_y, roi, y, TILE_ROWS)
    weights_y = jnp.where(exists[:, None, None], weights_y, 0)
    weights_x = _weights(taps_x, roi, block * BLOCK, TILE_BLOCKS * BLOCK)
    weights = weights_y[:, :, None, :, None] * weights_x[:, None, :, None, :]
    bins, cells = weights_y.shape[1] * weights_x.shape[1], TILE_ROWS * TILE_BLOCKS * BLOCK
    return Chunk(roi, blocks, weights.reshape(size, bins, cells))


def _rows_of_bins(roi: Int[Array, " T"], height: int) -> Int[Array, " _"]:
    """Return the rows of bins of each RoI, in the list of all RoIs' rows.

    A TPU gathers and scatters rows of up to about 4,096 values; longer ones it takes in a loop.
    """
    return (roi[:, None] * height + jnp.arange(height)[None]).reshape(-1)


def _weights(
    taps: Taps, roi: Int[Array, " T"], first: Int[Array, " T"], cells: int
) -> Float[Array, "T bins cells"]:
    """Return the weight of each of `cells` cells of an axis, from `first` on, in each bin."""
    cell = taps.cell[roi].reshape(len(roi), taps.cell.shape[1], -1)  # [T, bins, 2 S]
    weight = taps.weight[roi].reshape(cell.shape)
    offset = cell - first[:, None, None]
    is_cell = offset[..., None] == jnp.arange(cells)[None, None, None]
    return jnp.where(is_cell, weight[..., None], 0).sum(2)


def _blocks_in_row(width: int) -> int:
    return -(-width // BLOCK)


def _to_blocks(features: Float[Array, "H W C"]) -> Float[Array, "blocks _"]:
    height, width, _ = features.shape
    padding = _blocks_in_row(width) * BLOCK - width
    padded = jnp.pad(features, ((0, 0), (0, padding), (0, 0)))
    return padded.reshape(height * _blocks_in_row(width), -1)


def _from_blocks(blocks: Float[Array, "blocks _"], shape: Shape) -> Float[Array, "H W C"]:
    height, width, channels = shape
    return blocks.reshape(height, -1, channels)[:, :width]


def _precision(dtype: jnp.dtype) -> lax.Precision:
    """Return the products' precision: three passes in bfloat16 keep 16 bits, six all of float32."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.HIGH

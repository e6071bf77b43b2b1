"""RoIAlign by products of matrices, for TPUs.

A TPU gathers and adds rows of several cells in hardly more time than single cells (as its compiler
predicts, `docs/benchmarks.md`), and multiplies matrices fast. So the part of a map that a RoI reads
is covered by tiles. The RoI's bins are the sum, over its tiles, of a matrix of weights times the
tile's cells; the gradient of the cells is the transposed product. A loop computes `CHUNK` tiles in
each iteration, and runs as long as the RoIs of all images need: the time depends on the sizes of
the RoIs in cells, not on the number of samples.

Terms, beside those of `jaxseg.ops.roi_align` and `roi_taps`:
    block    `BLOCK` neighbouring cells of a row with all channels; the first cell's column is a
             multiple of `BLOCK`
    K        blocks of all maps, in one list
    tile     `TILE_ROWS` rows of `TILE_BLOCKS` blocks
    T        tiles of a chunk

A tile also has cells that its RoI does not read. Their weight is 0, and 0 times NaN is NaN: they
must be finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxseg.ops.batching import broadcast_images
from jaxseg.ops.roi_taps import Maps, Taps

BLOCK = 8
TILE_ROWS, TILE_BLOCKS = 16, 3
CHUNK = 256


class RoITaps(NamedTuple):
    """The taps of each RoI on both axes, and where its map is in the list of all maps' blocks."""

    map_start: Int[Array, " R"]
    """The first block of the RoI's map."""
    blocks_per_row: Int[Array, " R"]
    """Blocks in a row of the RoI's map."""
    cell_y: Int[Array, "R oh taps"]
    weight_y: Float[Array, "R oh taps"]
    cell_x: Int[Array, "R ow taps"]
    weight_x: Float[Array, "R ow taps"]


class TileGrids(NamedTuple):
    """The grid of tiles over what each RoI reads.

    A RoI without a sample in its map, or whose box is not finite, has no tile: its bins are 0.
    """

    first_row: Int[Array, " R"]
    last_row: Int[Array, " R"]
    """The first and the last row of its map that the RoI reads."""
    first_block: Int[Array, " R"]
    """The first block that the RoI reads of a row of its map."""
    columns: Int[Array, " R"]
    """Tiles in a row of the grid, at least 1."""
    num_tiles: Int[Array, " R"]
    end: Int[Array, " R"]
    """Number of tiles of this RoI and all before it."""


class Chunk(NamedTuple):
    """Consecutive tiles: of one RoI after the other, and row by row of its grid.

    In the last chunk, those beyond the last RoI's tiles have no weight.
    """

    roi: Int[Array, " T"]
    blocks: Int[Array, " _"]
    """The blocks of each tile, `T * TILE_ROWS * TILE_BLOCKS`, in the list of all maps' blocks."""
    weights: Float[Array, "T bins cells"]


def pool_tiles(
    maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps
) -> Float[Array, "R oh ow C"]:
    """Return the bins of each RoI, from the map `maps[level]`, summed in float32.

    Their dtype is that of the weights, as with `pool_taps`. Under `jax.vmap`, one loop pools the
    RoIs of all images.
    """
    blocks = jnp.concatenate([_to_blocks(x) for x in maps])
    pooled = _pool(blocks, _make_roi_taps(maps, level, taps_y, taps_x))
    return pooled.astype(taps_y.weight.dtype)


def pool_tiles_gradient(
    maps: Maps,
    level: Int[Array, " R"],
    taps_y: Taps,
    taps_x: Taps,
    gradient: Float[Array, "R oh ow C"],
) -> list[Float[Array, "_ _ C"]]:
    """Return the gradient of each map, given that of the bins; summed in float32."""
    taps, ends = _make_roi_taps(maps, level, taps_y, taps_x), _ends(maps)
    of_bins = gradient.astype(jnp.float32)
    blocks = _blocks_gradient(int(ends[-1]), maps[0].dtype)(of_bins, taps)
    parts = jnp.split(blocks, ends[:-1])
    return [
        _from_blocks(part, x.shape).astype(x.dtype) for part, x in zip(parts, maps, strict=True)
    ]


def _make_roi_taps(maps: Maps, level: Int[Array, " R"], taps_y: Taps, taps_x: Taps) -> RoITaps:
    map_starts = np.concatenate([[0], _ends(maps)[:-1]])
    blocks_per_row = np.asarray([_blocks_per_row(x.shape[1]) for x in maps])
    weight_y, weight_x = (taps.weight.astype(jnp.float32) for taps in (taps_y, taps_x))
    cells_and_weights = (taps_y.cell, weight_y, taps_x.cell, weight_x)
    return RoITaps(
        jnp.asarray(map_starts)[level],
        jnp.asarray(blocks_per_row)[level],
        *(x.reshape(*x.shape[:2], 2 * x.shape[2]) for x in cells_and_weights),
    )


@jax.custom_batching.custom_vmap
def _pool(blocks: Float[Array, "K _"], taps: RoITaps) -> Float[Array, "R oh ow C"]:
    height, width = taps.cell_y.shape[1], taps.cell_x.shape[1]
    channels, precision = blocks.shape[1] // BLOCK, _precision(blocks.dtype)

    def add(chunk: Chunk, total: Array) -> Array:
        cells = blocks.at[chunk.blocks].get(mode="promise_in_bounds")
        cells = cells.reshape(len(chunk.roi), -1, channels).astype(jnp.float32)
        bins = jnp.einsum("tbc,tcd->tbd", chunk.weights, cells, precision=precision)
        rows = _rows_of_bins(chunk.roi, height)
        return total.at[rows].add(bins.reshape(len(rows), -1), mode="promise_in_bounds")

    total = jnp.zeros((len(taps.map_start) * height, width * channels), jnp.float32)
    total = _over_chunks(add, total, taps)
    return total.reshape(-1, height, width, channels)


@_pool.def_vmap
def _pool_images(
    images: int, is_batched: Any, blocks: Float[Array, "B K _"], taps: RoITaps
) -> tuple[Array, bool]:
    blocks, taps = broadcast_images(images, is_batched, (blocks, taps))
    merged = blocks.reshape(-1, blocks.shape[2])
    return _split_images(images, _pool(merged, _merge_images(taps, blocks.shape[1]))), True


def _blocks_gradient(num_blocks: int, dtype: jnp.dtype) -> Callable[[Array, RoITaps], Array]:
    """Return the function from the gradient of the bins to that of the `num_blocks` blocks.

    `dtype` is that of the maps; the gradient of the blocks is float32.
    """

    @jax.custom_batching.custom_vmap
    def pull(gradient: Float[Array, "R oh ow C"], taps: RoITaps) -> Float[Array, "K _"]:
        count, height, width, channels = gradient.shape
        rows_of_bins = gradient.reshape(count * height, width * channels)
        precision = _precision(dtype)

        def add(chunk: Chunk, total: Array) -> Array:
            rows = _rows_of_bins(chunk.roi, height)
            bins = rows_of_bins.at[rows].get(mode="promise_in_bounds")
            bins = bins.reshape(len(chunk.roi), -1, channels)
            cells = jnp.einsum("tbc,tbd->tcd", chunk.weights, bins, precision=precision)
            cells = cells.reshape(-1, BLOCK * channels)
            return total.at[chunk.blocks].add(cells, mode="promise_in_bounds")

        total = jnp.zeros((num_blocks, BLOCK * channels), jnp.float32)
        return _over_chunks(add, total, taps)

    @pull.def_vmap
    def pull_images(
        images: int, is_batched: Any, gradient: Float[Array, "B R oh ow C"], taps: RoITaps
    ) -> tuple[Array, bool]:
        gradient, taps = broadcast_images(images, is_batched, (gradient, taps))
        merged = gradient.reshape(-1, *gradient.shape[2:])
        blocks = _blocks_gradient(images * num_blocks, dtype)(
            merged, _merge_images(taps, num_blocks)
        )
        return _split_images(images, blocks), True

    return pull


def _merge_images(taps: RoITaps, num_blocks: int) -> RoITaps:
    """Return the RoIs of several images, of `num_blocks` blocks each, as those of one."""
    first = num_blocks * jnp.arange(len(taps.map_start))  # block of each image
    taps = taps._replace(map_start=taps.map_start + first[:, None])
    return RoITaps(*(x.reshape(-1, *x.shape[2:]) for x in taps))


def _split_images(images: int, x: Array) -> Array:
    """Split the first axis of `x` into `images` and the rest."""
    return x.reshape(images, -1, *x.shape[1:])


def _over_chunks(add: Callable[[Chunk, Array], Array], total: Array, taps: RoITaps) -> Array:
    """Return `total` after `total = add(chunk, total)` for all chunks of tiles."""
    if not len(taps.map_start):
        return total
    grids, size = _make_grids(taps), min(CHUNK, len(taps.map_start))
    chunks = -(-grids.end[-1] // size)

    def body(number: Array, total: Array) -> Array:
        return add(_make_chunk(number, size, grids, taps), total)

    return lax.fori_loop(0, chunks, body, total)


def _make_grids(taps: RoITaps) -> TileGrids:
    def span(cell: Array, weight: Array) -> tuple[Array, Array]:
        """Return each RoI's first and last cell with a weight; 0 and -1 if it has none."""
        last = jnp.where(weight > 0, cell, -1).max((1, 2))
        first = jnp.where(weight > 0, cell, last[:, None, None]).min((1, 2))
        return jnp.maximum(first, 0), last

    first_row, last_row = span(taps.cell_y, taps.weight_y)
    first_x, last_x = span(taps.cell_x, taps.weight_x)
    first_block = first_x // BLOCK
    rows = (last_row - first_row) // TILE_ROWS + 1
    columns = jnp.maximum(last_x // BLOCK - first_block, 0) // TILE_BLOCKS + 1  # a divisor
    num_tiles = jnp.where((last_row >= 0) & (last_x >= 0), rows * columns, 0)
    return TileGrids(
        first_row, jnp.maximum(last_row, 0), first_block, columns, num_tiles, jnp.cumsum(num_tiles)
    )


def _make_chunk(number: Int[Array, ""], size: int, grids: TileGrids, taps: RoITaps) -> Chunk:
    """Return `size` tiles from number `number * size` on."""
    index = number * size + jnp.arange(size)
    roi = jnp.searchsorted(grids.end, index, side="right", method="compare_all")
    exists = roi < len(grids.end)
    roi = jnp.minimum(roi, len(grids.end) - 1)
    of_roi = index - (grids.end - grids.num_tiles)[roi]  # number of the tile in its RoI
    y = grids.first_row[roi] + of_roi // grids.columns[roi] * TILE_ROWS  # [T]
    block = grids.first_block[roi] + of_roi % grids.columns[roi] * TILE_BLOCKS

    # Beyond the last row that the RoI reads, and beyond the map, a tile repeats the last block.
    row = jnp.minimum(y[:, None] + jnp.arange(TILE_ROWS)[None], grids.last_row[roi][:, None])
    per_row = taps.blocks_per_row[roi][:, None]
    column = jnp.minimum(block[:, None] + jnp.arange(TILE_BLOCKS)[None], per_row - 1)
    first_of_row = taps.map_start[roi][:, None] + row * per_row  # [T, rows]
    blocks = (first_of_row[:, :, None] + column[:, None]).reshape(-1)

    weights_y = _weights(taps.cell_y[roi], taps.weight_y[roi], y, TILE_ROWS)
    weights_y = jnp.where(exists[:, None, None], weights_y, 0)
    first_x = block * BLOCK
    weights_x = _weights(taps.cell_x[roi], taps.weight_x[roi], first_x, TILE_BLOCKS * BLOCK)
    weights = weights_y[:, :, None, :, None] * weights_x[:, None, :, None, :]
    bins, cells = weights_y.shape[1] * weights_x.shape[1], TILE_ROWS * TILE_BLOCKS * BLOCK
    return Chunk(roi, blocks, weights.reshape(size, bins, cells))


def _rows_of_bins(roi: Int[Array, " T"], height: int) -> Int[Array, " _"]:
    """Return the rows of bins of each RoI, in the list of all RoIs' rows.

    A TPU gathers and scatters rows of up to about 4,096 values; longer ones it takes in a loop.
    """
    return (roi[:, None] * height + jnp.arange(height)[None]).reshape(-1)


def _weights(
    cell: Int[Array, "T bins taps"],
    weight: Float[Array, "T bins taps"],
    first: Int[Array, " T"],
    cells: int,
) -> Float[Array, "T bins cells"]:
    """Return the weight of each of `cells` cells of an axis, from `first` on, in each bin."""
    offset = cell - first[:, None, None]
    is_cell = offset[..., None] == jnp.arange(cells)[None, None, None]
    return jnp.where(is_cell, weight[..., None], 0).sum(2)


def _blocks_per_row(width: int) -> int:
    return -(-width // BLOCK)


def _ends(maps: Maps) -> np.ndarray:
    """Return the number of blocks of each map and all before it."""
    return np.cumsum([x.shape[0] * _blocks_per_row(x.shape[1]) for x in maps])


def _to_blocks(features: Float[Array, "H W C"]) -> Float[Array, "blocks _"]:
    height, width, _ = features.shape
    padding = _blocks_per_row(width) * BLOCK - width
    padded = jnp.pad(features, ((0, 0), (0, padding), (0, 0)))
    return padded.reshape(height * _blocks_per_row(width), -1)


def _from_blocks(blocks: Float[Array, "blocks _"], shape: tuple[int, ...]) -> Float[Array, "H W C"]:
    height, width, channels = shape
    return blocks.reshape(height, -1, channels)[:, :width]


def _precision(dtype: jnp.dtype) -> lax.Precision:
    """Return the products' precision: three passes in bfloat16 keep 16 bits, six all of float32."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.HIGH

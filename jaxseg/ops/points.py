"""Points: the value of a map at any position, and the choice of uncertain points.

PointRend (Kirillov et al. 2020, arXiv 1912.08193, section 3) predicts masks point by point, and
chooses the points whose class is the least certain: those with the logits closest to 0.

Terms:
    P         points of a map, or of each RoI, `(x, y)` in [0, 1]: (0, 0) is the top-left corner of
              the map's (the RoI's) first cell, (1, 1) the bottom-right corner of its last
    R         RoIs
    position  a point `(x, y)` in cells, counted from the centre of the first cell

Outside a map all cells hold 0, so a map that is 0 outside its extent may be padded further. Values
have exact gradients, of the map and of the points.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

_MAX_PRODUCT_CELLS = 256
"""Maps of up to this number of cells are sampled by a product with all cells' weights. Its gradient
of a 7x7 map was six times as fast on a CPU as that of the four cells around each point."""


def point_sample(
    features: Num[Array, "H W C"] | Bool[Array, "H W C"], points: Float[Array, "P 2"]
) -> Float[Array, "P C"]:
    """Interpolate a map bilinearly at points in [0, 1], `(x, y)`.

    It is torch's `grid_sample` with `align_corners=False` and zeros outside, of `2 * points - 1`.
    The result has the dtype of `points`.

    >>> features = jnp.arange(4.0).reshape(2, 2, 1)
    >>> points = jnp.asarray([[0.25, 0.25], [0.5, 0.5], [1.0, 0.25], [1.5, 0.5]])
    >>> point_sample(features, points)[:, 0].tolist()
    [0.0, 1.5, 0.5, 0.0]
    """
    height, width, channels = features.shape
    position = points * jnp.asarray([[width, height]], points.dtype) - 0.5
    first = jnp.zeros(len(points), jnp.int32)
    return _interpolate(features.reshape(-1, channels), first, (height, width), position)


def indexed_point_sample(
    maps: Num[Array, "N H W C"] | Bool[Array, "N H W C"],
    map_index: Int[Array, " R"],
    points: Float[Array, "R P 2"],
) -> Float[Array, "R P C"]:
    """Interpolate each RoI's own map, `maps[map_index]`, without copying it.

    The rest is as for `point_sample`.

    >>> maps = jnp.asarray([1.0, 2.0]).reshape(2, 1, 1, 1) * jnp.ones((2, 4, 4, 1))
    >>> indexed_point_sample(maps, jnp.asarray([1]), jnp.full((1, 1, 2), 0.5)).tolist()
    [[[2.0]]]
    """
    count, height, width, channels = maps.shape
    num_points = points.shape[1]
    if count == 0:
        return jnp.zeros((*points.shape[:2], channels), points.dtype)
    position = points.reshape(-1, 2) * jnp.asarray([[width, height]], points.dtype) - 0.5
    first = jnp.repeat(map_index * (height * width), num_points)
    values = _interpolate(maps.reshape(-1, channels), first, (height, width), position)
    return values.reshape(*points.shape[:2], channels)


def roi_point_sample(
    features: Float[Array, "H W C"],
    boxes: Float[Array, "R 4"],
    points: Float[Array, "R P 2"],
    *,
    spatial_scale: float,
) -> Float[Array, "R P C"]:
    """Interpolate a map at points of RoIs, the boxes (`xyxy`, in pixels).

    `spatial_scale` is the number of the map's cells per pixel, 1 / stride. With `grid_points` it is
    MMDetection's `SimpleRoIAlign`, a RoIAlign of one sample for each bin.

    >>> features = jnp.arange(16.0).reshape(4, 4, 1)
    >>> box = jnp.asarray([[0.0, 0.0, 8.0, 8.0]])
    >>> points = grid_points((2, 2))[None]
    >>> roi_point_sample(features, box, points, spatial_scale=0.5)[0, :, 0].tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    height, width, channels = features.shape
    position = points_in_image(boxes, points).reshape(-1, 2) * spatial_scale - 0.5
    first = jnp.zeros(len(position), jnp.int32)
    values = _interpolate(features.reshape(-1, channels), first, (height, width), position)
    return values.reshape(*points.shape[:2], channels)


def points_in_image(
    boxes: Float[Array, "R 4"], points: Float[Array, "R P 2"]
) -> Float[Array, "R P 2"]:
    """Return the pixel coordinates of points of RoIs, the boxes (`xyxy`, in pixels).

    >>> box = jnp.asarray([[10.0, 20.0, 30.0, 60.0]])
    >>> points_in_image(box, jnp.asarray([[[0.5, 0.25]]])).tolist()
    [[[20.0, 30.0]]]
    """
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    return start + points * (end - start)


def points_in_boxes(
    boxes: Float[Array, "R 4"], points: Float[Array, "R P 2"]
) -> Float[Array, "R P 2"]:
    """Return the points of RoIs at pixel coordinates, the inverse of `points_in_image`.

    All points of a box without length are outside it.

    >>> box = jnp.asarray([[10.0, 20.0, 30.0, 60.0]])
    >>> points_in_boxes(box, jnp.asarray([[[20.0, 30.0]]])).tolist()
    [[[0.5, 0.25]]]
    """
    start, length = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    is_empty = length <= 0
    return jnp.where(is_empty, -1, (points - start) / jnp.where(is_empty, 1, length))


def grid_points(size: tuple[int, int]) -> Float[Array, "P 2"]:
    """Return the centres of the cells of a `(height, width)` map, row by row.

    >>> grid_points((1, 2)).tolist()
    [[0.25, 0.5], [0.75, 0.5]]
    """
    return _cell_centers(jnp.arange(size[0] * size[1]), size)


def uncertain_cells(
    logits: Float[Array, "h w"], num_points: int
) -> tuple[Int[Array, " P"], Float[Array, "P 2"]]:
    """Return the most uncertain cells of a map, `num_points` or all: indices and centres.

    The indices are those of the flattened map.

    >>> index, points = uncertain_cells(jnp.asarray([[4.0, -1.0], [0.5, -3.0]]), 2)
    >>> index.tolist(), points.tolist()
    ([2, 1], [[0.25, 0.75], [0.75, 0.25]])
    """
    if num_points >= logits.size:
        index = jnp.arange(logits.size)
    else:
        _, index = jax.lax.top_k(-jnp.abs(logits.reshape(-1)), num_points)
    return index, _cell_centers(index, (logits.shape[0], logits.shape[1]))


def uncertain_points(
    logits: Float[Array, "h w"], candidates: Float[Array, "K 2"], num_points: int
) -> Float[Array, "P 2"]:
    """Return the `num_points` candidates at which a map is the most uncertain.

    >>> logits = jnp.asarray([[4.0, -1.0], [0.5, -3.0]])
    >>> uncertain_points(logits, grid_points((2, 2)), 1).tolist()
    [[0.25, 0.75]]
    """
    at_candidates = point_sample(logits[..., None], candidates)[:, 0]
    _, index = jax.lax.top_k(-jnp.abs(at_candidates), num_points)
    return candidates[index]


def crop_points(
    masks: Num[Array, "N h w"] | Bool[Array, "N h w"],
    frames: Float[Array, "N 4"],
    points: Float[Array, "R P 2"],
    gt_index: Int[Array, " R"],
) -> Float[Array, "R P"]:
    """Return the mask of object `gt_index` at pixel coordinates, for each RoI: soft targets.

    `masks[i]` covers `frames[i]`, in practice a crop to the object's own box. Outside the frame a
    mask is 0; within half a cell of its border the outer cell is repeated, as in `mask_targets`.

    >>> mask = jnp.asarray([[[True, False], [True, False]]])
    >>> box = jnp.asarray([[0.0, 0.0, 4.0, 4.0]])
    >>> points = jnp.asarray([[[0.0, 1.0], [1.5, 1.0], [3.5, 1.0], [-0.5, 1.0]]])
    >>> crop_points(mask, box, points, jnp.asarray([0])).tolist()
    [[1.0, 0.75, 0.0, 0.0]]
    """
    if masks.shape[0] == 0:
        return jnp.zeros(points.shape[:2], points.dtype)
    in_frame = points_in_boxes(frames[gt_index], points)
    half = 0.5 / jnp.asarray([[[masks.shape[2], masks.shape[1]]]], points.dtype)
    values = indexed_point_sample(masks[..., None], gt_index, jnp.clip(in_frame, half, 1 - half))
    inside = ((in_frame >= 0) & (in_frame <= 1)).all(-1)
    return jnp.where(inside, values[..., 0], 0)


def _cell_centers(index: Int[Array, " P"], size: tuple[int, int]) -> Float[Array, "P 2"]:
    cell = jnp.stack([index % size[1], index // size[1]], axis=1).astype(jnp.float32)
    return (cell + 0.5) / jnp.asarray([[size[1], size[0]]], jnp.float32)


def _interpolate(
    cells: Num[Array, "K C"] | Bool[Array, "K C"],
    first: Int[Array, " P"],
    size: tuple[int, int],
    position: Float[Array, "P 2"],
) -> Float[Array, "P C"]:
    """Interpolate maps of `size` `(height, width)`, flattened one after the other.

    `first` is the index of the first cell of each point's map.
    """
    height, width = size
    # Far outside, the nearest cells outside stand for all others, so that indices cannot overflow.
    position = jnp.clip(position, -2, jnp.asarray([[width + 1, height + 1]], position.dtype))
    low = jnp.floor(position)
    above = position - low  # [P, 2]
    column, row = low.astype(jnp.int32).T
    if len(cells) == height * width and len(cells) <= _MAX_PRODUCT_CELLS:
        weights_x, weights_y = (
            jax.nn.one_hot(cell, count, dtype=position.dtype) * (1 - share)[:, None]
            + jax.nn.one_hot(cell + 1, count, dtype=position.dtype) * share[:, None]
            for cell, count, share in ((column, width, above[:, 0]), (row, height, above[:, 1]))
        )  # [P, W], [P, H]
        weights = (weights_y[:, :, None] * weights_x[:, None, :]).reshape(len(position), -1)
        return jnp.matmul(weights, cells.astype(position.dtype), precision="highest")

    total = jnp.zeros((len(position), cells.shape[1]), position.dtype)
    for y, x in itertools.product(range(2), range(2)):
        weight_x = above[:, 0] if x else 1 - above[:, 0]
        weight_y = above[:, 1] if y else 1 - above[:, 1]
        inside = (row + y >= 0) & (row + y < height) & (column + x >= 0) & (column + x < width)
        index = jnp.where(inside, first + (row + y) * width + column + x, 0)
        values = cells.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        weight = jnp.where(inside, weight_y * weight_x, 0)
        total += values.astype(position.dtype) * weight[:, None]
    return total

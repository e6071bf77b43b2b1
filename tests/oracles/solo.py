"""SOLO's operations as loops."""

import math

import numpy as np


def centre_of_mass(mask):
    """Return `(x, y)` in pixel indices."""
    y, x = np.nonzero(mask)
    return x.mean(), y.mean()


def slow_points_nms(scores):
    kept = scores.copy()
    for y, x, c in np.ndindex(scores.shape):
        window = scores[max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1, c]
        if scores[y, x, c] < window.max():
            kept[y, x, c] = 0
    return kept


def slow_matrix_nms(masks, labels, scores, valid, kernel, sigma):
    count = len(scores)
    order = sorted(np.flatnonzero(valid), key=lambda i: -scores[i])

    def iou(i, j):
        union = (masks[i] | masks[j]).sum()
        return (masks[i] & masks[j]).sum() / union if union else 0.0

    def rivals(j):
        return [i for i in order[: order.index(j)] if labels[i] == labels[j]]

    def kernel_value(x):
        return math.exp(-sigma * x * x) if kernel == "gaussian" else 1 - x

    decayed = np.zeros(count)
    for j in order:
        factors = [1.0]
        for i in rivals(j):
            compensation = kernel_value(max([iou(k, i) for k in rivals(i)], default=0.0))
            if compensation > 0:
                factors.append(kernel_value(iou(i, j)) / compensation)
        decayed[j] = scores[j] * min(factors)
    return decayed


def slow_grid_targets(
    boxes, labels, centers, valid, padded_size, num_grids, scale_ranges, pos_scale
):
    """Return `(positive, label, [(cell, object), ...])` over the cells of all levels."""
    positive, label, pairs, first_cell = [], [], [], 0

    def to_cell(value, size, grid):
        return int(np.float32(np.float32(value) / np.float32(size)) / np.float32(1 / grid))

    for grid, (low, high) in zip(num_grids, scale_ranges, strict=True):
        hit, classes = np.zeros((grid, grid), bool), np.zeros((grid, grid), int)
        for n, (x1, y1, x2, y2) in enumerate(boxes):
            size = np.sqrt(np.float32((x2 - x1) * (y2 - y1)))
            if not valid[n] or not low <= size <= high:
                continue
            spans = []
            for center, side, extent in zip(
                centers[n], (x2 - x1, y2 - y1), padded_size[::-1], strict=True
            ):
                center_cell = to_cell(center, extent, grid)
                half_region = np.float32(0.5 * side * pos_scale)
                first = max(0, to_cell(center - half_region, extent, grid), center_cell - 1)
                last = min(grid - 1, to_cell(center + half_region, extent, grid), center_cell + 1)
                spans.append(range(first, last + 1))
            for y in spans[1]:
                for x in spans[0]:
                    hit[y, x], classes[y, x] = True, labels[n]
                    pairs.append((first_cell + y * grid + x, n))
        positive.append(hit.reshape(-1))
        label.append(classes.reshape(-1))
        first_cell += grid * grid
    return np.concatenate(positive), np.concatenate(label), pairs


def slow_select_instances(config, logits, kernels, feature, image_size, padded_size):
    """Return the instances of one image, best first: `(box, score, label, mask)` each.

    `get_results` of MMDetection's SOLOv2 head, for kernels of size 1 and padding after the image.
    """
    scores, masks, labels, found = 1 / (1 + np.exp(-logits)), [], [], []
    height, width = (-(-size // 4) for size in padded_size)
    first = 0
    for grid, min_area in zip(config.num_grids, config.min_mask_area, strict=True):
        cells = slice(first, first + grid * grid)
        of_grid = slow_points_nms(scores[cells].reshape(grid, grid, -1)).reshape(grid * grid, -1)
        for cell, label in np.ndindex(of_grid.shape):
            score = of_grid[cell, label]
            if score <= config.score_threshold:
                continue
            mask = 1 / (1 + np.exp(-(feature[:height, :width] @ kernels[first + cell])))
            inside = mask > 0.5
            if inside.sum() <= min_area:
                continue
            masks.append(mask)
            labels.append(label)
            found.append(score * mask[inside].mean())
        first += grid * grid
    scores = slow_matrix_nms(
        [mask > 0.5 for mask in masks],
        labels,
        found,
        [True] * len(found),
        config.matrix_nms_kernel,
        config.matrix_nms_sigma,
    )
    kept = [n for n in range(len(masks)) if scores[n] >= config.post_nms_score_threshold]
    best = sorted(kept, key=lambda n: -scores[n])[: config.detections_per_image]
    return [(_box(masks[n] > 0.5, image_size), scores[n], labels[n], masks[n]) for n in best]


def _box(inside, image_size):
    y, x = np.nonzero(inside)
    corners = np.asarray([x.min(), y.min(), x.max() + 1, y.max() + 1]) * 4
    return np.minimum(corners, [*image_size[::-1]] * 2)

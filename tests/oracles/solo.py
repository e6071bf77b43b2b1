"""SOLO's operations as plain loops."""

import math

import numpy as np


def centre_of_mass(mask):
    """`(x, y)` in pixel indices."""
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

    def keep(x):
        return math.exp(-sigma * x * x) if kernel == "gaussian" else 1 - x

    decayed = np.zeros(count)
    for j in order:
        factors = [1.0]
        for i in rivals(j):
            covered = keep(max([iou(k, i) for k in rivals(i)], default=0.0))
            if covered > 0:
                factors.append(keep(iou(i, j)) / covered)
        decayed[j] = scores[j] * min(factors)
    return decayed


def slow_grid_targets(boxes, labels, centers, valid, bucket, grids, scale_ranges, sigma):
    """`(positive, label, [(cell, object), ...])` over the cells of all levels."""
    positive, label, pairs, first_cell = [], [], [], 0

    def place(value, size, grid):
        return int(np.float32(np.float32(value) / np.float32(size)) / np.float32(1 / grid))

    for grid, (low, high) in zip(grids, scale_ranges, strict=True):
        hit, classes = np.zeros((grid, grid), bool), np.zeros((grid, grid), int)
        for n, (x1, y1, x2, y2) in enumerate(boxes):
            size = np.sqrt(np.float32((x2 - x1) * (y2 - y1)))
            if not valid[n] or not low <= size <= high:
                continue
            spans = []
            for center, side, extent in zip(
                centers[n], (x2 - x1, y2 - y1), bucket[::-1], strict=True
            ):
                own, reach = place(center, extent, grid), np.float32(0.5 * side * sigma)
                first = max(0, place(center - reach, extent, grid), own - 1)
                last = min(grid - 1, place(center + reach, extent, grid), own + 1)
                spans.append(range(first, last + 1))
            for y in spans[1]:
                for x in spans[0]:
                    hit[y, x], classes[y, x] = True, labels[n]
                    pairs.append((first_cell + y * grid + x, n))
        positive.append(hit.reshape(-1))
        label.append(classes.reshape(-1))
        first_cell += grid * grid
    return np.concatenate(positive), np.concatenate(label), pairs

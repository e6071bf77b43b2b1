"""Panoptic quality and merging, by loops over segments and their sets of pixels."""

import numpy as np


def pixels(ids, segment_id):
    return {(int(y), int(x)) for y, x in np.argwhere(ids == segment_id)}


def slow_panoptic_counts(truth, found, label):
    """Return `(sum of IoU, matches, false, missed)` of a class in one image.

    By the definition in section 4 of Kirillov et al. 2019: void pixels of the truth are taken from
    the prediction before matching; predictions that are mostly void or crowd of their class are
    taken away after it.
    """
    void = pixels(truth.ids, 0)
    crowd = set()
    for segment in truth.segments:
        if segment.label == label and segment.iscrowd:
            crowd = pixels(truth.ids, segment.id)
    iou, matches, false = 0.0, set(), 0
    for predicted in found.segments:
        if predicted.label != label:
            continue
        area = pixels(found.ids, predicted.id)
        is_matched = False
        for segment in truth.segments:
            if segment.label != label or segment.iscrowd:
                continue
            true, known = pixels(truth.ids, segment.id), area - void
            if true | known and len(true & known) / len(true | known) > 0.5:
                iou += len(true & known) / len(true | known)
                matches.add(segment.id)
                is_matched = True
        if not is_matched and len(area & (void | crowd)) <= len(area) / 2:
            false += 1
    true_ids = {s.id for s in truth.segments if s.label == label and not s.iscrowd}
    return iou, len(matches), false, len(true_ids - matches)


def slow_panoptic_quality(pairs, labels):
    """Return `(PQ, SQ, RQ)` as the mean over the classes that occur; None if none does."""
    classes = []
    for label in labels:
        counts = [slow_panoptic_counts(truth, found, label) for truth, found in pairs]
        iou, matches, false, missed = (sum(column) for column in zip(*counts, strict=True))
        if matches + false + missed:
            total = matches + false / 2 + missed / 2
            classes.append((iou / total, iou / matches if matches else 0.0, matches / total))
    if not classes:
        return None, None, None
    return tuple(sum(column) / len(classes) for column in zip(*classes, strict=True))

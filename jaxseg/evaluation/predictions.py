"""Turn a model's detections into instances of the original images, on the host."""

from typing import NamedTuple

import jax
import numpy as np

from jaxseg.data.masks.regions import mask_bounds
from jaxseg.data.panoptic import PanopticMap
from jaxseg.data.source import RLE
from jaxseg.evaluation.mask_rles import masks_to_rles
from jaxseg.evaluation.panoptic_merging import best_stuff, merge_heuristically
from jaxseg.types import Detections, EvalBatch, MaskFrame


class Prediction(NamedTuple):
    """The n instances found in one image, best first, in pixels of the original image."""

    image_id: int
    boxes: np.ndarray  # float32 [n, 4], xyxy
    scores: np.ndarray  # float32 [n]
    labels: np.ndarray  # int [n]
    rles: list[RLE] | None  # n masks of the image's size; None from a model without masks
    panoptic: PanopticMap | None = None

    def select(self, index: np.ndarray) -> "Prediction":
        """Return the instances at the positions `index` (int `[m]`)."""
        return Prediction(
            self.image_id,
            self.boxes[index],
            self.scores[index],
            self.labels[index],
            None if self.rles is None else [self.rles[i] for i in index],
            self.panoptic,
        )


def to_predictions(detections: Detections, batch: EvalBatch) -> list[Prediction]:
    """Return the predictions of a batch's valid images."""
    detections = jax.tree.map(np.asarray, detections)
    return [image_prediction(detections, batch, i) for i in np.flatnonzero(batch.valid).tolist()]


def image_prediction(detections: Detections, batch: EvalBatch, i: int) -> Prediction:
    """Return the prediction of image `i` of a batch, from detections as NumPy arrays.

    Boxes are scaled to the original image; where masks are in the image's frame, boxes are the
    tight boxes of the masks. A panoptic model's instances and semantic map are merged.
    """
    slots = np.flatnonzero(detections.valid[i])
    height, width = batch.image_size[i].tolist()
    original_height, original_width = batch.original_size[i].tolist()
    limits = np.asarray([original_width, original_height] * 2, np.float32)
    scale = limits / np.asarray([width, height] * 2, np.float32)
    boxes = np.clip(np.asarray(detections.boxes)[i, slots] * scale, 0, limits)
    rles = None
    if detections.masks is not None:
        rles = masks_to_rles(
            [np.asarray(detections.masks)[i, slot] for slot in slots],
            boxes,
            detections.mask_frame,
            bucket=(batch.images.shape[1], batch.images.shape[2]),
            image_size=(height, width),
            original_size=(original_height, original_width),
        )
        if detections.mask_frame is MaskFrame.IMAGE:
            boxes = mask_bounds(rles).astype(np.float32)
    scores, labels = (
        np.asarray(detections.scores)[i, slots],
        np.asarray(detections.labels)[i, slots],
    )
    panoptic = None
    if (merging := detections.panoptic_merging) is not None:
        if detections.semantic is None or rles is None:
            raise ValueError(
                "detections with panoptic_merging have no masks or no logits: set Detections.masks "
                "and Detections.semantic"
            )
        stuff = best_stuff(
            np.asarray(detections.semantic)[i],
            merging.num_things,
            bucket=batch.images.shape[1:3],
            image_size=(height, width),
            original_size=(original_height, original_width),
        )
        panoptic = merge_heuristically(scores, labels, rles, stuff, merging.heuristic)
    return Prediction(int(batch.image_id[i]), boxes, scores, labels, rles, panoptic)

"""torchvision's operations beside those of `jaxseg.bench.ops`, on the same inputs.

Each method copies the inputs to torch's device and returns the call that is timed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxseg.bench.peer import Peer, Variant

Call = Callable[[], Any]


class PeerOps:
    """The operations in one variant of torchvision."""

    def __init__(self, peer: Peer, variant: Variant):
        self._peer, self._variant = peer, variant
        self._torch = peer.torch

    def _pooled(
        self, pyramid: Mapping[int, np.ndarray], boxes: np.ndarray
    ) -> tuple[dict[str, Any], Call]:
        """Return the maps by name, and the call that pools from them."""
        from torchvision.ops import MultiScaleRoIAlign

        strides = sorted(pyramid)
        maps = {str(s): self._peer.maps(pyramid[s], self._variant) for s in strides}
        rois = [self._peer.tensor(b) for b in boxes]
        finest = pyramid[strides[0]].shape
        sizes = [(finest[1] * strides[0], finest[2] * strides[0])] * len(rois)
        pool = MultiScaleRoIAlign(list(maps), output_size=7, sampling_ratio=2)
        return maps, lambda: pool(maps, rois, sizes)

    def roi_align(self, pyramid: Mapping[int, np.ndarray], boxes: np.ndarray) -> Call:
        """Pool the boxes: `[B R, C, 7, 7]`."""
        return self._pooled(pyramid, boxes)[1]

    def roi_align_gradient(
        self,
        pyramid: Mapping[int, np.ndarray],
        boxes: np.ndarray,
        cotangent: np.ndarray | None = None,
    ) -> Call:
        """Pool the boxes and return the output, or its sum without a `cotangent`, and the gradient
        of each map."""
        maps, pool = self._pooled(pyramid, boxes)
        leaves = list(maps.values())
        for leaf in leaves:
            leaf.requires_grad_(True)
        grad = self._torch.autograd.grad
        if cotangent is None:

            def call() -> Any:
                total = pool().float().sum()
                return total.detach(), grad(total, leaves)
        else:
            flat = cotangent.reshape(-1, *cotangent.shape[2:])
            given = self._peer.maps(flat, self._variant)

            def call() -> Any:
                output = pool()
                return output.detach(), grad(output, leaves, given.to(output.dtype))

        return call

    def nms(self, boxes: np.ndarray, scores: np.ndarray, threshold: float) -> Call:
        """Return the kept indices of each image, among the boxes of all levels."""
        from torchvision.ops import batched_nms

        _, levels, candidates = scores.shape
        level = self._peer.tensor(np.repeat(np.arange(levels), candidates))
        images = [
            (self._peer.tensor(b.reshape(-1, 4)), self._peer.tensor(s.reshape(-1)))
            for b, s in zip(boxes, scores, strict=True)
        ]
        return lambda: [batched_nms(b, s, level, threshold) for b, s in images]

    def match(self, anchors: np.ndarray, boxes: np.ndarray) -> Call:
        """Return the object of each anchor, -1 for negatives, -2 for those in between."""
        from torchvision.models.detection._utils import Matcher
        from torchvision.ops import box_iou

        matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        all_anchors = self._peer.tensor(anchors)
        images = [self._peer.tensor(b) for b in boxes]
        return lambda: [matcher(box_iou(b, all_anchors)) for b in images]

    def mask_targets(
        self, masks: np.ndarray, rois: np.ndarray, index: np.ndarray, size: int
    ) -> Call:
        """Return the soft targets `[R, size, size]` of each image."""
        from torchvision.models.detection.roi_heads import project_masks_on_boxes

        images = [
            (self._peer.tensor(m.astype(np.uint8)), self._peer.tensor(r), self._peer.tensor(i))
            for m, r, i in zip(masks, rois, index.astype(np.int64), strict=True)
        ]
        return lambda: [project_masks_on_boxes(m, r, i, size) for m, r, i in images]

    def paste(self, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> Call:
        """Return the pasted masks `[D, 1, H, W]` of each image."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image

        images = [
            (self._peer.tensor(m[:, None]), self._peer.tensor(b))
            for m, b in zip(masks, boxes, strict=True)
        ]
        return lambda: [paste_masks_in_image(m, b, size) for m, b in images]

    def rle(self, masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> Call:
        """Paste, threshold and encode, as `coco_eval.py` of torchvision's references does."""
        from pycocotools import mask as mask_api

        paste = self.paste(masks, boxes, size)

        def call() -> list[list[Any]]:
            return [
                [
                    mask_api.encode(np.array(mask[0, :, :, None], dtype=np.uint8, order="F"))[0]
                    for mask in (image > 0.5).cpu()
                ]
                for image in paste()
            ]

        return call

"""What MMDetection recorded of a whole model: weights, pixels, ground truth and every stage."""

import functools
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg import zoo
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import IGNORED, Batch
from tests.goldens import load_model


def trunk_fields(meta: dict) -> dict[str, Any]:
    """Return the fields of a two-stage model's config that a golden states.

    Those of sampling are the defaults. A cascade's box head is the first one.
    """
    c = meta["config"]
    roi, train, test = c["roi_head"], c["train_cfg"], c["test_cfg"]
    box, box_train = roi["bbox_head"], train["rcnn"]
    if isinstance(box, list):
        box, box_train = box[0], box_train[0]
    anchors, assigner = c["rpn_head"]["anchor_generator"], train["rpn"]["assigner"]
    (scale,) = anchors["scales"]
    nms = test["rcnn"]["nms"]
    return {
        "num_classes": box["num_classes"],
        "backbone": ResNetConfig(
            depth=c["backbone"]["depth"],
            norm="norm_eval",
            freeze_at=c["backbone"]["frozen_stages"] + 1,
        ),
        "fpn_channels": c["neck"]["out_channels"],
        "rpn": RPNConfig(
            anchor_sizes=tuple(float(scale * stride) for stride in anchors["strides"]),
            aspect_ratios=tuple(anchors["ratios"]),
            positive_iou=assigner["pos_iou_thr"],
            negative_iou=assigner["neg_iou_thr"],
            min_pos_iou=assigner["min_pos_iou"],
            low_quality_overrides=True,
            allowed_border=train["rpn"]["allowed_border"],
            count_empty=True,
            pre_nms_topk_train=train["rpn_proposal"]["nms_pre"],
            post_nms_topk_train=train["rpn_proposal"]["max_per_img"],
            pre_nms_topk_test=test["rpn"]["nms_pre"],
            post_nms_topk_test=test["rpn"]["max_per_img"],
            nms_threshold=test["rpn"]["nms"]["iou_threshold"],
            smooth_l1_beta=c["rpn_head"]["loss_bbox"].get("beta", 0.0),
        ),
        "roi_align": RoIAlignConfig(
            aligned=True,
            sampling_ratio=roi["bbox_roi_extractor"]["roi_layer"]["sampling_ratio"],
            canonical_box_size=4.0 * roi["bbox_roi_extractor"]["finest_scale"],
        ),
        "box": BoxHeadConfig(
            fc_dim=box["fc_out_channels"],
            cls_agnostic_bbox_reg=box["reg_class_agnostic"],
            positive_iou=box_train["assigner"]["pos_iou_thr"],
            low_quality_overrides=box_train["assigner"].get("match_low_quality", True),
            smooth_l1_beta=box["loss_bbox"].get("beta", 0.0),
            score_threshold=test["rcnn"]["score_thr"],
            nms_threshold=nms["iou_threshold"],
            cls_agnostic_nms=nms.get("class_agnostic", False),
            detections_per_image=test["rcnn"]["max_per_img"],
        ),
        # MMDetection's padding is that of the whole batch, and its layers see into it.
        "size_divisibility": tuple(meta["batch"]),
    }


def anchors_of_an_image(meta: dict) -> int:
    """Return the number of anchors of an image."""
    height, width = meta["batch"]
    strides = meta["config"]["rpn_head"]["anchor_generator"]["strides"]
    return 3 * sum(-(-height // stride) * -(-width // stride) for stride in strides)


class Golden:
    """A golden with its weights loaded, and the prediction, computed once.

    Args:
        shared: the folder of shared files.
        name: the golden's name.
        make_config: makes the model's config of what the golden says about itself.
        module: the module of the model, with its function `_predict`.
        layers: makes the model's layers of its config.
    """

    def __init__(
        self,
        shared: Any,
        name: str,
        make_config: Callable[[dict], Any],
        module: ModuleType,
        layers: Callable[[Any], nn.Module],
    ):
        self.state, self.meta, self.arrays = load_model(shared, name, "models")
        self.config = make_config(self.meta)
        self.module, self.net = module, layers(self.config)
        self.variables = zoo.load_mmdet(self.state, self.config)
        self.sizes = np.asarray(self.meta["sizes"], np.int32)
        x = self.arrays["input_batch"].transpose(0, 2, 3, 1)
        pixels = self.config.pixels
        self.images = (x * np.asarray(pixels.std) + np.asarray(pixels.mean)).astype(np.float32)

    def __getitem__(self, key):
        return self.arrays[key]

    def unpacked(self, name):
        """Return an array of bits with its shape."""
        shape = self.meta["packed"][name]
        return np.unpackbits(self[name])[: np.prod(shape)].reshape(shape).astype(bool)

    def per_image(self, name):
        """Return the arrays of all images, `name` with their numbers."""
        return [self[name.format(i)] for i in range(len(self.sizes))]

    @functools.cached_property
    def prediction(self):
        """Return the detections, and the output of every layer."""

        def run(variables, images, sizes):
            predict = nn.apply(self.module._predict, self.net, capture_intermediates=True)
            return predict(merge_frozen(variables), images, sizes)

        found, captured = jax.jit(run)(self.variables, self.images, self.sizes)
        return found, captured["intermediates"]

    def batch(self, *, empty: Collection[int] = (), semantic_stride: int | None = None) -> Batch:
        """Return the recorded ground truth, with the masks of whole images.

        The images in `empty` have no objects, but keep their semantic map.
        """
        count, (height, width) = len(self.images), self.meta["batch"]
        slots = max(map(len, self.per_image("gt_labels{}")))
        boxes, labels = np.zeros((count, slots, 4), np.float32), np.zeros((count, slots), np.int32)
        masks = np.zeros((count, slots, height, width), bool)
        valid = np.zeros((count, slots), bool)
        semantic = np.full((count, height, width), IGNORED, np.uint8)
        for i, (h, w) in enumerate(self.sizes):
            if semantic_stride is not None:
                semantic[i, :h, :w] = self[f"gt_sem{i}"]
            if i not in empty:
                n = len(self[f"gt_labels{i}"])
                boxes[i, :n], labels[i, :n] = self[f"gt_boxes{i}"], self[f"gt_labels{i}"]
                masks[i, :n, :h, :w], valid[i, :n] = self.unpacked(f"gt_masks{i}"), True
        stride = semantic_stride
        return Batch(
            jnp.asarray(self.images),
            jnp.asarray(self.sizes),
            jnp.asarray(boxes),
            jnp.asarray(labels),
            jnp.asarray(valid),
            jnp.arange(count, dtype=jnp.int32),
            jnp.asarray(masks),
            semantic=None if stride is None else jnp.asarray(semantic[:, ::stride, ::stride]),
        )

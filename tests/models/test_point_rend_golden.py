"""PointRend against MMDetection's: the same weights and pixels give the same numbers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pycocotools import mask as mask_api

from jaxseg import ops, zoo
from jaxseg.evaluation import to_predictions
from jaxseg.heads import rcnn, rpn
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.roi_sampling import Proposals, sample_rois
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models import point_rend as module
from jaxseg.models.point_rend import CoarseMaskConfig, PointHeadConfig, PointRend, PointRendConfig
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.padding import round_up_size
from jaxseg.nn.resize import upsample2x
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import Batch, EvalBatch
from jaxseg.zoo.engine import export_state
from jaxseg.zoo.point_rend import mmdet_table
from tests.goldens import difference, load_model, nchw

pytestmark = pytest.mark.golden


def golden_config(meta) -> PointRendConfig:
    """Return the config of a golden's settings."""
    model = meta["config"]
    roi_head, train, test = model["roi_head"], model["train_cfg"], model["test_cfg"]
    anchors, assigner = model["rpn_head"]["anchor_generator"], train["rcnn"]["assigner"]
    coarse, point = roi_head["mask_head"], roi_head["point_head"]
    return PointRendConfig(
        num_classes=coarse["num_classes"],
        backbone=ResNetConfig(
            depth=model["backbone"]["depth"],
            norm="norm_eval",
            freeze_at=model["backbone"]["frozen_stages"] + 1,
        ),
        fpn_channels=model["neck"]["out_channels"],
        rpn=RPNConfig(
            anchor_sizes=tuple(float(anchors["scales"][0] * s) for s in anchors["strides"]),
            min_pos_iou=train["rpn"]["assigner"]["min_pos_iou"],
            low_quality_overrides=True,
            batch_size_per_image=train["rpn"]["sampler"]["num"],
            pre_nms_topk_train=train["rpn_proposal"]["nms_pre"],
            post_nms_topk_train=train["rpn_proposal"]["max_per_img"],
            pre_nms_topk_test=test["rpn"]["nms_pre"],
            post_nms_topk_test=test["rpn"]["max_per_img"],
            nms_threshold=test["rpn"]["nms"]["iou_threshold"],
            smooth_l1_beta=0.0,
        ),
        roi_align=RoIAlignConfig(
            aligned=True,
            sampling_ratio=roi_head["bbox_roi_extractor"]["roi_layer"]["sampling_ratio"],
            canonical_box_size=4.0 * roi_head["bbox_roi_extractor"]["finest_scale"],
        ),
        box=BoxHeadConfig(
            fc_dim=roi_head["bbox_head"]["fc_out_channels"],
            low_quality_overrides=assigner["match_low_quality"],
            positive_iou=assigner["pos_iou_thr"],
            smooth_l1_beta=0.0,
            score_threshold=test["rcnn"]["score_thr"],
            nms_threshold=test["rcnn"]["nms"]["iou_threshold"],
            detections_per_image=test["rcnn"]["max_per_img"],
        ),
        coarse=CoarseMaskConfig(
            pooler_resolution=roi_head["mask_roi_extractor"]["roi_layer"]["output_size"],
            conv_dim=coarse["conv_out_channels"],
            num_fc=coarse["num_fcs"],
            fc_dim=coarse["fc_out_channels"],
            mask_targets="binary",
        ),
        point=PointHeadConfig(
            num_fc=point["num_fcs"],
            fc_dim=point["fc_channels"],
            train_points=train["rcnn"]["num_points"],
            oversample_ratio=train["rcnn"]["oversample_ratio"],
            importance_fraction=train["rcnn"]["importance_sample_ratio"],
            subdivision_steps=test["rcnn"]["subdivision_steps"],
            subdivision_points=test["rcnn"]["subdivision_num_points"],
        ),
        # MMDetection's padding is that of the whole batch, and its layers see into it.
        size_divisibility=tuple(meta["batch"]),
    )


class Golden:
    """A golden with its weights loaded, and what is computed from them once."""

    def __init__(self, shared, name):
        self.state, self.meta, self.arrays = load_model(shared, name, "models")
        self.config = golden_config(self.meta)
        self.variables = zoo.load_mmdet(self.state, self.config)
        self.net = PointRend(self.config)
        self.sizes = np.asarray(self.meta["sizes"], np.int32)
        x = self.arrays["input_batch"].transpose(0, 2, 3, 1)
        pixels = self.config.pixels
        self.images = (x * np.asarray(pixels.std) + np.asarray(pixels.mean)).astype(np.float32)

    def __getitem__(self, key):
        return self.arrays[key]

    def unpacked(self, name):
        """Return an array of bits with its shape."""
        shape = self.meta["packed"][name]
        return np.unpackbits(self.arrays[name])[: np.prod(shape)].reshape(shape)

    def per_image(self, name):
        """Return the arrays of all images, `name` with their numbers."""
        return [self.arrays[name.format(i)] for i in range(len(self.sizes))]

    @functools.cached_property
    def prediction(self):
        def run(variables, images, sizes):
            predict = nn.apply(module._predict, self.net, capture_intermediates=True)
            return predict(merge_frozen(variables), images, sizes)

        found, captured = jax.jit(run)(self.variables, self.images, self.sizes)
        return found, captured["intermediates"]


@pytest.fixture(scope="module", params=["pointrend"])
def golden(request, shared):
    return Golden(shared, request.param)


def test_every_stage(golden):
    _, stages = golden.prediction
    step, differences = golden.meta["channel_stride"]["eval__C2"], {}
    for level in range(2, 6):
        x = nchw(stages["backbone"]["__call__"][0][2**level], step)
        differences[f"C{level}"] = difference(x, golden[f"eval__C{level}"])
    for i, level in enumerate(range(2, 7)):
        x = nchw(stages["fpn"]["__call__"][0][2**level])
        differences[f"P{level}"] = difference(x, golden[f"eval__P_l{i}"])
        for ours, theirs in (("logit", "logits"), ("delta", "deltas")):
            x = nchw(stages["rpn_head"][ours]["__call__"][i])
            differences[f"{theirs}_P{level}"] = difference(x, golden[f"eval__rpn_{theirs}_l{i}"])
    logits, deltas = stages["box_head"]["__call__"][0]
    differences["cls_score"] = difference(logits, golden["eval__cls_score"])
    differences["bbox_pred"] = difference(
        deltas.reshape(len(deltas), -1), golden["eval__bbox_pred"]
    )
    coarse = stages["coarse_head"]["__call__"][0]
    differences["coarse"] = difference(nchw(coarse), golden["eval__mask_logits"])
    print(json.dumps(differences, indent=1))
    assert all(value < 1e-4 for value in differences.values()), differences


def test_refined_masks(golden):
    """The probabilities of the last step, and with them the points of all steps."""
    found, _ = golden.prediction
    for i, expected in enumerate(golden.per_image("eval__refined_logits{}")):
        masks = np.asarray(found.masks[i, : len(expected)])
        expected = np.asarray(nn.sigmoid(expected))
        print("largest difference of a probability", np.abs(masks - expected).max())
        assert np.abs(masks - expected).max() < 1e-4


def test_points_of_every_step(golden):
    """Starting from the recorded masks of each step; the order of the points has no meaning."""
    config = golden.config.point
    found, _ = golden.prediction

    @jax.jit
    def start(logits):
        extent = jnp.broadcast_to(jnp.asarray(logits.shape[1:]), (len(logits), 2))
        logits = upsample2x(logits[..., None], extent)[..., 0]
        choose = jax.vmap(lambda x: ops.uncertain_cells(x, config.subdivision_points))
        return logits, *choose(logits)

    coarse = golden["eval__mask_logits"]
    steps = config.subdivision_steps
    first = 0
    for i, labels in enumerate(golden.per_image("eval__rcnn_labels{}")):
        count = len(labels)
        logits = coarse[first : first + count][np.arange(count), labels]
        first += count
        for step in range(steps):
            logits, index, points = (np.array(x) for x in start(logits))
            recorded = golden[f"eval__sub{i * steps + step}_index"]
            np.testing.assert_array_equal(np.sort(index), np.sort(recorded))
            coords = golden[f"eval__sub{i * steps + step}_coords_first2"]
            for ours, theirs in zip(points, coords, strict=False):
                assert sorted(ours.round(5).tolist()) == sorted(theirs.round(5).tolist())
            values = golden[f"eval__sub{i * steps + step}_pred"][np.arange(count), labels]
            flat = logits.reshape(count, -1)
            np.put_along_axis(flat, recorded, values, axis=1)
        assert difference(logits, golden[f"eval__refined_logits{i}"]) < 1e-4


def test_detections_in_the_same_order(golden):
    found, _ = golden.prediction
    original = np.asarray([meta["ori_shape"] for meta in golden.meta["metas"]])
    count = len(golden.images)
    images = np.zeros((count, *golden.meta["batch"], 3), np.uint8)
    batch = EvalBatch(images, golden.sizes, original, np.arange(count), np.ones(count, bool))
    predictions = to_predictions(found, batch)
    for i, prediction in enumerate(predictions):
        boxes = found.boxes[i, : len(golden[f"eval__rcnn_boxes{i}"])]
        assert difference(boxes, golden[f"eval__rcnn_boxes{i}"]) < 1e-4
        assert difference(prediction.boxes, golden[f"eval__det{i}_bboxes"]) < 1e-4
        assert difference(prediction.scores, golden[f"eval__det{i}_scores"]) < 1e-4
        np.testing.assert_array_equal(prediction.labels, golden[f"eval__det{i}_labels"])
        ours = np.stack([mask_api.decode(rle) for rle in prediction.rles])
        differs = (ours != golden.unpacked(f"eval__det{i}_masks")).sum()
        print("pixels that differ", differs, "of", ours.size)
        assert differs <= 12  # in float64, MMDetection's own masks differ in up to 10

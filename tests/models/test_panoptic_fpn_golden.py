"""Panoptic FPN against MMDetection's: the same weights and pixels give the same numbers."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pycocotools import mask as mask_api

from jaxseg.evaluation import to_predictions
from jaxseg.heads import rcnn, rpn
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.roi_sampling import Proposals
from jaxseg.models import mask_rcnn
from jaxseg.models import panoptic_fpn as module
from jaxseg.models.panoptic_fpn import PanopticFPN, PanopticFPNConfig, SemanticHeadConfig
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.padding import round_up_size
from jaxseg.types import EvalBatch, HeuristicMerging, PanopticMerging
from jaxseg.zoo.engine import export_state
from jaxseg.zoo.panoptic_fpn import mmdet_table
from tests.goldens import difference, nchw
from tests.models.mmdet_golden import Golden, trunk_fields

pytestmark = pytest.mark.golden


def golden_config(meta) -> PanopticFPNConfig:
    """Return the config of a golden's settings."""
    semantic, test = meta["config"]["semantic_head"], meta["config"]["test_cfg"]
    mask = meta["config"]["roi_head"]["mask_head"]
    return PanopticFPNConfig(
        **trunk_fields(meta),
        mask=MaskHeadConfig(
            num_convs=mask["num_convs"],
            conv_dim=mask["conv_out_channels"],
            logit_init_std=None,
            mask_targets="binary",
        ),
        num_stuff_classes=semantic["num_stuff_classes"],
        semantic=SemanticHeadConfig(
            conv_dim=semantic["inner_channels"],
            norm_groups=semantic["norm_cfg"]["num_groups"],
            loss_weight=semantic["loss_seg"]["loss_weight"],
            count_ignored=True,
        ),
        merging=HeuristicMerging(
            score_threshold=test["rcnn"]["score_thr"],
            max_overlap=test["panoptic"]["mask_overlap"],
            min_stuff_area=test["panoptic"]["stuff_area_limit"],
        ),
    )


@pytest.fixture(scope="module", params=["panoptic_fpn"])
def golden(request, shared):
    return Golden(shared, request.param, golden_config, module, PanopticFPN)


def test_every_stage(golden):
    found, stages = golden.prediction
    differences = {}

    def compare(name, actual, key):
        differences[name] = difference(actual, golden[key])

    for level in range(2, 6):
        step = golden.meta["channel_stride"][f"eval__C{level}"]
        x = nchw(stages["backbone"]["__call__"][0][2**level], step)
        compare(f"C{level}", x, f"eval__C{level}")
    outputs, start = stages["rpn_head"]["__call__"][0], 0  # of all levels: [B, K], [B, K, 4]
    for i, (stride, x) in enumerate(stages["fpn"]["__call__"][0].items()):
        compare(f"P at stride {stride}", nchw(x), f"eval__P_l{i}")
        end = start + x.shape[1] * x.shape[2] * len(golden.config.rpn.aspect_ratios)
        for name, output in zip(("logits", "deltas"), outputs, strict=True):
            of_level = nchw(output[:, start:end].reshape(*x.shape[:3], -1))
            compare(f"RPN's {name} at stride {stride}", of_level, f"eval__rpn_{name}_l{i}")
        start = end
    logits, deltas = stages["box_head"]["__call__"][0]
    compare("class logits", logits, "eval__cls_score")
    compare("box deltas", deltas.reshape(len(deltas), -1), "eval__bbox_pred")
    labels = np.concatenate([golden[f"eval__rcnn_labels{i}"] for i in range(len(golden.images))])
    own_class = golden["eval__mask_logits"][np.arange(len(labels)), labels]
    used = np.asarray(found.valid).reshape(-1)
    mask_logits = np.asarray(stages["mask_head"]["__call__"][0])[used]
    differences["mask logits"] = difference(mask_logits, own_class)
    compare("semantic logits", nchw(found.semantic), "eval__seg_logits")
    print(json.dumps(differences, indent=1))
    assert all(value < 1e-4 for value in differences.values()), differences
    things = golden.config.num_classes
    assert found.panoptic_merging == PanopticMerging(things, golden.config.merging)


def original_size(golden):
    """The images as `predict` got them, with the sizes that MMDetection scaled them back to."""
    count = len(golden.images)
    return EvalBatch(
        np.zeros((count, *golden.meta["batch"], 3), np.uint8),
        golden.sizes,
        np.asarray([meta["ori_shape"] for meta in golden.meta["metas"]]),
        np.arange(count),
        np.ones(count, bool),
    )


def test_instances_in_the_same_order(golden):
    found, _ = golden.prediction
    for i, prediction in enumerate(to_predictions(found, original_size(golden))):
        count = len(golden[f"eval__rcnn_scores{i}"])
        boxes = np.asarray(found.boxes[i, :count])
        assert difference(boxes, golden[f"eval__rcnn_boxes{i}"]) < 1e-4
        np.testing.assert_array_equal(prediction.labels, golden[f"eval__ins{i}_labels"])
        assert difference(prediction.scores, golden[f"eval__ins{i}_scores"]) < 1e-4
        assert difference(prediction.boxes, golden[f"eval__ins{i}_boxes"]) < 1e-4
        masks = np.stack([mask_api.decode(rle) for rle in prediction.rles]).astype(bool)
        # In float64, MMDetection's own masks differ in up to 10 pixels.
        assert (masks != golden.unpacked(f"eval__ins{i}_masks")).sum() <= 10


def test_panoptic_maps(golden):
    found, _ = golden.prediction
    things = golden.config.num_classes
    for i, prediction in enumerate(to_predictions(found, original_size(golden))):
        ids, segments = prediction.panoptic
        # MMDetection's ids are the label plus 1000 times the instance's number; the void is last.
        ours = np.full(ids.shape, things + golden.config.num_stuff_classes, np.int32)
        instances = itertools.count(1)
        for segment in segments:
            number = next(instances) if segment.label < things else 0
            ours[ids == segment.id] = segment.label + 1000 * number
        expected = golden[f"eval__panoptic{i}"][0]
        print("panoptic pixels that differ", (ours != expected).sum(), "segments", len(segments))
        assert set(np.unique(ours)) == set(np.unique(expected))
        assert (ours != expected).sum() <= 4  # in float64, MMDetection's own maps differ in 1


def test_semantic_targets(golden):
    channel, labelled = module.semantic_targets(
        golden.config, golden.batch(semantic_stride=module.STRIDE).semantic
    )
    np.testing.assert_array_equal(np.where(labelled, channel, 255), golden["train__seg_target"])


def everything_sampled(net, batch, proposals):
    """The losses where all anchors and RoIs are sampled, given the RoIs' proposals."""
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    # MMDetection's anchors end at each image's own padding, to a multiple of 32.
    anchors = rpn.make_anchors(config.rpn, pyramid, round_up_size(batch.image_size, 32))
    every = dataclasses.replace(
        config.rpn, batch_size_per_image=anchors.boxes.shape[1], positive_fraction=1.0
    )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch.index)
    samples = rpn.sample_anchors(every, anchors, batch, keys)
    terms = rpn.rpn_losses(every, net.rpn_head(pyramid), anchors, samples, batch)
    rois, _ = rcnn.sample_rois(config.box, proposals, batch, keys)
    # MMDetection pads the masks with the batch, so that RoIs at an image's border pool zeros.
    padded = batch._replace(image_size=padded_size)
    terms |= mask_rcnn.roi_losses(net, pyramid, rois, padded)
    logits = net.semantic_head(pyramid, padded_size)
    terms["semantic"] = module.semantic_loss(config, logits, batch)
    return terms, (samples, rois)


@pytest.fixture(scope="module")
def gradient(golden):
    """The gradient and what was sampled, as a function of batch and proposals; compiled once."""
    slots = golden.batch().labels.shape[1] + len(golden["train__roi_input_proposals0"])
    box = dataclasses.replace(golden.config.box, batch_size_per_image=slots, positive_fraction=1.0)
    net = PanopticFPN(dataclasses.replace(golden.config, box=box))

    # All arrays are arguments: XLA would compute layers of constants with another rounding.
    def total(params, batch_stats, batch, proposals):
        variables = {"params": params, "batch_stats": batch_stats}
        terms, sampled = nn.apply(everything_sampled, net)(variables, batch, proposals)
        means = {name: t.weight * t.total / t.count for name, t in terms.items()}
        return sum(means.values()), (means, sampled)

    return jax.jit(jax.grad(total, has_aux=True))


def run_training(golden, gradient, mode, empty=()):
    """Return gradients by MMDetection's names, losses, and what was sampled."""
    count = len(golden.images)
    boxes = np.stack([golden[f"{mode}__roi_input_proposals{i}"] for i in range(count)])
    proposals = Proposals(jnp.asarray(boxes), jnp.ones(boxes.shape[:2], bool))
    batch = golden.batch(empty=empty, semantic_stride=module.STRIDE)
    variables = merge_frozen(golden.variables)
    grads, (means, sampled) = gradient(
        variables["params"], variables["batch_stats"], batch, proposals
    )
    exported = export_state({**variables, "params": grads}, list(mmdet_table(golden.config)))
    return exported, means, sampled


LOSSES = {
    "rpn_class": "loss_rpn_cls_",
    "rpn_box": "loss_rpn_bbox_",
    "box_class": "loss_cls",
    "box": "loss_bbox",
    "mask": "loss_mask",
    "semantic": "loss_seg",
}
"""The names in MMDetection, of which the RPN's are those of each level."""


def check_losses_and_norms(golden, mode, exported, means, names):
    for ours, theirs in LOSSES.items():
        keys = [key for key in golden.arrays if key.startswith(f"{mode}__loss.{theirs}")]
        expected = sum(float(golden[key]) for key in keys)
        print(mode, ours, float(means[ours]) / expected - 1)
        np.testing.assert_allclose(means[ours], expected, rtol=1e-4, err_msg=ours)
    norms = np.asarray([np.linalg.norm(exported[name].astype(np.float64)) for name in names])
    expected = golden[f"{mode}__grad_l2"]
    print(
        mode,
        "norms",
        (np.abs(norms - expected) / np.maximum(expected, 1e-3 * expected.max())).max(),
    )
    np.testing.assert_allclose(norms, expected, rtol=1e-3, atol=1e-3 * expected.max())


@pytest.mark.slow
def test_losses_and_gradients(golden, gradient):
    exported, means, (samples, rois) = run_training(golden, gradient, "train")
    learned = golden.unpacked("train__rpn_label_weights_nonzero")
    positive, valid = np.zeros_like(learned), np.zeros_like(learned)
    for i in range(len(valid)):
        valid[i, samples.anchor[i][samples.valid[i]]] = True
        positive[i, samples.anchor[i][samples.positive[i]]] = True
    np.testing.assert_array_equal(valid, learned)
    np.testing.assert_array_equal(positive, (golden["train__rpn_labels"] == 0) & learned)
    for i in range(len(valid)):
        chosen = np.asarray(rois.positive[i])
        for ours, theirs in ((chosen, "pos"), (~chosen & np.asarray(rois.valid[i]), "neg")):
            boxes = np.asarray(rois.boxes[i])[ours]
            expected = golden[f"train__sample{i}_{theirs}_priors"]
            assert sorted(map(tuple, boxes)) == sorted(map(tuple, expected))

    names = golden.meta["grad_names"]
    check_losses_and_norms(golden, "train", exported, means, names)
    recorded = [name for name in names if f"train__grad__{name}" in golden.arrays]
    worst = {n: difference(exported[n], golden[f"train__grad__{n}"]) for n in recorded}
    print("largest difference of an element", max(worst.values()), max(worst, key=worst.get))
    assert max(worst.values()) < 1e-3


@pytest.mark.slow
def test_an_image_without_objects(golden, gradient):
    exported, means, _ = run_training(golden, gradient, "train_empty1", empty=(1,))
    names = golden.meta["grad_names_empty1"]
    check_losses_and_norms(golden, "train_empty1", exported, means, names)


def test_weights_are_exported_as_they_were_imported(golden):
    exported = export_state(merge_frozen(golden.variables), list(mmdet_table(golden.config)))
    counters = {name for name in golden.state if name.endswith("num_batches_tracked")}
    assert exported.keys() == golden.state.keys() - counters
    for name, array in exported.items():
        np.testing.assert_array_equal(array, golden.state[name], err_msg=name)

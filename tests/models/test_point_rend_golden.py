"""PointRend against MMDetection's: the same weights and pixels give the same numbers."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from pycocotools import mask as mask_api

from jaxseg import ops, zoo
from jaxseg.evaluation import to_predictions
from jaxseg.heads import rcnn, rpn
from jaxseg.heads.roi_sampling import Proposals, RoIs, sample_rois
from jaxseg.models import point_rend as module
from jaxseg.models.point_rend import PointRend
from jaxseg.nn.padding import round_up_size
from jaxseg.nn.resize import upsample2x
from jaxseg.types import EvalBatch
from jaxseg.zoo.engine import export_state
from jaxseg.zoo.point_rend import detectron2_table, mmdet_table
from tests.goldens import difference, nchw
from tests.models.mmdet_golden import Golden
from tests.models.point_rend_golden import golden_config, recorded_rois

pytestmark = pytest.mark.golden

KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=["pointrend"])
def golden(request, shared):
    return Golden(shared, request.param, golden_config, module, PointRend)


def test_every_stage(golden):
    _, stages = golden.prediction
    step, differences = golden.meta["channel_stride"]["eval__C2"], {}
    for level in range(2, 6):
        x = nchw(stages["backbone"]["__call__"][0][2**level], step)
        differences[f"C{level}"] = difference(x, golden[f"eval__C{level}"])
    outputs, start = stages["rpn_head"]["__call__"][0], 0  # of all levels: [B, K], [B, K, 4]
    for i, (stride, x) in enumerate(stages["fpn"]["__call__"][0].items()):
        differences[f"P at {stride}"] = difference(nchw(x), golden[f"eval__P_l{i}"])
        end = start + x.shape[1] * x.shape[2] * len(golden.config.rpn.aspect_ratios)
        for name, output in zip(("logits", "deltas"), outputs, strict=True):
            of_level = nchw(output[:, start:end].reshape(*x.shape[:3], -1))
            expected = golden[f"eval__rpn_{name}_l{i}"]
            differences[f"{name} at {stride}"] = difference(of_level, expected)
        start = end
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

    @jax.jit
    def start(logits):
        extent = jnp.broadcast_to(jnp.asarray(logits.shape[1:]), (len(logits), 2))
        logits = upsample2x(logits[..., None], extent)[..., 0]
        choose = jax.vmap(lambda x: ops.uncertain_cells(x, config.subdivision_num_points))
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


MODES = ("train", "train_empty1")
"""The recorded trainings, with all objects and without those of image 1. Their arrays are padded
to the same shapes, so that one compilation serves both."""


def losses_of_samples(net, pad_shape, batch, rois, candidates, others):
    """Compute the losses with all anchors sampled, on given RoIs and random points."""
    config = net.config
    padded_size = round_up_size(batch.image_size, config.size_divisibility)
    pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
    # MMDetection trains on the anchors within each image's own padding.
    anchors = rpn.make_anchors(config.rpn, pyramid, pad_shape)
    samples = rpn.sample_anchors(config.rpn, anchors, batch, jax.random.split(KEY, len(pad_shape)))
    terms = rpn.rpn_losses(config.rpn, net.rpn_head(pyramid), anchors, samples, batch)
    terms |= rcnn.box_stage_losses(
        config.box, config.roi_align, net.box_head, pyramid, rois, batch, padded_size
    )
    positives = RoIs(*(x[:, : candidates.shape[1]] for x in rois))
    terms |= module.mask_losses(net, pyramid[4], positives, batch, candidates, others)
    return terms, samples


@pytest.fixture(scope="module")
def gradient(golden):
    """The gradient of the sum of all losses, and the losses, compiled once."""
    divisor = golden.meta["config"]["data_preprocessor"]["pad_size_divisor"]
    pad_shape = round_up_size(jnp.asarray(golden.sizes), divisor)

    # All arrays are arguments: XLA would compute layers of constants with another rounding.
    def total(params, batch_stats, batch, rois, candidates, others):
        variables = {"params": params, "batch_stats": batch_stats}
        run = nn.apply(losses_of_samples, golden.net)
        terms, samples = run(variables, pad_shape, batch, rois, candidates, others)
        means = {name: t.weight * t.total / t.count for name, t in terms.items()}
        return sum(means.values()), (means, samples)

    function = jax.jit(jax.grad(total, has_aux=True))
    return lambda *args: function(
        golden.variables["params"], golden.variables["batch_stats"], *args
    )


LOSSES = {
    "rpn_class": "loss_rpn_cls",
    "rpn_box": "loss_rpn_bbox",
    "box_class": "loss_cls",
    "box": "loss_bbox",
    "mask": "loss_mask",
    "point": "loss_point",
}


@pytest.mark.parametrize("mode", MODES)
def test_losses_and_gradients(golden, gradient, mode):
    batch = golden.batch(empty=() if mode == "train" else (1,))
    rois, numbers = recorded_rois(golden, mode)
    grads, (means, samples) = gradient(batch, rois, *numbers)
    if mode == "train":
        check_anchors(golden, samples)
    for ours, theirs in LOSSES.items():
        names = [name for name in golden.arrays if name.startswith(f"{mode}__loss.{theirs}")]
        expected = sum(golden[name] for name in names)
        np.testing.assert_allclose(means[ours], expected, rtol=1e-4, err_msg=ours)

    exported = export_state(golden.variables | {"params": grads}, list(mmdet_table(golden.config)))
    names = golden.meta["grad_names"]
    norms = np.asarray([np.linalg.norm(exported[name].astype(np.float64)) for name in names])
    expected = golden[f"{mode}__grad_l2"]
    np.testing.assert_allclose(norms, expected, rtol=1e-3, atol=1e-3 * expected.max())
    recorded = [name for name in names if f"{mode}__grad__{name}" in golden.arrays]
    worst = [difference(exported[name], golden[f"{mode}__grad__{name}"]) for name in recorded]
    print(
        mode,
        "norms",
        np.abs(norms - expected).max() / expected.max(),
        "elements",
        max(worst, default=0),
    )
    assert max(worst, default=0) < 1e-3


def check_anchors(golden, samples):
    """Check that the sampled anchors are MMDetection's: all but those that are ignored."""
    used = golden.unpacked("train__rpn_label_weights_nonzero")
    for i, labels in enumerate(golden["train__rpn_labels"]):
        for kind, chosen in (
            (0, samples.positive[i]),
            (1, samples.valid[i] & ~samples.positive[i]),
        ):
            ours = np.sort(np.asarray(samples.anchor[i])[np.asarray(chosen)])
            np.testing.assert_array_equal(ours, np.flatnonzero(used[i] & (labels == kind)))


def test_rois_are_those_of_mmdetection(golden):
    """All proposals and ground-truth boxes are sampled, in another order."""
    batch = golden.batch()
    proposals = np.stack(golden.per_image("train__roi_input_proposals{}"))
    slots = proposals.shape[1] + batch.labels.shape[1]
    sample = functools.partial(
        sample_rois,
        batch_size_per_image=2 * slots,
        positive_fraction=0.5,
        positive_iou=golden.config.box.positive_iou,
        low_quality_overrides=golden.config.box.low_quality_overrides,
    )
    every = jnp.ones(proposals.shape[:2], bool)
    keys = jax.random.split(KEY, len(proposals))
    rois, _ = jax.jit(sample)(Proposals(jnp.asarray(proposals), every), batch, keys)
    for i in range(len(proposals)):
        positive, valid = np.asarray(rois.positive[i]), np.asarray(rois.valid[i])
        ours = np.column_stack([rois.boxes[i], rois.gt_index[i]])
        expected = np.column_stack(
            [golden[f"train__sample{i}_pos_priors"], golden[f"train__sample{i}_pos_gt_inds"]]
        )
        assert sorted(ours[positive].tolist()) == sorted(expected.tolist())
        negatives = golden[f"train__sample{i}_neg_priors"]
        assert sorted(ours[valid & ~positive, :4].tolist()) == sorted(negatives.tolist())


def test_points_and_targets_of_training(golden):
    """The points chosen among the recorded random ones, their features and targets."""
    (rois, (candidates, others)), batch = recorded_rois(golden, "train"), golden.batch()
    positives = RoIs(*(x[:, : candidates.shape[1]] for x in rois))
    is_positive, num_points = positives.positive, golden.config.point.train_num_points

    @jax.jit
    def run(variables, batch, coords):
        def stages(net):
            size = round_up_size(batch.image_size, golden.config.size_divisibility)
            pyramid = net.features(batch.images, batch.image_size, size, train=True)
            coarse = net.coarse_masks(pyramid[4], jnp.asarray(positives.boxes))
            fine = module.fine_features(pyramid[4], jnp.asarray(positives.boxes), coords)
            at_coords = jax.vmap(ops.point_sample)(coarse, coords.reshape(-1, num_points, 2))
            targets = module.point_targets("binary", positives, batch, coords)
            return coarse, fine, at_coords, targets

        return nn.apply(stages, golden.net)(variables)

    coords = np.zeros((*is_positive.shape, num_points, 2), np.float32)
    coords[is_positive] = golden["train__point_coords"]
    coarse, fine, at_coords, targets = run(golden.variables, batch, jnp.asarray(coords))
    used = is_positive.reshape(-1)
    labels = np.take_along_axis(np.asarray(batch.labels), positives.gt_index, 1)[is_positive]
    of_class = np.asarray(coarse)[used][np.arange(len(labels)), ..., labels]
    assert difference(of_class[:6], golden["train__mask_preds_gtclass_first6"]) < 1e-4
    assert difference(fine[0, :6].transpose(0, 2, 1), golden["train__point_fine_first6"]) < 1e-4
    assert difference(at_coords[used].transpose(0, 2, 1), golden["train__point_coarse"]) < 1e-4
    np.testing.assert_allclose(targets[used], golden["train__point_targets"], atol=1e-4)

    count = num_points - others.shape[2]
    choose = jax.jit(jax.vmap(lambda logits, points: ops.uncertain_points(logits, points, count)))
    chosen = np.asarray(choose(of_class, candidates[is_positive]))
    for ours, theirs in zip(chosen, golden["train__point_coords"], strict=True):
        assert sorted(ours.round(5).tolist()) == sorted(theirs[:count].round(5).tolist())


def test_weights_are_exported_as_they_were_imported(golden):
    exported = export_state(golden.variables, list(mmdet_table(golden.config)))
    names = {name for name in golden.state if not name.endswith("num_batches_tracked")}
    assert exported.keys() == names
    for name in names:
        np.testing.assert_array_equal(exported[name], golden.state[name], err_msg=name)


@pytest.mark.parametrize("is_old", [False, True])
def test_detectron2s_names_are_read_and_written(golden, is_old):
    """Its first release had the heads beside each other, and other names of the layers."""
    written = export_state(golden.variables, list(detectron2_table(golden.config)))
    if is_old:
        head = r"roi_heads\.mask_head\.(coarse|point)_head"
        written = {
            re.sub(
                r"(mask_coarse_head)\.fc",
                r"\1.coarse_mask_fc",
                re.sub(head, r"roi_heads.mask_\1_head", name),
            ): value
            for name, value in written.items()
        }
        assert "roi_heads.mask_coarse_head.coarse_mask_fc2.weight" in written
    else:
        side = golden.config.coarse.pooler_resolution // 2
        bias = written["roi_heads.mask_head.coarse_head.prediction.bias"]
        expected = golden.state["roi_head.mask_head.fc_logits.bias"]
        np.testing.assert_array_equal(bias, expected)
        assert len(bias) == golden.config.num_classes * side**2
    read = zoo.load_detectron2(written, golden.config)
    jax.tree.map(np.testing.assert_array_equal, read, golden.variables)

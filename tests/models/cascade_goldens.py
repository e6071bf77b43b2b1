"""What the goldens of MMDetection's cascades have in common: Cascade Mask R-CNN and HTC."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxseg import ops, zoo
from jaxseg.heads import rcnn
from jaxseg.heads.cascade import CascadeConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.roi_sampling import Proposals
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.padding import round_up_size
from jaxseg.zoo.engine import export_state
from tests.goldens import difference, nchw
from tests.models.mmdet_golden import anchors_of_an_image, trunk_fields

STAGES = range(3)


def golden_fields(meta):
    """Return the fields of a cascade's config that a golden states; everything is sampled."""
    roi, fields = meta["config"]["roi_head"], trunk_fields(meta)
    mask = roi["mask_head"][0] if isinstance(roi["mask_head"], list) else roi["mask_head"]
    stds = [head["bbox_coder"]["target_stds"] for head in roi["bbox_head"]]
    stages = meta["config"]["train_cfg"]["rcnn"]
    anchors = anchors_of_an_image(meta)
    return fields | {
        "rpn": replace(fields["rpn"], batch_size_per_image=anchors, positive_fraction=1.0),
        "box": replace(fields["box"], batch_size_per_image=80, positive_fraction=1.0),
        "cascade": CascadeConfig(
            positive_ious=tuple(stage["assigner"]["pos_iou_thr"] for stage in stages),
            bbox_reg_weights=tuple(tuple(1 / std for std in stage) for stage in stds),
            loss_weights=tuple(map(float, roi["stage_loss_weights"])),
        ),
        "mask": MaskHeadConfig(
            num_convs=mask["num_convs"],
            conv_dim=mask["conv_out_channels"],
            mask_targets="binary",
        ),
    }


def check_stages(golden) -> dict[str, float]:
    """Return the largest difference of each stage of the prediction."""
    _, stages = golden.prediction
    differences = {}
    for level in range(2, 6):
        x = nchw(stages["backbone"]["__call__"][0][2**level], 8)
        differences[f"C{level}"] = difference(x, golden[f"eval__C{level}"])
    for level in range(2, 7):
        x = nchw(stages["fpn"]["__call__"][0][2**level])
        differences[f"P{level}"] = difference(x, golden[f"eval__P_l{level - 2}"])
    output = stages["rpn_head"]["__call__"][0]
    for ours, theirs, width in ((output.logits, "logits", 1), (output.deltas, "deltas", 4)):
        maps = [golden[f"eval__rpn_{theirs}_l{i}"].transpose(0, 2, 3, 1) for i in range(5)]
        expected = np.concatenate([x.reshape(len(x), -1, width) for x in maps], 1)
        ours = np.asarray(ours).reshape(expected.shape)
        differences[f"rpn_{theirs}"] = difference(ours, expected)
    logits = [np.asarray(stages[f"box_heads_{k}"]["__call__"][0][0]) for k in STAGES]
    for k in STAGES:
        deltas = np.asarray(stages[f"box_heads_{k}"]["__call__"][0][1])[:, 0]
        differences[f"class_logits{k}"] = difference(logits[k], golden[f"eval__s{k}_cls_score"])
        differences[f"deltas{k}"] = difference(deltas, golden[f"eval__s{k}_bbox_pred"])
    mean = np.concatenate([golden["eval__mean_cls_score_l0"], golden["eval__mean_cls_score_l1"]])
    differences["mean_logits"] = difference(sum(logits) / 3, mean)
    return differences


def check_detections(golden):
    """Check the labels, their order and the pasted masks; return the differences of the rest."""
    found, _ = golden.prediction
    differences = {}
    for i, meta in enumerate(golden.meta["metas"]):
        count = len(golden[f"eval__det{i}_scores"])
        assert np.asarray(found.valid[i]).sum() == count
        labels = np.asarray(found.labels[i, :count])
        np.testing.assert_array_equal(labels, golden[f"eval__det{i}_labels"])
        boxes = np.asarray(found.boxes[i, :count]) / np.tile(meta["scale_factor"], 2)
        scores = np.asarray(found.scores[i, :count])
        differences[f"boxes{i}"] = difference(boxes, golden[f"eval__det{i}_bboxes"])
        differences[f"scores{i}"] = difference(scores, golden[f"eval__det{i}_scores"])
        boxes = jnp.asarray(boxes, jnp.float32)
        size = tuple(meta["ori_shape"])
        pasted = ops.paste_masks(found.masks[i, :count], boxes, size, paste="grid_sample")
        wrong = (np.asarray(pasted) >= 0.5) != golden.unpacked(f"eval__det{i}_masks")
        # In float64, MMDetection's own masks differ in up to 10 pixels.
        assert wrong.sum() <= 10, wrong.sum()
        differences[f"mask_pixels{i}"] = 1e-6 * wrong.sum()
    return differences


class Training:
    """The gradient of a golden's losses, with the recorded extra proposals, compiled once."""

    def __init__(self, golden, batch):
        self.golden, self.whole = golden, batch
        params = golden.variables["params"]
        state = {k: v for k, v in golden.variables.items() if k != "params"}

        # All arrays are arguments: XLA would compute layers of constants with another rounding.
        def total(params, state, batch, extra):
            run = nn.apply(self._losses, golden.net)
            terms, proposals = run(merge_frozen({"params": params, **state}), batch, extra)
            means = {
                name: t.weight * t.total / jnp.maximum(t.count, 1) for name, t in terms.items()
            }
            return sum(means.values()), (means, proposals)

        gradient = jax.jit(jax.grad(total, has_aux=True))
        self.run = lambda batch, extra: gradient(params, state, batch, extra)

    def _losses(self, net, batch, extra):
        config = net.config
        padded_size = round_up_size(batch.image_size, config.size_divisibility)
        keys = rcnn.image_keys(jax.random.key(0), batch, 7)
        pyramid = net.features(batch.images, batch.image_size, padded_size, train=True)
        proposals, terms = rcnn.proposals_and_losses(
            config.rpn, net.rpn_head, pyramid, batch, padded_size, keys[0]
        )
        given = Proposals(
            jnp.concatenate([proposals.boxes, extra], 1),
            jnp.pad(proposals.valid, ((0, 0), (0, extra.shape[1])), constant_values=True),
        )
        more = self.golden.module.roi_losses(net, pyramid, given, batch, keys[1:])
        return terms | more, proposals

    def check(self, mode, extra_losses=()):
        """Compare losses and gradients with those recorded in `mode`; return the differences."""
        golden, batch = self.golden, self.whole
        if mode == "train_empty1":
            batch = batch._replace(valid=batch.valid.at[1].set(False))
        count = len(golden.images)
        extra = np.stack([golden[f"gt_jittered_proposals{i}"] for i in range(count)])
        grads, (means, proposals) = self.run(batch, jnp.asarray(extra))
        if mode == "train":
            for i in range(count):
                expected = golden[f"train__proposals{i}"]
                assert difference(proposals.boxes[i, : len(expected)], expected) < 1e-4
        expected = {"rpn_class": "loss_rpn_cls", "rpn_box": "loss_rpn_bbox", **dict(extra_losses)}
        for k in STAGES:
            expected[f"stage{k + 1}_box_class"] = f"s{k}.loss_cls"
            expected[f"stage{k + 1}_box"] = f"s{k}.loss_bbox"
            expected[f"stage{k + 1}_mask"] = f"s{k}.loss_mask"
        assert means.keys() == expected.keys()
        differences = {}
        for ours, theirs in expected.items():
            keys = [k for k in golden.arrays if k.startswith(f"{mode}__loss.{theirs}")]
            differences[ours] = difference(means[ours], sum(golden[key] for key in keys))
        assert max(differences.values()) < 1e-4, differences

        entries = list(zoo.load.TABLES[type(golden.config)]["mmdet"].entries(golden.config))
        exported = export_state(merge_frozen({**golden.variables, "params": grads}), entries)
        names = golden.meta["grad_names" if mode == "train" else "grad_names_empty1"]
        norms = np.asarray([np.linalg.norm(exported[n].astype(np.float64)) for n in names])
        recorded = golden[f"{mode}__grad_l2"]
        np.testing.assert_allclose(norms, recorded, rtol=1e-3, atol=1e-3 * recorded.max())
        largest = 0.0
        for name in names:
            element = golden.arrays.get(f"{mode}__grad__{name}")
            if element is not None and element.any():
                largest = max(largest, difference(exported[name], element))
        differences["gradient norms, of the largest"] = (
            np.abs(norms - recorded).max() / recorded.max()
        )
        return differences, largest

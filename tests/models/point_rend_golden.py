"""A golden of PointRend with its config, weights and recorded training."""

import dataclasses

import numpy as np

from jaxseg.heads.roi_sampling import RoIs
from jaxseg.models.point_rend import CoarseMaskConfig, PointHeadConfig, PointRendConfig
from tests.models.mmdet_golden import anchors_of_an_image, trunk_fields


def golden_config(meta) -> PointRendConfig:
    """Return the config of a golden's settings; all anchors are sampled."""
    roi_head, fields = meta["config"]["roi_head"], trunk_fields(meta)
    train, test = meta["config"]["train_cfg"], meta["config"]["test_cfg"]
    coarse, point = roi_head["mask_head"], roi_head["point_head"]
    anchors = anchors_of_an_image(meta)
    fields["rpn"] = dataclasses.replace(fields["rpn"], batch_size_per_image=2 * anchors)
    return PointRendConfig(
        **fields,
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
            train_num_points=train["rcnn"]["num_points"],
            oversample_ratio=train["rcnn"]["oversample_ratio"],
            importance_sample_ratio=train["rcnn"]["importance_sample_ratio"],
            subdivision_steps=test["rcnn"]["subdivision_steps"],
            subdivision_num_points=test["rcnn"]["subdivision_num_points"],
        ),
    )


def recorded_rois(golden, mode):
    """Return the RoIs that MMDetection sampled, and the random points of the positive ones."""
    counts = [len(golden[f"train__sample{i}_pos_gt_inds"]) for i in range(len(golden.images))]
    slots = len(golden["train__rois"])
    shape = (len(counts), slots)
    boxes, gt_index = np.zeros((*shape, 4), np.float32), np.zeros(shape, np.int32)
    valid, positive = np.zeros(shape, bool), np.zeros(shape, bool)
    candidates, others = (golden[f"{mode}__rand{k}"] for k in range(2))
    numbers = [
        np.zeros((len(counts), max(counts), *x.shape[1:]), np.float32) for x in (candidates, others)
    ]
    first = 0
    for i, n in enumerate(counts):
        if mode == "train" or i != 1:
            parts = [golden[f"train__sample{i}_{kind}_priors"] for kind in ("pos", "neg")]
            gt_index[i, :n] = golden[f"train__sample{i}_pos_gt_inds"]
        else:  # without objects, all proposals are negatives
            n, parts = 0, [golden[f"{mode}__roi_input_proposals{i}"]]
        rois = np.concatenate(parts)
        boxes[i, : len(rois)] = rois
        valid[i, : len(rois)], positive[i, :n] = True, True
        for ours, theirs in zip(numbers, (candidates, others), strict=True):
            ours[i, :n] = theirs[first : first + n]
        first += n
    assert first == len(candidates)
    return RoIs(boxes, valid, positive, gt_index), numbers

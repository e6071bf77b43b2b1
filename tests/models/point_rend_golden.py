"""A golden of PointRend with its config, weights and recorded training."""

import numpy as np

from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.roi_pooler import RoIAlignConfig
from jaxseg.heads.roi_sampling import RoIs
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.point_rend import CoarseMaskConfig, PointHeadConfig, PointRendConfig
from jaxseg.nn.resnet import ResNetConfig


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
            count_empty=True,
            batch_size_per_image=2 * anchors_of_an_image(meta),  # all are sampled
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


def anchors_of_an_image(meta) -> int:
    height, width = meta["batch"]
    strides = meta["config"]["rpn_head"]["anchor_generator"]["strides"]
    return 3 * sum(-(-height // stride) * -(-width // stride) for stride in strides)


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

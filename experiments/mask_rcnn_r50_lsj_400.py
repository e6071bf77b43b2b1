"""Mask R-CNN R50-FPN on COCO, 400 epochs of large-scale jitter and copy-paste, from random weights.

    jaxseg train experiments/mask_rcnn_r50_lsj_400.py --workdir DIR --data.source.path COCO

Expected: mask / box AP 42.5 / 47.4 on val2017 or slightly more. These are Detectron2's results
without copy-paste (new_baselines, mask_rcnn_R_50_FPN_400ep_LSJ), which copy-paste improves
according to Ghiasi et al. 2021. Not measured here: no full run has been made. Hardware of the
reference: 64 GPUs, one image each, in half precision. On 16 devices use `--train.grad-accum-steps
4`; the statistics of batch norm are then those of a microbatch.

Differences from the reference: copy-paste, mask targets from crops, images without objects are
used too, biases are not decayed.
"""

import dataclasses

from mask_rcnn_r50_lsj_100 import experiment as base

experiment = dataclasses.replace(
    base,
    train=dataclasses.replace(
        base.train,
        steps=737_500,  # 400 epochs of 64 images a step
        optimizer=dataclasses.replace(base.train.optimizer, milestones=(655_556, 710_184)),
    ),
)

"""A small Mask R-CNN on data of one's own, from random weights.

    jaxseg train own_data --data DIR --workdir runs/mine

Classes, image sizes, anchors and the number of objects are those of the data, as `jaxseg data
check DIR` proposes them; every field can be changed on the command line. DIR is a COCO folder, an
export of an annotation tool in COCO's format, or a TFDS dataset.

Expected: of 20 fluorescence micrographs of nuclei (256x256) a usable detector in about 6 minutes
(measured: docs/benchmarks.md). Hardware: 2 CPU cores.
"""

import dataclasses

from mask_rcnn_nuclei import MODEL
from mask_rcnn_nuclei import experiment as base

from jaxseg.data import SourceConfig
from jaxseg.data.proposal import data_config, propose
from jaxseg.experiment import Experiment


def make_experiment(source: SourceConfig) -> Experiment:
    """Return the experiment for a dataset."""
    proposal = propose(source.open("train"))
    model = dataclasses.replace(
        MODEL,
        num_classes=proposal.num_classes,
        rpn=dataclasses.replace(MODEL.rpn, anchor_sizes=proposal.anchor_sizes),
        box=dataclasses.replace(MODEL.box, detections_per_image=max(100, proposal.max_objects)),
    )
    train = dataclasses.replace(
        base.train,
        steps=500,
        optimizer=dataclasses.replace(base.train.optimizer, warmup_steps=50),
        eval_every=250,
        checkpoint_every=50,
    )
    return Experiment(model=model, data=data_config(source, proposal), train=train)

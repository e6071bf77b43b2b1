"""A small Mask R-CNN on data of one's own, from random weights.

    jaxseg train own_data --data DIR --workdir runs/mine

Classes, image sizes, anchors and the number of objects are those of the data, as `jaxseg data
check DIR` proposes them; every field can be changed on the command line. DIR is a COCO folder, an
export of an annotation tool in COCO's format, or a TFDS dataset.

Expected: of 20 fluorescence micrographs of nuclei (256x256) a usable detector in about 10 minutes
(measured: docs/benchmarks.md). Hardware: 2 CPU cores.
"""

from jaxseg.data import SourceConfig
from jaxseg.data.proposal import data_config, propose
from jaxseg.experiment import Experiment
from jaxseg.heads.box_head import BoxHeadConfig
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.heads.rpn import RPNConfig
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig


def make_experiment(source: SourceConfig) -> Experiment:
    """Return the experiment for a dataset."""
    proposal = propose(source.open("train"))
    model = MaskRCNNConfig(
        num_classes=proposal.num_classes,
        backbone=ResNetConfig(depth=18, width=32, norm="sync_batch"),
        fpn_channels=64,
        head_norm="sync_batch",
        rpn=RPNConfig(
            anchor_sizes=proposal.anchor_sizes,
            batch_size_per_image=128,
            pre_nms_topk_train=400,
            pre_nms_topk_test=500,
            post_nms_topk_train=200,
            post_nms_topk_test=300,
        ),
        box=BoxHeadConfig(
            fc_dim=256,
            batch_size_per_image=64,
            pre_nms_topk=500,
            detections_per_image=max(100, proposal.max_objects),
        ),
        mask=MaskHeadConfig(num_convs=4, conv_dim=64, gt_mask_size=56),
    )
    train = TrainConfig(
        steps=500,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=50, weight_decay=1e-2
        ),
        eval_every=250,
        checkpoint_every=50,
    )
    return Experiment(model=model, data=data_config(source, proposal), train=train)

"""SOLOv2 on fluorescence micrographs of cell nuclei, from random weights.

    jaxseg train experiments/solov2_nuclei.py --workdir DIR --data.source.path NUCLEI

Data: a COCO-format folder with `mini_train.json`, `mini_val.json` and `images/`: 80 and 20
images of 256x256 pixels from the 2018 Data Science Bowl (BBBC038), about 27 nuclei each.

Measured: mask AP50 of 0.08, 0.28 and 0.45 on mini_val after 150, 300 and 450 steps. Hardware: 2
CPU cores. Time: about 8 minutes.

SOLO is weak on small crowded objects: a nucleus is 11 pixels across, less than three cells of the
mask feature and little more than one cell of the finest grid. Images are therefore enlarged to 512
pixels.
"""

from jaxseg.data import CocoFolder, DataConfig
from jaxseg.experiment import Experiment
from jaxseg.models.solov2 import SOLOv2Config
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.training.loop import TrainConfig
from jaxseg.training.optimizer import OptimizerConfig

experiment = Experiment(
    model=SOLOv2Config(
        num_classes=1,
        backbone=ResNetConfig(depth=18, width=24, norm="sync_batch"),
        fpn_channels=48,
        fpn_norm="sync_batch",
        num_grids=(48, 40, 24, 12, 8),
        scale_ranges=((1.0, 32.0), (26.0, 64.0), (52.0, 128.0), (104.0, 256.0), (208.0, 1024.0)),
        pos_scale=0.3,
        num_head_convs=2,
        head_channels=48,
        norm_groups=16,
        mask_feat_channels=32,
        mask_out_channels=32,
        max_positives=256,
        mask_loss_weight=0.3,
        min_mask_area=(4, 4, 8, 16, 16),
        detections_per_image=200,
    ),
    data=DataConfig(
        source=CocoFolder("nuclei", train="mini_train", val="mini_val"),
        buckets=((512, 512),),
        min_size=512,
        max_size=512,
        max_objects=128,
    ),
    train=TrainConfig(
        steps=450,
        batch_size=4,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=100, weight_decay=1e-2
        ),
        checkpoint_every=150,
    ),
)

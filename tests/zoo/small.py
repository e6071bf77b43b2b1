"""Published models with a few channels, as configs and as flags."""

import dataclasses

SMALL = {
    "model.num-classes": 4,
    "model.backbone.depth": 18,
    "model.backbone.width": 8,
    "model.backbone.norm-epsilon": 1e-5,
    "model.fpn-channels": 16,
    "model.rpn.pre-nms-topk-test": 20,
    "model.rpn.post-nms-topk-test": 20,
    "model.box.fc_dim": 16,
    "model.box.score-threshold": 0.0,
    "model.box.detections_per_image": 5,
    "model.mask.conv_dim": 8,
    "model.mask.num_convs": 1,
    "data.buckets": "64 64",
    "data.min-size": "64",
    "data.max-size": "64",
}
FLAGS = [part for key, value in SMALL.items() for part in (f"--{key}", *str(value).split())]


def small(config):
    """Return `config` with the fields of `SMALL` that are the model's."""
    for key, value in SMALL.items():
        path = key.replace("-", "_").split(".")
        if path[0] != "model":
            continue
        if len(path) == 2:
            config = dataclasses.replace(config, **{path[1]: value})
        else:
            part = dataclasses.replace(getattr(config, path[1]), **{path[2]: value})
            config = dataclasses.replace(config, **{path[1]: part})
    return config

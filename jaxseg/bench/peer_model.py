"""torchvision's Mask R-CNN with the weights, images and objects of jaxseg's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseg.bench.inputs import disc_masks
from jaxseg.bench.models import BenchModel, find_config
from jaxseg.bench.peer import Peer, Variant

TORCHVISION_MODEL = "maskrcnn_resnet50_fpn"
LOSSES = {
    "loss_objectness": "rpn_class",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "box_class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
}
"""The names of the losses in torchvision and in jaxseg."""


def can_build(model: BenchModel) -> bool:
    """Return whether torchvision has the model, with the same layers and settings."""
    return model.name == TORCHVISION_MODEL


def peer_predict(peer: Peer, variant: Variant, model: BenchModel) -> Callable[[], Any]:
    """Return the call that predicts on the model's batch, with masks pasted into the images."""
    net = _build(peer, variant, model).eval()
    images = _images(peer, model)
    return lambda: net(images)


def peer_step(
    peer: Peer, variant: Variant, model: BenchModel, first: dict[str, float]
) -> Callable[[], Any]:
    """Return the call of a training step on the model's batch.

    The first call writes its losses to `first`, by jaxseg's names.
    """
    torch = peer.torch
    net = _build(peer, variant, model).train()
    images, targets = _images(peer, model), _targets(peer, model)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9)

    def call() -> Any:
        losses = net(images, targets)
        total = sum(losses.values())
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(peer.device.type, enabled=False):  # as torch advises
            total.backward()
            optimizer.step()
        if not first:
            first.update({ours: float(losses[theirs].detach()) for theirs, ours in LOSSES.items()})
        return total.detach()

    return call


def _build(peer: Peer, variant: Variant, model: BenchModel) -> Any:
    """Return torchvision's model with jaxseg's variables, at the size of the images."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.resnet import resnet50
    from torchvision.ops.misc import FrozenBatchNorm2d

    from jaxseg import zoo

    size, config = model.settings.size, find_config(model.name)
    resnet = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    # Stages 3 to 5 are trained, as in jaxseg's config; the sides of the images are kept.
    net = MaskRCNN(
        _resnet_fpn_extractor(resnet, trainable_layers=3),
        num_classes=config.num_classes + 1,
        min_size=min(size),
        max_size=max(size),
    )
    state = zoo.to_torchvision(model.variables, config)
    net.load_state_dict({name: peer.torch.from_numpy(x) for name, x in state.items()})
    for layer in net.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.eps = 0.0  # as torchvision's published weights have it, and jaxseg's config
    net.to(peer.device)
    if variant.amp:
        net.to(memory_format=peer.torch.channels_last)
    return net


def _images(peer: Peer, model: BenchModel) -> list[Any]:
    """Return the images as torchvision takes them: float32 `[3, H, W]` from 0 to 1."""
    pixels = model.batch.images.astype(np.float32) / 255
    return [peer.tensor(image.transpose(2, 0, 1).copy()) for image in pixels]


def _targets(peer: Peer, model: BenchModel) -> list[dict[str, Any]]:
    """Return the objects as torchvision takes them: labels from 1, masks of the whole image."""
    batch, targets = model.batch, []
    for boxes, labels, valid in zip(batch.boxes, batch.labels, batch.valid, strict=True):
        targets.append(
            {
                "boxes": peer.tensor(boxes[valid]),
                "labels": peer.tensor(labels[valid].astype(np.int64) + 1),
                "masks": peer.tensor(
                    disc_masks(boxes[valid], model.settings.size).astype(np.uint8)
                ),
            }
        )
    return targets

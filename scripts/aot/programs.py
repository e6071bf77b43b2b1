"""The programs that can be compiled: a training step, a prediction, or a single operation.

Operations are batched over the images of a device by `jax.vmap`, as in the models, with the sizes
of Mask R-CNN R50-FPN: 256 channels, 512 RoIs, 2,000 boxes in NMS, 100 objects.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg import ops
from jaxseg.heads import rpn
from jaxseg.model import BATCH_AXIS, Model
from jaxseg.nn.conv import StemConv, convolve
from jaxseg.nn.pixels import PixelConfig, normalize
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer
from jaxseg.training.step import init_state, make_step
from jaxseg.types import batch_shapes
from jaxseg.zoo import MODELS

OBJECTS, ROIS, POSITIVES, CHANNELS, BOXES, DETECTIONS = 100, 512, 128, 256, 2000, 100
MASK, CROP = 28, 112
Shape = jax.ShapeDtypeStruct


class Program(NamedTuple):
    """A function and the shapes of its arguments on one device."""

    function: Callable[..., Any]
    replicated: tuple[Any, ...]
    """The first arguments, the same on every device."""
    batched: tuple[Any, ...]
    """The others, whose leading axis is the images of one device."""
    is_step: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to compile, from the command line."""

    model: str
    images: int
    size: tuple[int, int]
    dtype: str
    remat: bool


def make_program(what: str, settings: Settings) -> Program:
    """Return the program of a name in `PROGRAMS`. Raises ValueError for any other."""
    if what not in PROGRAMS:
        raise ValueError(f"{what!r}: give one of {', '.join(PROGRAMS)}")
    return PROGRAMS[what](settings)


def lower(program: Program, devices: list[Any]) -> Any:
    """Lower the program for all of `devices`; return JAX's `Lowered`."""
    mesh = Mesh(np.asarray(devices), (BATCH_AXIS,))
    replicated, batched = PartitionSpec(), PartitionSpec(BATCH_AXIS)

    def place(tree: Any, spec: PartitionSpec, copies: int) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: Shape(
                (x.shape[0] * copies, *x.shape[1:]) if copies > 1 else x.shape, x.dtype
            ).update(sharding=sharding),
            tree,
        )

    mapped = jax.shard_map(
        program.function,
        mesh=mesh,
        in_specs=(replicated,) * len(program.replicated) + (batched,) * len(program.batched),
        out_specs=replicated if program.is_step else batched,
        check_vma=False,  # as in jaxseg/parallel.py
    )
    arguments = [place(x, replicated, 1) for x in program.replicated]
    arguments += [place(x, batched, len(devices)) for x in program.batched]
    return jax.jit(mapped, donate_argnums=0 if program.is_step else ()).lower(*arguments)


def _model(settings: Settings) -> Model:
    """Build the model of the zoo, with two RoIAlign samples along each axis of a bin.

    Two is what jaxseg trains with. As many as a bin has cells, which Detectron2 and MMDetection
    take, would be loops whose length the compiler cannot know.
    """
    if settings.model not in MODELS:
        raise ValueError(f"--model {settings.model}: give one of {', '.join(MODELS)}")
    config: Any = MODELS[settings.model].config
    backbone = dataclasses.replace(config.backbone, remat=settings.remat)
    config = dataclasses.replace(config, compute_dtype=settings.dtype, backbone=backbone)
    if hasattr(config, "roi_align"):
        roi_align = dataclasses.replace(config.roi_align, sampling_ratio=2)
        config = dataclasses.replace(config, roi_align=roi_align)
    return config.build()


def _step(settings: Settings) -> Program:
    model = _model(settings)
    optimizer = make_optimizer(OptimizerConfig(grad_clip_norm=None), steps=1000)
    state = jax.eval_shape(lambda: init_state(model, optimizer, (1, 64, 64, 3), 0))
    batch = batch_shapes(model.targets, settings.images, settings.size, OBJECTS)
    return Program(make_step(model, optimizer, seed=0), (state,), (batch,), is_step=True)


def _predict(settings: Settings) -> Program:
    model = _model(settings)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), (1, 64, 64, 3)))
    batch = batch_shapes(model.targets, settings.images, settings.size, OBJECTS)
    return Program(model.predict, (variables,), (batch.images, batch.image_size))


def _per_image(settings: Settings, one_image: Callable[..., Any], *arguments: Any) -> Program:
    """Batch a function of one image, given the shapes of its arguments."""
    batched = jax.tree.map(lambda x: Shape((settings.images, *x.shape), x.dtype), arguments)
    return Program(jax.vmap(one_image), (), batched)


def _pyramid(settings: Settings) -> dict[int, Shape]:
    height, width = settings.size
    return {
        stride: Shape((height // stride, width // stride, CHANNELS), settings.dtype)
        for stride in (4, 8, 16, 32)
    }


def _pool(pyramid: Any, boxes: jax.Array) -> jax.Array:
    pooled = ops.multilevel_roi_align(pyramid, boxes, output_size=(7, 7), aligned=True)
    return pooled.astype(pyramid[4].dtype)


def _roi_align(settings: Settings) -> Program:
    return _per_image(settings, _pool, _pyramid(settings), Shape((ROIS, 4), np.float32))


def _roi_align_gradient(settings: Settings) -> Program:
    """Return the gradient of all maps alone, given that of the pooled features."""

    def gradient(boxes: jax.Array, of_pooled: jax.Array) -> Any:
        maps = {k: jnp.zeros(x.shape, x.dtype) for k, x in _pyramid(settings).items()}
        return jax.vjp(lambda maps: _pool(maps, boxes), maps)[1](of_pooled)[0]

    pooled = Shape((ROIS, 7, 7, CHANNELS), settings.dtype)
    return _per_image(settings, gradient, Shape((ROIS, 4), np.float32), pooled)


def _nms(settings: Settings) -> Program:
    def keep(boxes: jax.Array, scores: jax.Array) -> jax.Array:
        return ops.nms(boxes, scores, 0.7)

    boxes, scores = Shape((BOXES, 4), np.float32), Shape((BOXES,), np.float32)
    return _per_image(settings, keep, boxes, scores)


def _anchors(settings: Settings, config: rpn.RPNConfig) -> tuple[int, tuple[int, ...]]:
    """Return the number of anchors of an image, and of each level."""
    height, width = settings.size
    cells = [-(-height // s) * -(-width // s) for s in (4, 8, 16, 32, 64)]
    levels = tuple(count * len(config.aspect_ratios) for count in cells)
    return sum(levels), levels


def _rpn_matching(settings: Settings) -> Program:
    config = rpn.RPNConfig()
    anchors, _ = _anchors(settings, config)

    def match(anchors: jax.Array, boxes: jax.Array, valid: jax.Array) -> ops.Matches:
        return ops.match(
            ops.box_iou(anchors, boxes),
            valid,
            high=config.positive_iou,
            low=config.negative_iou,
            min_pos_iou=config.min_pos_iou,
        )

    boxes, valid = Shape((OBJECTS, 4), np.float32), Shape((OBJECTS,), np.bool_)
    return _per_image(settings, match, Shape((anchors, 4), np.float32), boxes, valid)


def _proposals(settings: Settings) -> Program:
    config = rpn.RPNConfig()
    total, levels = _anchors(settings, config)

    def propose(logits: jax.Array, deltas: jax.Array, anchors: jax.Array, size: jax.Array) -> Any:
        output = rpn.RPNOutput(logits[None], deltas[None])
        valid = jnp.ones((1, total), bool)
        every = rpn.Anchors(anchors[None], jnp.arange(total), valid, levels)
        found = rpn.generate_proposals(config, output, every, size[None], train=True)
        return jax.tree.map(lambda x: x[0], found)

    logits, boxes = Shape((total,), np.float32), Shape((total, 4), np.float32)
    return _per_image(settings, propose, logits, boxes, boxes, Shape((2,), np.int32))


def _mask_targets(settings: Settings) -> Program:
    def targets(masks: jax.Array, gt: jax.Array, rois: jax.Array, index: jax.Array) -> jax.Array:
        return ops.mask_targets(masks, gt, rois, index, size=MASK)

    masks, boxes = Shape((OBJECTS, CROP, CROP), np.bool_), Shape((OBJECTS, 4), np.float32)
    rois, index = Shape((POSITIVES, 4), np.float32), Shape((POSITIVES,), np.int32)
    return _per_image(settings, targets, masks, boxes, rois, index)


def _paste(settings: Settings) -> Program:
    def paste(masks: jax.Array, boxes: jax.Array) -> jax.Array:
        return ops.paste_masks(masks, boxes, settings.size, paste="grid_sample")

    masks = Shape((DETECTIONS, MASK, MASK), np.float32)
    return _per_image(settings, paste, masks, Shape((DETECTIONS, 4), np.float32))


def _convolve(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)))


def _convolution_shapes(settings: Settings) -> tuple[Shape, Shape]:
    """Return the shapes of a 3x3 kernel and the finest maps, those of the FPN and the RPN."""
    finest = _pyramid(settings)[4]
    kernel = Shape((3, 3, CHANNELS, CHANNELS), finest.dtype)
    return kernel, Shape((settings.images, *finest.shape), finest.dtype)


def _stem(settings: Settings, *, blocks: bool) -> Program:
    """Normalise and convolve images, pixel by pixel or in `blocks` (`space_to_depth`)."""
    height, width = settings.size
    image_shape = (height // 2, width // 2, 12) if blocks else (height, width, 3)
    stem = StemConv(64, 7)

    def run(kernel: jax.Array, images: jax.Array, image_size: jax.Array) -> Any:
        x = normalize(PixelConfig(), images, image_size, settings.dtype)  # type: ignore[arg-type]
        return stem.apply({"params": {"kernel": kernel.astype(x.dtype)}}, x)

    images = Shape((settings.images, *image_shape), np.uint8)
    size = Shape((settings.images, 2), np.int32)
    return Program(run, (Shape((7, 7, 3, 64), np.float32),), (images, size))


def _convolution(settings: Settings) -> Program:
    kernel, maps = _convolution_shapes(settings)
    return Program(_convolve, (kernel,), (maps,))


def _convolution_gradient(settings: Settings) -> Program:
    def gradient(kernel: jax.Array, x: jax.Array, of_result: jax.Array) -> Any:
        return jax.vjp(_convolve, kernel, x)[1](of_result)

    kernel, maps = _convolution_shapes(settings)
    return Program(gradient, (kernel,), (maps, maps))


PROGRAMS: dict[str, Callable[[Settings], Program]] = {
    "step": _step,
    "predict": _predict,
    "roi_align": _roi_align,
    "roi_align_gradient": _roi_align_gradient,
    "nms": _nms,
    "rpn_matching": _rpn_matching,
    "proposals": _proposals,
    "mask_targets": _mask_targets,
    "paste": _paste,
    "stem": functools.partial(_stem, blocks=False),
    "stem_of_blocks": functools.partial(_stem, blocks=True),
    "convolution": _convolution,
    "convolution_gradient": _convolution_gradient,
}
OF_MODEL = ("step", "predict")
"""Programs that depend on the model; the others are single operations."""

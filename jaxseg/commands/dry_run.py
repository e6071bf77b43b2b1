"""What a training will be like, told without training: `jaxseg train --dry-run`."""

from typing import Any

import jax
import numpy as np

from jaxseg import data
from jaxseg.commands.train import check_classes
from jaxseg.data.transforms.resize import choose_buckets, scaled_size
from jaxseg.experiment import Experiment
from jaxseg.model import Model
from jaxseg.parallel import check_batch_size, compile_step
from jaxseg.predictor import state_shapes
from jaxseg.training.optimizer import make_optimizer, make_schedule
from jaxseg.training.step import TrainState, make_step
from jaxseg.types import Batch

GIB = 2**30


def dry_run(experiment: Experiment) -> None:
    """Prints parameters, schedule, data, and for each canvas the cost and memory of the compiled
    step; trains and writes nothing."""
    source = experiment.data.source.open("train")
    check_classes(experiment, source)
    config, devices = experiment.train, jax.device_count()
    check_batch_size(config.batch_size, devices, config.grad_accum_steps)
    model = experiment.model.build()
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = state_shapes(experiment)
    _print_parameters(state)
    _print_schedule(experiment, len(source))
    _print_data(experiment, source)
    pieces = f", {config.grad_accum_steps} pieces each" if config.grad_accum_steps > 1 else ""
    print(f"step on {devices} device(s), {jax.devices()[0].device_kind}{pieces}")

    def compiled(pieces: int, batch: Batch) -> Any:
        step = make_step(model, optimizer, config.seed, pieces=pieces, ema_decay=config.ema_decay)
        return compile_step(step, devices, state, batch)

    for bucket in experiment.data.buckets:
        batch = batch_shapes(model, experiment.data, config.batch_size, bucket)
        planned = compiled(config.grad_accum_steps, batch)
        # XLA counts what is in a loop once, however often it runs.
        whole = planned if config.grad_accum_steps == 1 else compiled(1, batch)
        memory, cost = planned.memory_analysis(), whole.cost_analysis()
        images = config.batch_size // devices
        print(
            f"  bucket {bucket[0]}x{bucket[1]}: {cost['flops'] / images / 1e9:,.0f} GFLOP an image "
            f"with its gradient, {memory.temp_size_in_bytes / GIB:.2f} GiB of temporaries and "
            f"{memory.argument_size_in_bytes / GIB:.2f} GiB of state and batch on each device"
        )


def batch_shapes(
    model: Model, config: data.DataConfig, batch_size: int, bucket: tuple[int, int]
) -> Batch:
    """The shapes and dtypes of a global batch, as the pipeline makes it."""
    height, width = model.needs.shape(bucket)
    objects = config.max_objects
    pixels = np.float32 if config.resize_backend == "torch" else np.uint8

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    fields: dict[str, Any] = {
        "images": array(pixels, *bucket, 3),
        "image_size": array(np.int32, 2),
        "boxes": array(np.float32, objects, 4),
        "labels": array(np.int32, objects),
        "masks": array(np.uint8, objects, height, -(-width // 8)),
        "valid": array(np.bool_, objects),
        "index": array(np.int32),
        "centers": array(np.float32, objects, 2) if model.needs.centers else None,
    }
    return Batch(**fields)


def _print_parameters(state: TrainState) -> None:
    trained = sum(x.size for x in jax.tree.leaves(state.params))
    frozen = sum(x.size for x in jax.tree.leaves(state.model_state.get("frozen", {})))
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    print(f"parameters: {trained:,} trained, {frozen:,} frozen; state {held / GIB:.2f} GiB")


def _print_schedule(experiment: Experiment, images: int) -> None:
    config = experiment.train
    optimizer, epochs = config.optimizer, config.steps * config.batch_size / images
    print(f"schedule: {config.steps:,} steps of {config.batch_size} images, {epochs:.1f} epochs")
    schedule = make_schedule(optimizer, config.steps)
    at = {0, optimizer.warmup_steps, config.steps // 2, *optimizer.milestones, config.steps - 1}
    rates = ", ".join(f"{float(schedule(s)):.3g} at {s:,}" for s in sorted(at))
    print(f"learning rate ({optimizer.name}, {optimizer.schedule}): {rates}")


def _print_data(experiment: Experiment, source: data.Source) -> None:
    config, sizes = experiment.data, np.asarray(source.image_sizes)
    print(f"data: {len(source):,} images, {len(source.categories)} categories")
    counts = source.object_counts
    if counts is not None and len(counts):
        print(
            f"  {np.mean(counts):.1f} objects an image, at most {np.max(counts):,}; "
            f"{np.sum(np.asarray(counts) > config.max_objects):,} images have more than "
            f"max_objects ({config.max_objects})"
        )
    chosen = choose_buckets(sizes, config.buckets, config.min_max_size)
    for number, bucket in enumerate(config.buckets):
        mine = sizes[chosen == number].tolist()
        scaled = [
            scaled_size((h, w), bucket, config.min_max_size, config.resize_backend) for h, w in mine
        ]
        filled = [h * w / (bucket[0] * bucket[1]) for h, w in scaled]
        padding = f", {1 - np.mean(filled):.0%} of it padding" if filled else ""
        print(f"  bucket {bucket[0]}x{bucket[1]}: {len(mine):,} images{padding}")

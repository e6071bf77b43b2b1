"""`jaxseg train --dry-run`: size, cost, memory, schedule and data of an experiment."""

from typing import Any

import jax
import numpy as np

from jaxseg import data
from jaxseg.commands.train import check_num_classes, count_categories
from jaxseg.data.pipeline import abstract_batch
from jaxseg.data.transforms.resize import choose_buckets, scaled_size
from jaxseg.experiment import Experiment
from jaxseg.parallel import check_batch_size, lower_step
from jaxseg.predictor import state_shapes
from jaxseg.training.optimizer import make_optimizer, make_schedule
from jaxseg.training.step import TrainState, make_step
from jaxseg.types import Batch

GIB = 2**30


def dry_run(experiment: Experiment) -> None:
    """Print parameters, schedule, data, and the cost and memory of a step for each bucket.

    Compiles the steps; trains and writes nothing.
    """
    source = experiment.data.source.open("train")
    check_num_classes(experiment, source)
    config = experiment.train
    check_batch_size(config.batch_size, jax.device_count(), config.grad_accum_steps)
    state = state_shapes(experiment)
    _print_parameters(state)
    _print_schedule(experiment, len(source))
    _print_data(experiment, source)
    _print_steps(experiment, state)


def _print_parameters(state: TrainState) -> None:
    trained = sum(x.size for x in jax.tree.leaves(state.params))
    frozen = sum(x.size for x in jax.tree.leaves(state.model_state.get("frozen", {})))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    print(f"parameters: {trained:,} trained, {frozen:,} frozen; state {size / GIB:.2f} GiB")


def _print_schedule(experiment: Experiment, num_images: int) -> None:
    config = experiment.train
    optimizer, epochs = config.optimizer, config.steps * config.batch_size / num_images
    print(f"schedule: {config.steps:,} steps of {config.batch_size} images, {epochs:.1f} epochs")
    schedule = make_schedule(optimizer, config.steps)
    steps = {0, optimizer.warmup_steps, config.steps // 2, *optimizer.milestones, config.steps - 1}
    rates = ", ".join(f"{float(schedule(step)):.3g} at {step:,}" for step in sorted(steps))
    print(f"learning rate ({optimizer.name}, {optimizer.schedule}): {rates}")


def _print_data(experiment: Experiment, source: data.Source) -> None:
    config, sizes = experiment.data, np.asarray(source.image_sizes)  # sizes [n, 2]
    print(f"data: {len(source):,} images, {count_categories(source)}")
    counts = source.object_counts
    if counts is not None and len(counts):
        print(
            f"  {np.mean(counts):.1f} objects an image, at most {np.max(counts):,}; "
            f"{np.sum(np.asarray(counts) > config.max_objects):,} images have more than "
            f"max_objects ({config.max_objects})"
        )
    bucket_index = choose_buckets(sizes, config.buckets, config.min_max_size)  # [n]
    for index, bucket in enumerate(config.buckets):
        scaled = [
            scaled_size((height, width), bucket, config.min_max_size, config.resize_backend)
            for height, width in sizes[bucket_index == index].tolist()
        ]
        filled = [height * width / (bucket[0] * bucket[1]) for height, width in scaled]
        padding = f", {1 - np.mean(filled):.0%} of it padding" if filled else ""
        print(f"  bucket {bucket[0]}x{bucket[1]}: {len(scaled):,} images{padding}")


def _print_steps(experiment: Experiment, state: TrainState) -> None:
    config, devices, model = experiment.train, jax.device_count(), experiment.model.build()
    optimizer = make_optimizer(config.optimizer, config.steps)
    microbatches = config.grad_accum_steps
    note = f", {microbatches} microbatches each" if microbatches > 1 else ""
    print(f"step on {devices} device(s), {jax.devices()[0].device_kind}{note}")

    def lower(grad_accum_steps: int, batch: Batch) -> Any:
        step = make_step(
            model,
            optimizer,
            config.seed,
            grad_accum_steps=grad_accum_steps,
            ema_decay=config.ema_decay,
            grad_reduce_dtype=config.grad_reduce_dtype,
        )
        return lower_step(step, devices, state, batch)

    for bucket in experiment.data.buckets:
        batch = abstract_batch(experiment.data, model.targets, config.batch_size, bucket)
        lowered = lower(microbatches, batch)
        memory = lowered.compile().memory_analysis()
        # XLA counts the body of a loop once, however often it runs: the operations are counted in a
        # step without microbatches. It is not compiled, which would take as long as the other one.
        cost = (lowered if microbatches == 1 else lower(1, batch)).cost_analysis()
        images = config.batch_size // devices
        print(
            f"  bucket {bucket[0]}x{bucket[1]}: {cost['flops'] / images / 1e9:,.0f} GFLOP an image "
            f"with its gradient, {memory.temp_size_in_bytes / GIB:.2f} GiB of temporaries and "
            f"{memory.argument_size_in_bytes / GIB:.2f} GiB of state and batch on each device"
        )

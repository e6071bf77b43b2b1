"""Batches for training and evaluation, made by Grain in background threads.

The record at place p of a run's endless order (epoch after epoch, each shuffled by the
seed) is a pure function of (seed, p): its image and whether it is flipped. Batch s holds
the records from `s * batch_size` on. So batch s is the same wherever the run started, and
resuming needs nothing but the step.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from jaxseg.data.resize import Resampling, fit_image
from jaxseg.data.source import Example, Source, SourceConfig
from jaxseg.data.transforms import Sample, make_sample
from jaxseg.types import Batch, EvalBatch, MaskSpec

_ENDLESS = 1 << 40
"""A number of batches that no run reaches."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the data is and how its images become batches of static shape."""

    source: SourceConfig
    canvas: tuple[int, int]
    """`(height, width)` that images are padded to, right and below."""
    resize: tuple[int, int] | None
    """`(shorter, longer)`: sides of the resized image; None leaves images as stored."""
    resampling: Resampling = "opencv"
    """Whose way of resizing: see `jaxseg.data.resize`."""
    max_objects: int = 100
    """Slots for ground truth; in more crowded images the largest objects are kept."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    threads: int = 2
    """Threads that prepare batches ahead of the training."""


class _TrainBatches:
    """Random access to the batches of a run, from `start_step` on."""

    def __init__(
        self,
        records: grain.MapDataset,
        batch_size: int,
        places: Sequence[int],
        start_step: int,
    ):
        self._records, self._batch_size = records, batch_size
        self._places, self._start = places, start_step

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> Batch:
        first = (self._start + int(step)) * self._batch_size
        return _stack([self._records[first + place] for place in self._places], self._places)


def train_batches(
    source: Source,
    config: DataConfig,
    needs: MaskSpec,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Iterator[Batch]:
    """Endless training batches from a step on.

    `batch_size` is the global one; of `shard_count` equal parts this iterator gives the
    part `shard_index`, and `Batch.place` says where in the global batch its images are.
    """
    if batch_size % shard_count:
        raise ValueError(f"batch_size {batch_size} does not divide over {shard_count} shards")
    share = batch_size // shard_count
    places = range(shard_index * share, (shard_index + 1) * share)

    def prepare(example: Example, rng: np.random.Generator) -> Sample:
        return make_sample(
            example,
            canvas=config.canvas,
            resize=config.resize,
            max_objects=config.max_objects,
            needs=needs,
            flipped=bool(rng.random() < config.flip),
            resampling=config.resampling,
        )

    records = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(prepare)
    return _read(_TrainBatches(records, batch_size, places, start_step), config.threads)


def _stack(samples: Sequence[Sample], places: Sequence[int]) -> Batch:
    fields: dict[str, Any] = {
        name: np.stack(values) if values[0] is not None else None
        for name, values in zip(Sample._fields, zip(*samples, strict=True), strict=True)
    }
    fields["place"] = np.asarray(places, np.int32)
    return Batch(**fields)


class _EvalBatches:
    """Random access to a split's images in order, the last batch filled up."""

    def __init__(self, source: Source, config: DataConfig, batch_size: int):
        self._source, self._config, self._batch_size = source, config, batch_size

    def __len__(self) -> int:
        return -(-len(self._source) // self._batch_size)

    def __getitem__(self, number: int) -> EvalBatch:
        size, config, canvas = self._batch_size, self._config, self._config.canvas
        dtype = np.float32 if config.resampling == "torchvision" else np.uint8
        images = np.zeros((size, *canvas, 3), dtype)
        image_size = np.tile(np.asarray(canvas, np.int32), (size, 1))
        original_size, image_id = image_size.copy(), np.zeros(size, np.int64)
        first = int(number) * size
        count = min(size, len(self._source) - first)
        for slot in range(count):
            example = self._source[first + slot]
            images[slot], image_size[slot] = fit_image(
                example.image, canvas, config.resize, config.resampling
            )
            original_size[slot] = example.image.shape[:2]
            image_id[slot] = example.image_id
        return EvalBatch(images, image_size, original_size, image_id, np.arange(size) < count)


def eval_batches(source: Source, config: DataConfig, *, batch_size: int) -> Iterator[EvalBatch]:
    """Every image of a source once, in its order."""
    return _read(_EvalBatches(source, config, batch_size), config.threads)


def _read(batches: Any, threads: int) -> Iterator[Any]:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(batches).to_iter_dataset(options))

"""Batches for training and evaluation, made by Grain in the background.

A sample is a pure function of (seed, epoch, index), and batch s of a run (`jaxseg.data.order`) a
pure function of the seed and s. So batches do not depend on the step at which a run started or on
the number of workers and processes, and the whole state of the iterator is its step.
"""

import atexit
import contextlib
import copy
import dataclasses
import functools
import logging
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from jaxseg.data.config import DataConfig
from jaxseg.data.order import Order
from jaxseg.data.panoptic import check_semantic_maps
from jaxseg.data.shared_batches import take_array
from jaxseg.data.source import Source
from jaxseg.data.transforms.resize import choose_buckets, fit_image
from jaxseg.data.transforms.sample import Sample, train_sample
from jaxseg.types import Batch, EvalBatch, TargetSpec, batch_shapes

_LOG = logging.getLogger(__name__)
CLOSE_SECONDS = 5.0
"""Longest time to wait for the threads and workers of an iterator to stop."""
EXIT_SECONDS = 30.0
"""Longest time to wait for them once more at the end of the program."""
_ENDLESS = 1 << 40
"""A number of batches that no run reaches."""


def abstract_batch(
    config: DataConfig, targets: TargetSpec, batch_size: int, bucket: tuple[int, int]
) -> Batch:
    """Return the shapes and dtypes of a batch as `TrainPipeline` makes it, for `jax.jit(f).lower`.

    Raises ValueError if the bucket does not divide by a stride of the targets.
    """
    pixels = np.float32 if config.resize_backend == "torch" else np.uint8
    return batch_shapes(
        targets,
        batch_size,
        bucket,
        config.max_objects,
        pixels,
        space_to_depth=config.space_to_depth,
    )


@dataclasses.dataclass(frozen=True)
class TrainPipeline:
    """The training batches of a run, or one process's share of them.

    `batch_size` is the global one; of `shard_count` equal shares this is number `shard_index`.
    """

    source: Source
    config: DataConfig
    targets: TargetSpec
    batch_size: int
    seed: int
    shard_index: int = 0
    shard_count: int = 1

    def __post_init__(self) -> None:
        if not len(self.source):
            raise ValueError("the split has no images to train on")
        if self.batch_size % self.shard_count:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide over {self.shard_count} shards"
            )
        check_semantic_maps(self.source, self.targets)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Return `(1, H, W, 3)` of images padded to the first bucket."""
        return (1, *self.config.buckets[0], 3)

    @functools.cached_property
    def order(self) -> Order:
        """Return the order of the images over the whole run."""
        groups = choose_buckets(
            self.source.image_sizes, self.config.buckets, self.config.min_max_size
        )
        return Order(groups, seed=self.seed, batch_size=self.batch_size)

    def image_ids(self, step: int) -> list[int]:
        """Return the image ids of a step's global batch."""
        return [int(self.source.image_ids[i]) for i in self.order.batch(step).indices]

    def abstract_batches(self, start_step: int, stop_step: int) -> list[Batch]:
        """Return the shapes of this shard's batches of some steps, in the order of their first use.

        There is one for each bucket that occurs.
        """
        order = copy.copy(self.order)  # the pipeline's own would have to go back to `start_step`
        groups: dict[int, None] = {}
        for step in range(start_step, stop_step):
            groups.setdefault(order.batch(step).group)
            if len(groups) == order.num_groups:
                break
        size = self.batch_size // self.shard_count
        return [
            abstract_batch(self.config, self.targets, size, self.config.buckets[group])
            for group in groups
        ]

    def batches(self, start_step: int = 0) -> Generator[Batch]:
        """Yield this shard's batches from a step on, endlessly, with packed masks.

        `Batch.index` is each image's position in the global batch. With workers, large arrays are
        in shared memory, of which containers may have little: copy them to keep many batches.
        """
        return _read(_TrainBatches(self, start_step), self.config)


def train_batches(
    source: Source,
    config: DataConfig,
    targets: TargetSpec,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Generator[Batch]:
    """Yield training batches endlessly: `TrainPipeline(...).batches(start_step)`."""
    pipeline = TrainPipeline(source, config, targets, batch_size, seed, shard_index, shard_count)
    return pipeline.batches(start_step)


class _TrainBatches:
    """Random access to a pipeline's batches from `start_step` on, as Grain needs it."""

    def __init__(self, pipeline: TrainPipeline, start_step: int):
        share = pipeline.batch_size // pipeline.shard_count
        first = pipeline.shard_index * share
        self._pipeline, self._start = pipeline, start_step
        self._slots = range(first, first + share)  # positions in the global batch

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> Batch:
        refs = self._pipeline.order.batch(self._start + int(step))
        bucket = self._pipeline.config.buckets[refs.group]
        samples = [
            self._sample(int(refs.epochs[slot]), int(refs.indices[slot]), bucket)
            for slot in self._slots
        ]
        return _stack(samples, self._slots, self._pipeline.config)

    def _sample(self, epoch: int, index: int, bucket: tuple[int, int]) -> Sample:
        pipeline = self._pipeline
        rng = np.random.default_rng([1, pipeline.seed, epoch, index])
        try:
            return train_sample(
                pipeline.source,
                index,
                rng,
                config=pipeline.config,
                bucket=bucket,
                targets=pipeline.targets,
            )
        except Exception as error:
            error.add_note(f"(image id {pipeline.source.image_ids[index]}, epoch {epoch})")
            raise

    def describe(self, step: int) -> str:
        """Return the step and its image ids, for messages."""
        image_ids = self._pipeline.image_ids(self._start + step)
        ids = ", ".join(str(image_ids[slot]) for slot in self._slots)
        return f"the batch of step {self._start + step} (image ids {ids})"


def _stack(samples: Sequence[Sample], slots: Sequence[int], config: DataConfig) -> Batch:
    """Stack samples into a batch with packed masks, its images as blocks with `space_to_depth`.

    `slots` become `Batch.index`.
    """
    fields: dict[str, Any] = {
        name: np.stack(values) if values[0] is not None else None
        for name, values in zip(Sample._fields, zip(*samples, strict=True), strict=True)
        if name != "masks"
    }
    if config.space_to_depth:
        fields["images"] = space_to_depth(fields["images"])
    fields["masks"] = _pack_masks(samples) if samples[0].masks is not None else None
    fields["index"] = np.asarray(slots, np.int32)
    return Batch(**fields)


def space_to_depth(images: np.ndarray) -> np.ndarray:
    """Return images `[B, H, W, 3]` as blocks of 2x2 pixels: `[B, H/2, W/2, 12]`.

    The order in a block is that of `jaxseg.types.Batch.images`.
    """
    batch, height, width, channels = images.shape
    rows = images.reshape(batch, height // 2, 2, width // 2, 2 * channels)
    return np.concatenate([rows[:, :, 0], rows[:, :, 1]], axis=-1)


def _pack_masks(samples: Sequence[Sample]) -> np.ndarray:
    """Pack masks, eight pixels in a byte: uint8 `[B, N, h, w8]`.

    Unused slots, most of a batch, are not read.
    """
    masks = [sample.masks for sample in samples if sample.masks is not None]
    *shape, width = masks[0].shape
    packed = np.zeros((len(samples), *shape, -(-width // 8)), np.uint8)
    for slot, sample in enumerate(samples):
        used = int(sample.valid.sum())
        packed[slot, :used] = np.packbits(masks[slot][:used], axis=-1)
    return packed


class _EvalBatches:
    """Random access to batches of a shard of a split, one bucket a batch.

    The last batch of each bucket is filled up to the batch size with images of zeros.
    """

    def __init__(self, source: Source, config: DataConfig, batch_size: int, shard: slice):
        self._source, self._config, self._batch_size = source, config, batch_size
        groups = choose_buckets(source.image_sizes, config.buckets, config.min_max_size)
        in_shard = np.zeros(len(groups), bool)
        in_shard[shard] = True
        self._batches = [
            (bucket, members[first : first + batch_size])
            for group, bucket in enumerate(config.buckets)
            for members in [np.flatnonzero((groups == group) & in_shard)]
            for first in range(0, len(members), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def describe(self, number: int) -> str:
        """Return the image ids of a batch, for messages."""
        ids = ", ".join(str(self._source.image_ids[i]) for i in self._batches[number][1])
        return f"the batch of image ids {ids}"

    def __getitem__(self, number: int) -> EvalBatch:
        size, config = self._batch_size, self._config
        bucket, members = self._batches[int(number)]
        dtype = np.float32 if config.resize_backend == "torch" else np.uint8
        images = np.zeros((size, *bucket, 3), dtype)
        image_size = np.tile(np.asarray(bucket, np.int32), (size, 1))
        original_size, image_id = image_size.copy(), np.zeros(size, np.int64)
        for slot, index in enumerate(members.tolist()):
            example = self._source[index]
            images[slot], image_size[slot] = fit_image(
                example.image, bucket, config.min_max_size, config.resize_backend
            )
            original_size[slot] = example.image.shape[:2]
            image_id[slot] = example.image_id
        valid = np.arange(size) < len(members)
        return EvalBatch(images, image_size, original_size, image_id, valid)


def eval_batches(
    source: Source,
    config: DataConfig,
    *,
    batch_size: int,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Generator[EvalBatch]:
    """Yield every image of a source once, bucket by bucket, in the source's order in each.

    Of several shards, each has every `shard_count`-th image.
    """
    shard = slice(shard_index, None, shard_count)
    return _read(_EvalBatches(source, config, batch_size, shard), config)


_OPEN: weakref.WeakSet[Generator[Any]] = weakref.WeakSet()
"""Generators of `_read` that are not collected yet."""


_CLOSING: list[threading.Thread] = []
"""Threads that were still closing an iterator after `CLOSE_SECONDS`."""


@atexit.register
def _close_all() -> None:
    """Close what a program leaves open at its end, since Python cannot stop threads after it.

    Wait also for what is still closing, such as workers that were starting: Grain would close it a
    second time at the same time, which fails with a traceback.
    """
    for generator in list(_OPEN):
        with contextlib.suppress(ValueError):  # another thread is waiting for its next batch
            generator.close()
    last = time.monotonic() + EXIT_SECONDS
    for closing in _CLOSING:
        closing.join(max(0.0, last - time.monotonic()))


def _read(batches: Any, config: DataConfig) -> Generator[Any]:
    """Return the batches in order. Close the generator to stop its threads and workers."""
    generator = _iterate(batches, config)
    _OPEN.add(generator)
    return generator


def _iterate(batches: Any, config: DataConfig) -> Generator[Any]:
    options = grain.ReadOptions(
        num_threads=config.num_threads, prefetch_buffer_size=2 * config.num_threads
    )
    dataset = grain.MapDataset.source(batches).to_iter_dataset(options)
    if config.num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, which jaxseg does not parse
        processes = grain.MultiprocessingOptions(num_workers=config.num_workers)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker)
    iterator, done = iter(dataset), 0
    try:
        for batch in iterator:
            yield type(batch)(*(None if x is None else take_array(x) for x in batch))
            done += 1
    except RuntimeError as error:
        if "process was terminated" not in str(error):
            raise
        raise ChildProcessError(
            f"a data worker died while preparing {batches.describe(done)} or one of the next: "
            f"{str(error).partition('. ')[0]}. Exit code -9 usually means that the machine ran out "
            "of memory (set a smaller data.num_workers), -7 that /dev/shm is too small (docker: "
            "--shm-size)."
        ) from error
    finally:
        _close(iterator)


def _close(iterator: Any) -> None:
    """Stop the threads and workers of an iterator, except those that hang, as on a lost disk."""
    closing = threading.Thread(target=iterator.close, daemon=True)
    try:
        closing.start()
    except RuntimeError:  # Python 3.12 starts no thread at a program's end
        iterator.close()
        return
    closing.join(CLOSE_SECONDS)
    if closing.is_alive():
        _CLOSING.append(closing)
        _LOG.warning("some data threads or workers take long to stop, and are not waited for")


def _start_worker(worker_index: int, worker_count: int) -> None:
    """Prepare a worker process: one OpenCV thread, no reaction to signals, an end with its parent.

    Clusters send preemption notices to every process. The worker ignores them, since the training
    process needs batches until it has saved a checkpoint and stops its workers.
    """
    del worker_index, worker_count
    cv2.setNumThreads(1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit as soon as the parent process has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

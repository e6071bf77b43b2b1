"""Batches for training and evaluation, made by Grain in the background.

A record (`jaxseg.data.order`) is a pure function of (seed, epoch, index), and batch s of a run a
pure function of the seed and s. So batches are the same wherever a run started, however many
processes and hosts prepare them, and the whole state of the iterator is the number of its step.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from jaxseg.data.config import DataConfig
from jaxseg.data.order import Order
from jaxseg.data.source import Source
from jaxseg.data.transforms.resize import choose_buckets, fit_image
from jaxseg.data.transforms.sample import Sample, train_sample
from jaxseg.types import Batch, EvalBatch, MaskSpec

_ENDLESS = 1 << 40
"""A number of batches that no run reaches."""


class _TrainBatches:
    """Random access to a shard of the batches of a run, from `start_step` on."""

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        needs: MaskSpec,
        order: Order,
        *,
        seed: int,
        places: range,
        start_step: int,
    ):
        self._source, self._config, self._needs, self._order = source, config, needs, order
        self._seed, self._places, self._start = seed, places, start_step

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> Batch:
        records = self._order.batch(self._start + int(step))
        bucket = self._config.buckets[records.group]
        samples = []
        for place in self._places:
            samples.append(
                self._sample(int(records.epochs[place]), int(records.indices[place]), bucket)
            )
        return _stack(samples, self._places)

    def _sample(self, epoch: int, index: int, bucket: tuple[int, int]) -> Sample:
        rng = np.random.default_rng([1, self._seed, epoch, index])
        try:
            return train_sample(
                self._source, index, rng, config=self._config, bucket=bucket, needs=self._needs
            )
        except Exception as error:
            error.add_note(f"(image id {self._source.image_ids[index]}, epoch {epoch})")
            raise

    def describe(self, step: int) -> str:
        """The step and its images, for messages."""
        indices = self._order.batch(self._start + step).indices[self._places.start :]
        ids = ", ".join(str(self._source.image_ids[i]) for i in indices[: len(self._places)])
        return f"the batch of step {self._start + step} (image ids {ids})"


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
) -> Generator[Batch]:
    """Endless training batches from a step on, masks packed.

    `batch_size` is the global one; of `shard_count` equal parts this iterator gives the
    part `shard_index`, and `Batch.place` says where in the global batch its images are.
    """
    if batch_size % shard_count:
        raise ValueError(f"batch_size {batch_size} does not divide over {shard_count} shards")
    share = batch_size // shard_count
    batches = _TrainBatches(
        source,
        config,
        needs,
        _order(source, config, batch_size, seed),
        seed=seed,
        places=range(shard_index * share, (shard_index + 1) * share),
        start_step=start_step,
    )
    return _read(batches, config)


def batch_image_ids(
    source: Source, config: DataConfig, *, batch_size: int, seed: int
) -> Callable[[int], list[int]]:
    """The function from a step of `train_batches` to the image ids of its global batch."""
    order = _order(source, config, batch_size, seed)
    return lambda step: [int(source.image_ids[i]) for i in order.batch(step).indices]


def _order(source: Source, config: DataConfig, batch_size: int, seed: int) -> Order:
    if not len(source):
        raise ValueError("the split has no images to train on")
    groups = choose_buckets(source.image_sizes, config.buckets, config.min_max_size)
    return Order(groups, seed=seed, batch_size=batch_size)


def _stack(samples: Sequence[Sample], places: Sequence[int]) -> Batch:
    fields: dict[str, Any] = {
        name: np.stack(values) if values[0] is not None else None
        for name, values in zip(Sample._fields, zip(*samples, strict=True), strict=True)
        if name != "masks"
    }
    fields["masks"] = _pack_masks(samples)
    fields["index"] = np.asarray(places, np.int32)
    return Batch(**fields)


def _pack_masks(samples: Sequence[Sample]) -> np.ndarray:
    """The masks, eight pixels in a byte. Empty slots, most of a batch, are not looked at."""
    *shape, width = samples[0].masks.shape
    packed = np.zeros((len(samples), *shape, -(-width // 8)), np.uint8)
    for place, sample in enumerate(samples):
        used = int(sample.valid.sum())
        packed[place, :used] = np.packbits(sample.masks[:used], axis=-1)
    return packed


class _EvalBatches:
    """Random access to images of a split, grouped by canvas; each group's last batch is filled
    up."""

    def __init__(self, source: Source, config: DataConfig, batch_size: int, shard: slice):
        self._source, self._config, self._batch_size = source, config, batch_size
        groups = choose_buckets(source.image_sizes, config.buckets, config.min_max_size)
        mine = np.zeros(len(groups), bool)
        mine[shard] = True
        self._batches = [
            (bucket, members[first : first + batch_size])
            for group, bucket in enumerate(config.buckets)
            for members in [np.flatnonzero((groups == group) & mine)]
            for first in range(0, len(members), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def describe(self, number: int) -> str:
        """The batch's images, for messages."""
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
    """Every image of a source once, in its order within each canvas; of several shards, each has
    every `shard_count`-th image."""
    shard = slice(shard_index, None, shard_count)
    return _read(_EvalBatches(source, config, batch_size, shard), config)


def _read(batches: Any, config: DataConfig) -> Generator[Any]:
    """The batches in order. Close the iterator to stop what runs in the background."""
    options = grain.ReadOptions(
        num_threads=config.num_threads, prefetch_buffer_size=2 * config.num_threads
    )
    dataset = grain.MapDataset.source(batches).to_iter_dataset(options)
    if config.num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, which nobody parses here
        processes = grain.MultiprocessingOptions(num_workers=config.num_workers)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker)
    iterator, done = iter(dataset), 0
    try:
        for batch in iterator:
            # From processes come arrays in shared memory, which is given back at once.
            yield type(batch)(*(None if x is None else np.array(x) for x in batch))
            done += 1
    except RuntimeError as error:
        if "process was terminated" not in str(error):
            raise
        raise ChildProcessError(
            f"a process that prepares data died before {batches.describe(done)} was there, at that "
            f"one or a few after it: {str(error).partition('. ')[0]}. Exit code -9 mostly means "
            "that the machine ran out of memory (fewer workers need less), -7 that /dev/shm is too "
            "small (docker: --shm-size)."
        ) from error
    finally:
        iterator.close()


def _start_worker(worker_index: int, worker_count: int) -> None:
    """One thread of OpenCV's in each of many processes is enough. It ends when the training ends
    it, or has died: clusters send their notices to every process, and a run saves after one."""
    del worker_index, worker_count
    cv2.setNumThreads(1)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

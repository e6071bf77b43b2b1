"""Assign images to the batches of a run: endless, shuffled in every epoch, one bucket a batch.

Terms:
    sample reference   one use of an image in training: `(epoch, index)`. Each epoch has each
                       index once
    group              the images that share a bucket; a batch has images of one group

In every epoch the images come in an order drawn from (seed, epoch). Each joins the queue of its
group, and a queue becomes a batch when it holds `batch_size` images. What is left in the queues at
the end of an epoch comes first in the next one. So batch s is a function of the seed, the groups
and the batch size, and every process computes it without communication.
"""

import threading
from typing import Any, NamedTuple

import numpy as np


class SampleRefs(NamedTuple):
    """The sample references of one global batch, and their group."""

    group: int
    epochs: np.ndarray  # int64 [B]
    indices: np.ndarray  # int64 [B]


class _EpochStart(NamedTuple):
    """The number of an epoch, its first batch, and the references left over before it."""

    epoch: int
    first_batch: int
    queued: np.ndarray  # int64 [q, 2], (epoch, index) in order of arrival


class Order:
    """Random access to the batches of a run. `groups[i]` is the group of image i."""

    def __init__(self, groups: np.ndarray, *, seed: int, batch_size: int):
        self._groups, self._seed, self._batch_size = np.asarray(groups), seed, batch_size
        self._lock = threading.Lock()
        self.num_groups = len(np.unique(self._groups))
        """Number of groups that have images."""
        self._go_to(_FIRST_EPOCH)

    def __reduce__(self) -> Any:
        # A lock cannot be pickled: rebuild the order from its arguments.
        return _rebuild, (self._groups, self._seed, self._batch_size)

    def batch(self, number: int) -> SampleRefs:
        """Return batch `number`, counted from 0 over all epochs.

        Within the epoch of the previous call this is an array access. A later epoch is computed
        from that one on, an earlier one from epoch 0 on.
        """
        with self._lock:
            if number < self._start.first_batch:
                self._go_to(_FIRST_EPOCH)
            while number >= self._start.first_batch + len(self._batches):
                next_batch = self._start.first_batch + len(self._batches)
                self._go_to(_EpochStart(self._start.epoch + 1, next_batch, self._left_over))
            refs = self._batches[number - self._start.first_batch]  # [B, 2]
        return SampleRefs(int(self._groups[refs[0, 1]]), refs[:, 0], refs[:, 1])

    def _go_to(self, start: _EpochStart) -> None:
        """Compute the batches of an epoch, int64 `[batches, B, 2]`, and what it leaves over."""
        self._start = start
        rng = np.random.default_rng([0, self._seed, start.epoch])
        shuffled = rng.permutation(len(self._groups))  # [images]
        new = np.stack([np.full_like(shuffled, start.epoch), shuffled], axis=1)
        refs = np.concatenate([start.queued, new])  # [q + images, 2]
        groups = self._groups[refs[:, 1]]
        batches, last = [], []
        left_over = np.zeros(len(refs), bool)
        for group in np.unique(groups):
            queue = np.flatnonzero(groups == group)  # positions in `refs`, in order of arrival
            full = len(queue) // self._batch_size * self._batch_size
            batches.append(queue[:full].reshape(-1, self._batch_size))  # [batches of group, B]
            last.append(batches[-1][:, -1])
            left_over[queue[full:]] = True
        # A batch is complete when its last reference arrives: order the groups' batches by that.
        by_completion = np.argsort(np.concatenate(last))
        self._batches = refs[np.concatenate(batches)[by_completion]]
        self._left_over = refs[left_over]


_FIRST_EPOCH = _EpochStart(0, 0, np.zeros((0, 2), np.int64))


def _rebuild(groups: np.ndarray, seed: int, batch_size: int) -> Order:
    return Order(groups, seed=seed, batch_size=batch_size)

"""Which images make up the batches of a run: endless, shuffled anew each epoch, one canvas a batch.

Terms:
    record   one use of an image in training: `(epoch, index)`. Each epoch has each index once.
    group    the images that share a canvas; a batch has records of one group

In every epoch the images come in an order drawn from (seed, epoch). Each one joins its group's
queue, and a queue that holds a batch becomes one. What is left in the queues at the end of an
epoch comes first in the next. So batch s is a function of the seed, the groups and the batch's
size, and every host can tell it without asking another.
"""

import threading
from typing import Any, NamedTuple

import numpy as np


class RecordBatch(NamedTuple):
    """The records of one global batch, and the group they share."""

    group: int
    epochs: np.ndarray  # int64 [B]
    indices: np.ndarray  # int64 [B]


class _Epoch(NamedTuple):
    """Where an epoch begins: its number, its first batch and the records still queued."""

    number: int
    first_batch: int
    queued: np.ndarray  # int64 [q, 2], (epoch, index) in order of arrival


class Order:
    """Random access to the batches. `groups[i]` is the group of image i."""

    def __init__(self, groups: np.ndarray, *, seed: int, batch_size: int):
        self._groups, self._seed, self._size = np.asarray(groups), seed, batch_size
        self._lock = threading.Lock()
        self._begin = _Epoch(0, 0, np.zeros((0, 2), np.int64))
        self._batches = self._make(self._begin)

    def __reduce__(self) -> Any:
        return _remake, (self._groups, self._seed, self._size)

    def batch(self, number: int) -> RecordBatch:
        """Batch `number`, counted from 0 over all epochs. Cheap if close to the last one asked."""
        with self._lock:
            if number < self._begin.first_batch:
                self._begin = _Epoch(0, 0, np.zeros((0, 2), np.int64))
                self._batches = self._make(self._begin)
            while number >= self._begin.first_batch + len(self._batches[0]):
                self._begin = _Epoch(
                    self._begin.number + 1,
                    self._begin.first_batch + len(self._batches[0]),
                    self._batches[1],
                )
                self._batches = self._make(self._begin)
            records = self._batches[0][number - self._begin.first_batch]
        return RecordBatch(int(self._groups[records[0, 1]]), records[:, 0], records[:, 1])

    def _make(self, begin: _Epoch) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's batches, `[batches, B, 2]`, and the records left over."""
        drawn = np.random.default_rng([0, self._seed, begin.number]).permutation(len(self._groups))
        new = np.stack([np.full_like(drawn, begin.number), drawn], axis=1)
        records = np.concatenate([begin.queued, new])
        groups = self._groups[records[:, 1]]
        members, completed = [], []
        left = np.zeros(len(records), bool)
        for group in np.unique(groups):
            places = np.flatnonzero(groups == group)
            whole = len(places) // self._size * self._size
            members.append(places[:whole].reshape(-1, self._size))
            completed.append(members[-1][:, -1])
            left[places[whole:]] = True
        by_completion = np.argsort(np.concatenate(completed))
        return records[np.concatenate(members)[by_completion]], records[left]


def _remake(groups: np.ndarray, seed: int, batch_size: int) -> Order:
    return Order(groups, seed=seed, batch_size=batch_size)

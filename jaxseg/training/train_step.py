"""The training step of a run on all devices, which can be compiled before its first batch."""

import jax
import numpy as np

from jaxseg.parallel import ParallelStep
from jaxseg.training.step import Metrics, TrainState
from jaxseg.types import Batch


class TrainStep:
    """The step of a run, with `jaxseg.training.step.share_notice`, on all devices."""

    def __init__(self, step: ParallelStep):
        self._step = step

    def __call__(
        self, state: TrainState, batch: Batch, notice: bool
    ) -> tuple[TrainState, Metrics, jax.Array]:
        """Return the new state, the metrics and whether any process has a notice to stop.

        Args:
            state: the state, which is donated.
            batch: this process's share of the batch.
            notice: whether this process has a notice.
        """
        state, (metrics, noticed) = self._step(state, (batch, _flags(batch, notice)))
        return state, metrics, noticed

    def compile(self, state: TrainState, batch: Batch) -> None:
        """Compile the step for the shapes of a batch, which may be abstract; run nothing."""
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), batch)
        self._step.compile(state, (zeros, _flags(batch, False)))


def _flags(batch: Batch, notice: bool) -> np.ndarray:
    return np.full(batch.images.shape[0], notice, np.int32)

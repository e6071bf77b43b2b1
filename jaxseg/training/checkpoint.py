"""Checkpoints of a run: its newest states and the experiment that made them.

    WORKDIR/checkpoints/<step>/state        parameters, model state, optimiser, step
    WORKDIR/checkpoints/<step>/experiment   the experiment, as JSON

Orbax writes in the background into a folder of another name and renames it when all is
there, so a checkpoint that has its name is whole, whenever the process was killed.
"""

import pathlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxseg.training.step import TrainState


class Checkpoints:
    """The checkpoints under one workdir. Use as a context: leaving it waits for writes."""

    def __init__(self, workdir: pathlib.Path, keep: int = 3):
        self.folder = workdir.resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=("state", "experiment")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, experiment: Mapping[str, Any]) -> None:
        """Starts writing; returns once `state` may be donated."""
        if step == self.latest_step():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), experiment=ocp.args.JsonSave(dict(experiment))
            ),
        )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state at `step`, or the newest; shapes, dtypes and devices as those of `like`.

        Raises ValueError, listing the steps there are, if `step` is not among them.
        """
        steps = self._manager.all_steps()
        if step is not None and step not in steps:
            kept = ", ".join(map(str, sorted(steps)))
            raise ValueError(f"{self.folder} holds no step {step}, only {kept}")
        step = self.latest_step() if step is None else step
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=args).state

    def experiment(self) -> dict[str, Any]:
        """The experiment of the newest checkpoint."""
        args = ocp.args.Composite(experiment=ocp.args.JsonRestore())
        return self._manager.restore(self.latest_step(), args=args).experiment


def open_checkpoints(workdir: pathlib.Path) -> Checkpoints:
    """The checkpoints of a finished or running training; an error where there are none."""
    if not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoints: train with --workdir {workdir}")
    checkpoints = Checkpoints(workdir)
    if checkpoints.latest_step() is None:
        raise FileNotFoundError(f"{workdir / 'checkpoints'} holds no finished checkpoint yet")
    return checkpoints

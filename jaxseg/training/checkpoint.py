"""Checkpoints of a run: its newest states and the experiment that made them.

    WORKDIR/checkpoints/<step>/state        parameters, model state, optimiser, step, average
    WORKDIR/checkpoints/<step>/experiment   the experiment, as JSON
    WORKDIR/checkpoints/<step>/checksum     of the state, as JSON

Orbax writes in the background into a folder of another name and renames it when all is
there, so a checkpoint that has its name is whole, whenever the process was killed. One that was
damaged later fails its checksum, or cannot be read at all; it is renamed `damaged-<step>`, which
nothing clears away, and the one before it is used.
"""

import errno
import itertools
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxseg.distributed import allgather_json, process_index
from jaxseg.log import say
from jaxseg.training.step import TrainState


class _Manager(ocp.CheckpointManager):
    """Orbax's, which asks for notices with numbers of its own as it saves: JAX would let hosts
    leave by those and not by ours (`jaxseg.training.preemption`)."""

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints under one workdir. Use as a context: leaving it waits for writes.

    Opened to write, it clears away what killed processes half wrote. With `read_only` nothing
    in the folder is touched, since a training may be at work there.
    """

    def __init__(self, workdir: pathlib.Path, keep: int = 3, *, read_only: bool = False):
        self.folder, self._read_only = workdir.resolve() / "checkpoints", read_only
        # Orbax's own `read_only` does no more than this, and warns of it each time.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=not read_only, cleanup_tmp_directories=not read_only
        )
        self._failed_before = False
        self._manager = _Manager(
            self.folder, options=options, item_names=("state", "experiment", "checksum")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            failure = self._wait_for_writes()
            if failure is not None and kind is None:
                raise failure
            if failure is not None:
                say(str(failure))
        finally:
            self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest finished checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, experiment: Mapping[str, Any]) -> None:
        """Starts writing; returns once `state` may be donated.

        Raises OSError, before anything is written, where the disk has no room for it or a later
        step is there. That the checkpoint before could not be written is only told, since this one
        may do better, but two in a row are an error.
        """
        if step == self.latest_step():
            return
        failure = self._wait_for_writes()
        if failure is not None and self._failed_before:
            raise failure
        if failure is not None:
            say(str(failure))
        self._failed_before = failure is not None
        self.check_space(state)
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                experiment=ocp.args.JsonSave(dict(experiment)),
                checksum=ocp.args.JsonSave({"crc32": _checksum(state)}),
            ),
        )
        if not saved:
            raise OSError(
                f"step {step} was not saved: {self.folder} holds step {self.latest_step()}. "
                "Is another run writing there? Give each its own --workdir"
            )

    def finish(self) -> None:
        """Waits until all is on the disk; raises OSError if it could not be written."""
        failure = self._wait_for_writes()
        if failure is not None:
            raise failure

    def _wait_for_writes(self) -> OSError | None:
        """What became of the writing that was going on, where it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever Orbax and TensorStore make of a failing disk
            told = f"a checkpoint could not be written to {self.folder}: {_first_line(error)}"
            failure = OSError(told)
            failure.__cause__ = error
            return failure
        return None

    def check_space(self, state: TrainState) -> None:
        """Raises OSError if the disk has no room for one more checkpoint of this state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = sum(x.nbytes for x in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} has room for {free / 1e6:.0f} MB and a checkpoint needs "
                f"{needed / 1e6:.0f} MB. Make room; the same command then goes on from "
                f"{_step_name(self.latest_step())}",
            )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The state at `step`, or the newest whole one, on one device; shapes and dtypes as those
        of `like`.

        A damaged one is named and set aside, and the one before it read. Raises ValueError if
        `step` is damaged or, listing the steps there are, not among them.
        """
        # Named, since the devices and hosts that wrote it need not be there.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like
        )
        steps = self._common_steps()
        if step is None:
            return self._newest_state(steps, abstract)
        if step not in steps:
            kept = ", ".join(map(str, steps))
            raise ValueError(f"{self.folder} holds no step {step}, only {kept}")
        try:
            return self._read_state(step, abstract)
        except Exception as error:  # whatever Orbax and TensorStore make of broken files
            told = f"checkpoint {self.folder / str(step)} is damaged ({_first_line(error)})"
            raise ValueError(told) from error

    def experiment(self) -> dict[str, Any]:
        """The experiment of the newest checkpoint in which it can be read."""
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read(step, experiment=ocp.args.JsonRestore()).experiment
            except Exception as error:  # whatever Orbax and TensorStore make of broken files
                damaged[step] = _first_line(error)
        raise self._unreadable(damaged)

    def _common_steps(self) -> list[int]:
        """The steps that all hosts see: one may see a new one later than another."""
        seen = allgather_json(sorted(self._manager.all_steps()))
        return sorted(set.intersection(*map(set, seen)))

    def _newest_state(self, steps: list[int], like: TrainState) -> TrainState:
        """The newest state that all hosts can read."""
        damaged: dict[int, str] = {}
        for step in reversed(steps):
            try:
                found, why = self._read_state(step, like), None
            except Exception as error:  # whatever Orbax and TensorStore make of broken files
                found, why = None, _first_line(error)
            reasons = [reason for reason in allgather_json(why) if reason is not None]
            if found is not None and not reasons:
                self._set_aside(damaged)
                return found
            damaged[step] = reasons[0]
        raise self._unreadable(damaged)

    def _read_state(self, step: int, like: TrainState) -> TrainState:
        state, checksum = ocp.args.StandardRestore(like), ocp.args.JsonRestore()
        found = self._read(step, state=state, checksum=checksum)
        if _checksum(found.state) != found.checksum["crc32"]:
            raise ValueError("its checksum is another")
        return found.state

    def _read(self, step: int, **items: Any) -> Any:
        """Reads without the other hosts, which would wait for ever for one that fails."""
        alone = ocp.options.MultiprocessingOptions(
            primary_host=process_index(),
            active_processes={process_index()},
            barrier_sync_key_prefix=f"process{process_index()}",
        )
        with ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=alone
        ) as reader:
            return reader.restore(self.folder / str(step), args=ocp.args.Composite(**items))

    def _unreadable(self, damaged: Mapping[int, str]) -> ValueError:
        listed = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
        return ValueError(f"no checkpoint in {self.folder} can be read: {listed}")

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        if self._read_only:
            for step, why in damaged.items():
                say(f"checkpoint {self.folder / str(step)} is damaged ({why})")
            return
        for step, why in damaged.items():
            aside = self.folder / f"damaged-{step}"
            say(f"checkpoint {self.folder / str(step)} is damaged ({why}): kept as {aside.name}")
            if process_index() == 0:
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
        if damaged:
            ocp.multihost.sync_global_processes("jaxseg: damaged checkpoints set aside")
            self._manager.reload()


def open_checkpoints(workdir: pathlib.Path) -> Checkpoints:
    """The checkpoints of a finished or running training, to read; an error where there are none."""
    if not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoints: train with --workdir {workdir}")
    checkpoints = Checkpoints(workdir, read_only=True)
    if checkpoints.latest_step() is None:
        raise FileNotFoundError(f"{workdir / 'checkpoints'} holds no finished checkpoint yet")
    return checkpoints


def set_workdir_aside(workdir: pathlib.Path) -> None:
    """Renames a workdir, which no host has open, to the first free of `<name>-1`, `<name>-2` and so
    on; all hosts call it and return when that is done."""
    if process_index() == 0:
        names = (workdir.with_name(f"{workdir.name}-{n}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        workdir.rename(aside)
        say(f"{workdir} is kept as {aside.name}")
    ocp.multihost.sync_global_processes("jaxseg: a workdir set aside")


def _checksum(state: TrainState) -> int:
    """CRC-32 of all numbers, in the order of the tree."""
    checksum = 0
    for leaf in jax.tree.leaves(state):
        numbers: Any = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        checksum = zlib.crc32(numbers, checksum)
    return checksum


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _step_name(step: int | None) -> str:
    return "its start" if step is None else f"step {step}"

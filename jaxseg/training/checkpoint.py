"""Checkpoints of a run: its newest states, each with the metadata of the run.

    WORKDIR/checkpoints/<step>/state      parameters, model state, optimiser state, step, EMA
    WORKDIR/checkpoints/<step>/metadata   the run's experiment, categories and data, as JSON
    WORKDIR/checkpoints/<step>/checksum   CRC-32 of the state, as JSON

Orbax writes in the background into a temporary folder and renames it at the end, so a checkpoint
with its final name is complete even if the process was killed. A checkpoint that was corrupted
afterwards fails its checksum or cannot be read. It is renamed to `corrupt-<step>`, which is never
deleted, and the previous checkpoint is used.
"""

import errno
import itertools
import logging
import pathlib
import re
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxseg.distributed import allgather_json, first_line, process_index
from jaxseg.training.step import TrainState

_LOG = logging.getLogger(__name__)
_RETRY_DELAYS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each try to see the same checkpoints in all processes."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its own check for preemption.

    Orbax would pass its step numbers to JAX's preemption service, which could then let the
    processes stop after a step that `jaxseg.training.preemption` did not agree on.
    """

    def reached_preemption(self, step: int) -> bool:
        """Return False: the training loop handles preemption."""
        del step
        return False


class Checkpoints:
    """The checkpoints of one workdir, as a context manager; leaving it waits for writes.

    Args:
        workdir: the folder that holds `checkpoints`.
        max_to_keep: number of checkpoints to keep, the newest ones.
        read_only: change nothing in the folder, since a training may be running there. Otherwise
            half-written checkpoints of killed processes are deleted.
    """

    def __init__(self, workdir: pathlib.Path, max_to_keep: int = 3, *, read_only: bool = False):
        self.folder, self._read_only = workdir.resolve() / "checkpoints", read_only
        if not read_only:
            self._delete_half_written()
        # Orbax's own `read_only` has no further effect, and warns each time.
        options = ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, create=not read_only)
        self._writing = self._previous_write_failed = False
        self._manager = _Manager(
            self.folder, options=options, item_names=("state", "metadata", "checksum")
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
            failure = self._write_failure()
            if failure is not None and kind is None:
                raise failure
            if failure is not None:  # logged only: it must not replace the error of the body
                _LOG.warning("%s", failure)
        finally:
            self._manager.close()

    def _delete_half_written(self) -> None:
        """Delete what killed processes left half-written.

        Orbax can do it too, in a thread that may outlive its manager and then deletes what the next
        manager of the same folder is writing.
        """
        if process_index() == 0 and self.folder.is_dir():
            for path in list(self.folder.iterdir()):
                if path.is_dir() and ocp.utils.is_tmp_checkpoint(path):
                    shutil.rmtree(path)

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, metadata: Mapping[str, Any]) -> None:
        """Start writing a checkpoint; return as soon as `state` may be donated.

        One failed write is logged, since the next one may succeed.

        Raises:
            OSError: two writes in a row failed; or, before anything is written, the disk has too
                little space, or a later step is saved already.
        """
        # Process 0 decides: one that returns while others save would let them wait forever.
        if step == allgather_json(self.latest_step())[0]:
            return
        self.wait_or_log()
        self.check_space(state)
        self._writing = True
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                metadata=ocp.args.JsonSave(dict(metadata)),
                checksum=ocp.args.JsonSave({"crc32": checksum(state)}),
            ),
        )
        if not saved:
            raise OSError(
                f"step {step} was not saved: {self.folder} holds step {self.latest_step()}. "
                "If another run writes there, give each run its own --workdir"
            )

    def wait_or_log(self) -> None:
        """Wait for the write in progress; log its failure, or raise it as the second in a row."""
        failure = self._write_failure()
        if failure is not None and self._previous_write_failed:
            raise failure
        if failure is not None:
            _LOG.warning("%s", failure)
            self._previous_write_failed = True
        elif self._writing:  # else nothing was written since the last wait
            self._previous_write_failed = False
        self._writing = False

    def wait_until_finished(self) -> None:
        """Wait until everything is on the disk; raise OSError if a write failed."""
        failure = self._write_failure()
        if failure is not None:
            raise failure

    def _write_failure(self) -> OSError | None:
        """Wait for the write in progress; return its error, or None if it succeeded."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise many types for a failing disk
            failure = OSError(
                f"a checkpoint could not be written to {self.folder}: {first_line(error)}"
            )
            failure.__cause__ = error
            return failure
        return None

    def check_space(self, state: TrainState) -> None:
        """Raise OSError if the disk has too little space for one more checkpoint of this state.

        A collective: it raises in all processes or in none.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        required = sum(x.nbytes for x in jax.tree.leaves(state))
        free = min(allgather_json(shutil.disk_usage(self.folder).free))
        if free < required:
            latest = self.latest_step()
            raise OSError(
                errno.ENOSPC,
                f"{self.folder} has {free / 1e6:.0f} MB free and a checkpoint needs "
                f"{required / 1e6:.0f} MB. Free some space; the same command then resumes from "
                f"{'the start' if latest is None else f'step {latest}'}",
            )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Return the state at `step`, or the newest intact one, on one local device.

        A corrupt newest checkpoint is reported and renamed, and the previous one is read.

        Args:
            like: the shapes and dtypes of the state, as arrays or `jax.ShapeDtypeStruct`.
            step: the step to read, None for the newest.

        Raises:
            ValueError: `step` is corrupt or not among the saved steps, or no checkpoint is intact.
            OSError: a checkpoint cannot be read, though nothing says that it is corrupt. It is left
                as it is.
        """
        # An explicit device, since the devices that wrote the state need not exist here.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), like
        )
        steps = self.common_steps()
        if step is not None and step not in steps:
            saved = ", ".join(map(str, steps))
            raise ValueError(f"{self.folder} holds no step {step}, only {saved}")
        if step is None:
            return self._newest_state(steps, abstract)
        state = self._read_in_all(step, abstract)
        if isinstance(state, str):
            raise ValueError(f"checkpoint {self.folder / str(step)} is corrupt ({state})")
        return state

    def metadata(self) -> dict[str, Any]:
        """Return the run metadata of the newest checkpoint whose metadata can be read."""
        corrupt: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read(step, metadata=ocp.args.JsonRestore()).metadata
            except Exception as error:  # Orbax and TensorStore raise many types for corrupt files
                self._raise_unless_corrupt(step, [_failure(error)])
                corrupt[step] = first_line(error)
        raise self._nothing_readable(corrupt)

    def common_steps(self) -> list[int]:
        """Return the steps that all processes find, once they agree on the newest.

        A collective. A shared disk may show a new checkpoint, or one that was renamed, to some
        processes late: they would restore or save another step than the others. Raises OSError if
        they still see different ones after a minute.
        """
        found: list[list[int]] = []
        for delay in _RETRY_DELAYS:
            time.sleep(delay)
            self._manager.reload()
            found = allgather_json(sorted(self._manager.all_steps()))
            if len({max(steps, default=None) for steps in found}) == 1:
                return sorted(set.intersection(*map(set, found)))
        views = "; ".join(
            f"process {process} sees {', '.join(map(str, steps)) or 'none'}"
            for process, steps in enumerate(found)
        )
        raise OSError(
            f"the processes see different checkpoints in {self.folder} ({views}): it must be the "
            "same shared folder on all. If it is, run the same command again"
        )

    def _newest_state(self, steps: list[int], like: TrainState) -> TrainState:
        """Return the newest state that all processes can read."""
        corrupt: dict[int, str] = {}
        for step in reversed(steps):
            state = self._read_in_all(step, like)
            if not isinstance(state, str):
                self._set_aside(corrupt)
                return state
            corrupt[step] = state
        raise self._nothing_readable(corrupt)

    def _read_in_all(self, step: int, like: TrainState) -> TrainState | str:
        """Return a state that all processes can read, or the reason why it is corrupt for one.

        Raises OSError if one cannot read it for another reason.
        """
        state, failure = None, None
        try:
            state = self._read_state(step, like)
        except Exception as error:  # Orbax and TensorStore raise many types for corrupt files
            failure = _failure(error)
        failures = [f for f in allgather_json(failure) if f is not None]
        self._raise_unless_corrupt(step, failures)
        return failures[0]["reason"] if state is None or failures else state

    def _read_state(self, step: int, like: TrainState) -> TrainState:
        """Return the state at `step`; raise ValueError if its checksum differs."""
        items = self._read(
            step, state=ocp.args.StandardRestore(like), checksum=ocp.args.JsonRestore()
        )
        if checksum(items.state) != items.checksum["crc32"]:
            raise ValueError("checksum mismatch")
        return items.state

    def _read(self, step: int, **items: Any) -> Any:
        """Read items of a checkpoint in this process alone.

        Read together, the other processes would wait forever for one that fails.
        """
        options = ocp.options.MultiprocessingOptions(
            primary_host=process_index(),
            active_processes={process_index()},
            barrier_sync_key_prefix=f"process{process_index()}",
        )
        with ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(), multiprocessing_options=options
        ) as reader:
            return reader.restore(self.folder / str(step), args=ocp.args.Composite(**items))

    def _raise_unless_corrupt(self, step: int, failures: Sequence[Mapping[str, Any]]) -> None:
        """Raise OSError if a failure to read a checkpoint does not mean that it is corrupt."""
        reasons = [failure["reason"] for failure in failures if not failure["corrupt"]]
        if reasons:
            path = self.folder / str(step)
            raise OSError(
                f"checkpoint {path} cannot be read ({reasons[0]}). Nothing was changed: run the "
                f"same command again. If that fails too, rename {path} to use the one before"
            )

    def _nothing_readable(self, corrupt: Mapping[int, str]) -> ValueError:
        """Return the error that lists every checkpoint with the reason why it is corrupt."""
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in corrupt.items())
        return ValueError(f"no checkpoint in {self.folder} can be read: {reasons}")

    def _set_aside(self, corrupt: Mapping[int, str]) -> None:
        """Log corrupt checkpoints and, unless `read_only`, rename them to `corrupt-<step>`."""
        for step, reason in corrupt.items():
            if process_index() != 0:
                continue
            path, renamed = self.folder / str(step), self.folder / f"corrupt-{step}"
            result = "" if self._read_only else f": renamed to {renamed.name}"
            _LOG.warning("checkpoint %s is corrupt (%s)%s", path, reason, result)
            if not self._read_only:
                shutil.rmtree(renamed, ignore_errors=True)
                path.rename(renamed)
        if corrupt and not self._read_only:
            ocp.multihost.sync_global_processes("jaxseg: corrupt checkpoints renamed")
            self.common_steps()


def open_checkpoints(workdir: pathlib.Path) -> Checkpoints:
    """Open the checkpoints of a finished or running training, to read; a collective.

    Raises FileNotFoundError if there are none.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    if checkpoints.common_steps():
        return checkpoints
    if not any(allgather_json((workdir / "checkpoints").is_dir())):
        if not any(allgather_json(workdir.exists())):
            raise FileNotFoundError(f"no workdir {workdir}: give the --workdir of a training")
        raise FileNotFoundError(f"{workdir} holds no checkpoints: give the --workdir of a training")
    raise FileNotFoundError(f"{workdir / 'checkpoints'} holds no finished checkpoint yet")


def rename_to_backup(workdir: pathlib.Path) -> None:
    """Rename a workdir to the first unused name of `<name>-1`, `<name>-2` and so on.

    A collective: all processes call it, none may have the workdir open, and all return when it is
    renamed.
    """
    if process_index() == 0:
        names = (workdir.with_name(f"{workdir.name}-{n}") for n in itertools.count(1))
        backup = next(name for name in names if not name.exists())
        workdir.rename(backup)
        _LOG.info("%s is renamed to %s", workdir, backup.name)
    ocp.multihost.sync_global_processes("jaxseg: workdir renamed to a backup")


def checksum(tree: Any) -> int:
    """Return the CRC-32 of the bytes of all arrays, in the order of the tree."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        data: Any = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        value = zlib.crc32(data, value)
    return value


_TRANSIENT = re.compile(
    r"RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|out of memory"
    # TensorStore's texts; a missing file or a file in place of a folder (2, 20, 21) is corruption.
    r"|OS error (?!2:|20:|21:)\d+",
    re.IGNORECASE,
)
"""Messages of errors that may be transient: the checkpoint need not be corrupt."""


def _failure(error: Exception) -> dict[str, Any]:
    """Return the reason why a checkpoint could not be read, and whether it means corruption."""
    corrupting = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
    transient = isinstance(error, MemoryError) or (
        isinstance(error, OSError) and not isinstance(error, corrupting)
    )
    corrupt = not transient and _TRANSIENT.search(str(error)) is None
    return {"reason": first_line(error) or type(error).__name__, "corrupt": corrupt}

"""Curves and pictures for TensorBoard that outlive the process once a call returns.

tensorboardX's `SummaryWriter` hands events to a thread: what it has not yet written is lost when
the process is killed, though a checkpoint of a later step may be there to go on from.
"""

import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import image, scalar


class Curves:
    """Writes one more event file into `folder`; what earlier ones hold of steps after `start` is
    no longer shown."""

    def __init__(self, folder: pathlib.Path, start: int):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The name has whole seconds: a process that was started again in the same one must not
        # write over the file of the one before.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{start}")
        with self._named_errors():
            self._write(start + 1, session_log=SessionLog(status=SessionLog.START))
            self._writer.flush()

    def add(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """A point of each curve, and uint8 pictures `[h, w, 3]`, after `step` steps. Raises OSError
        where they cannot be written."""
        shown: list[Summary] = [scalar(name, value) for name, value in values.items()]
        shown += [image(name, p, dataformats="HWC") for name, p in pictures.items()]
        with self._named_errors():
            for summary in shown:
                self._write(step, summary=summary)
            self._writer.flush()

    def close(self) -> None:
        with self._named_errors():
            self._writer.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            told = f"curves could not be written to {self._folder}: {error.strerror}"
            raise OSError(error.errno, told) from error

    def _write(self, step: int, **content: Summary | SessionLog) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

"""Scalars and images for TensorBoard that are on the disk when a call returns.

tensorboardX's own `SummaryWriter` hands events to a thread. A killed process loses those that the
thread has not written, although a checkpoint of a later step may exist, from which the run resumes.
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


class SummaryWriter:
    """Writes a new event file into `folder` for a run that starts at step `start`.

    TensorBoard then hides what earlier files of the folder hold for steps after `start`.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The file's name has a resolution of one second: the suffix keeps a process that is
        # restarted within it from overwriting the previous file.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{start}")
        with self._folder_in_errors():
            self._write(start + 1, session_log=SessionLog(status=SessionLog.START))
            self._writer.flush()

    def write(
        self, step: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]
    ) -> None:
        """Write scalars and uint8 images `[h, w, 3]` after `step` steps, by their tags.

        Raises OSError, with the name of the folder, if the disk does not take them.
        """
        summaries: list[Summary] = [scalar(tag, value) for tag, value in scalars.items()]
        summaries += [image(tag, pixels, dataformats="HWC") for tag, pixels in images.items()]
        with self._folder_in_errors():
            for summary in summaries:
                self._write(step, summary=summary)
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        with self._folder_in_errors():
            self._writer.close()

    @contextmanager
    def _folder_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"TensorBoard events could not be written to {self._folder}: {error.strerror}"
            raise OSError(error.errno, message) from error

    def _write(self, step: int, **content: Summary | SessionLog) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

"""Videos by OpenCV: frames in, frames out."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

VIDEO_SUFFIXES = frozenset((
    ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv",
))  # fmt: skip
"""The endings of files that are opened as videos."""
_CODECS = (("avc1", ".mp4"), ("mp4v", ".mp4"), ("MJPG", ".avi"))
"""Codecs and containers for writing, the most widely playable first."""
_DEFAULT_RATE = 25.0
_MIN_READ = 0.95
"""Least part of the frames of a header, which is not always exact, that a whole video has."""
_LOG = logging.getLogger(__name__)
Frame = UInt8[np.ndarray, "h w 3"]


class Video(NamedTuple):
    """A readable video."""

    path: pathlib.Path
    frames_per_second: float


def open_video(path: pathlib.Path) -> Video:
    """Check that OpenCV can read a video.

    Raises FileNotFoundError, or ValueError if it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no video file {path}")
    with _reader(path) as reader:
        if not reader.grab():
            raise ValueError(f"{path} cannot be read as a video: it has no frame")
        rate = reader.get(cv2.CAP_PROP_FPS)
    return Video(path, rate if 0 < rate < 1000 else _DEFAULT_RATE)


def read_frames(video: Video, every: int = 1) -> Iterator[tuple[int, Frame]]:
    """Yield the number, from 0, and the RGB pixels of every `every`-th frame.

    A warning is logged at the end if a damaged video has far fewer frames than its header says.
    """
    with _reader(video.path) as reader:
        expected = reader.get(cv2.CAP_PROP_FRAME_COUNT)
        number = 0
        while reader.grab():
            if number % every == 0:
                decoded, frame = reader.retrieve()
                if not decoded:
                    break
                yield number, np.ascontiguousarray(frame[..., ::-1])
            number += 1
    if number < _MIN_READ * expected:
        _LOG.warning(
            "%s ends after %d of the %d frames that its header states: it may be damaged",
            *(video.path, number, expected),
        )


@contextlib.contextmanager
def _reader(path: pathlib.Path) -> Iterator[cv2.VideoCapture]:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of the video {str(path)!r} is not UTF-8: rename it") from error
    reader = cv2.VideoCapture(str(path.absolute()))  # a relative name could look like an address
    try:
        if not reader.isOpened():
            raise ValueError(f"{path} cannot be read as a video by OpenCV: convert it to .mp4")
        yield reader
    finally:
        reader.release()


class VideoWriter:
    """Writes RGB pictures of one size as `<stem>.mp4`, or `.avi` where that codec is missing.

    Without any codec it logs a warning and writes nothing. The file appears when the writer is
    closed; an error within leaves none.
    """

    def __init__(self, stem: pathlib.Path, frames_per_second: float):
        self._stem, self._rate = stem, frames_per_second
        self._writer: cv2.VideoWriter | None = None
        self._partial: pathlib.Path | None = None
        self._started = False
        self.path: pathlib.Path | None = None
        """The file, once it is written."""

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, picture: Frame) -> None:
        """Add a picture. Codecs need even sides: the last row or column may be cut."""
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        if not self._started:
            self._start(width, height)
        if self._writer is not None:
            self._writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))

    def _start(self, width: int, height: int) -> None:
        self._started = True
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            for codec, suffix in _CODECS:
                # OpenCV writes no file whose name is not UTF-8: it is renamed at the end.
                partial = self._stem.with_name(f"video.partial{suffix}")
                code = cv2.VideoWriter.fourcc(*codec)
                writer = cv2.VideoWriter(str(partial), code, self._rate, (width, height))
                if writer.isOpened():
                    self._writer, self._partial = writer, partial
                    return
                partial.unlink(missing_ok=True)
        finally:
            cv2.utils.logging.setLogLevel(level)
        _LOG.warning("OpenCV has no codec to write a video with: the pictures are left out")

    def __exit__(self, error: object, *_: object) -> None:
        if self._writer is None or self._partial is None:
            return
        self._writer.release()
        if error is None:
            name = self._stem.name + self._partial.suffix
            self.path = self._partial.replace(self._stem.with_name(name))
        self._partial.unlink(missing_ok=True)

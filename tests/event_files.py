"""A reader of TensorBoard's event files."""

import pathlib
import struct
from collections.abc import Iterator

from tensorboardX.proto.event_pb2 import Event


def read_events(folder: pathlib.Path) -> Iterator[Event]:
    """Yield the events of all files of a folder, the oldest file first."""
    for file in sorted(folder.glob("events*")):
        records, start = file.read_bytes(), 0
        while start + 12 <= len(records):  # length, its checksum, event, its checksum
            (length,) = struct.unpack_from("<Q", records, start)
            if start + 16 + length > len(records):
                break  # the writer was killed
            yield Event.FromString(records[start + 12 : start + 12 + length])
            start += 16 + length

"""Reads what TensorBoard reads."""

import pathlib
import struct
from collections.abc import Iterator

from tensorboardX.proto.event_pb2 import Event


def events(folder: pathlib.Path) -> Iterator[Event]:
    """The events of all files of a folder, the oldest file first."""
    for file in sorted(folder.glob("events*")):
        records, start = file.read_bytes(), 0
        while start + 12 <= len(records):  # a length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", records, start)
            if start + 16 + length > len(records):
                break  # a kill has cut it short
            yield Event.FromString(records[start + 12 : start + 12 + length])
            start += 16 + length

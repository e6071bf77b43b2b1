"""The PNGs of COCO's panoptic format (Kirillov et al. 2019; https://cocodataset.org/#format-data).

Each pixel holds the id of its segment as R + 256 G + 65536 B; 0 is void. The JSON lists the
segments. As in Detectron2 and MMDetection, the semantic map has the class of every segment, crowds
included, and is ignored in void alone.
"""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.map_png import RGB, PngError, read_map
from jaxseg.data.issues import Issue, IssuesError
from jaxseg.data.masks.regions import bitmap_bounds
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.data.source import RLE, Category, Example
from jaxseg.types import IGNORED

MAX_ID = (1 << 24) - 1


class Segments(NamedTuple):
    """The n segments of an image that the JSON lists."""

    ids: np.ndarray  # int64 [n], 1 to MAX_ID, all different
    labels: np.ndarray  # int64 [n]
    iscrowd: np.ndarray  # bool [n]
    areas: np.ndarray  # int64 [n]; -1 if not given
    boxes: np.ndarray  # int64 [n, 4], xyxy; -1 if not given


class SegmentMap(NamedTuple):
    """An image's n segments and their pixels."""

    segments: Segments
    ids: np.ndarray  # int32 [h, w]
    positions: np.ndarray  # int32 [h, w], indices of `Segments`; -1 for void; in Fortran order
    areas: np.ndarray  # int64 [n]
    boxes: np.ndarray  # int64 [n, 4], xyxy

    def example(self, image: np.ndarray, image_id: int, num_things: int) -> Example:
        """Return the example of an image, with the things as objects."""
        things = self._things(num_things)
        return Example(
            image=image,
            image_id=image_id,
            boxes=self.boxes[things].astype(np.float32),
            labels=self.segments.labels[things].astype(np.int32),
            rles=[self._rle(position) for position in things.tolist()],
            iscrowd=self.segments.iscrowd[things],
            semantic=np.append(self.segments.labels, IGNORED).astype(np.uint8)[self.positions],
        )

    def panoptic_map(self) -> PanopticMap:
        """Return the map, with the segments in their order."""
        columns = (self.segments.ids, self.segments.labels, self.segments.iscrowd)
        listed = zip(*(column.tolist() for column in columns), strict=True)
        return PanopticMap(self.ids, [Segment(*segment) for segment in listed])

    def annotations(
        self, image_id: int, first_id: int, categories: Sequence[Category]
    ) -> list[dict[str, Any]]:
        """Return the things as annotations of COCO, with areas and boxes of their pixels.

        `categories` are those of the things. The id of an annotation is `first_id` and the
        position of its segment.
        """
        annotations = []
        for position in self._things(len(categories)).tolist():
            rle = self._rle(position)
            x1, y1, x2, y2 = self.boxes[position].tolist()
            annotations.append(
                {
                    "id": first_id + position,
                    "image_id": image_id,
                    "category_id": categories[self.segments.labels[position]].id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(self.areas[position]),
                    "iscrowd": int(self.segments.iscrowd[position]),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    "segment_id": int(self.segments.ids[position]),
                }
            )
        return annotations

    def _things(self, num_things: int) -> np.ndarray:
        return np.flatnonzero(self.segments.labels < num_things)

    def _rle(self, position: int) -> RLE:
        rle: RLE = mask_api.encode((self.positions == position).view(np.uint8))
        return rle


def read_ids(file: pathlib.Path | io.BytesIO, name: str, size: tuple[int, int]) -> np.ndarray:
    """Read the id of each pixel, int32 `[h, w]`.

    Args:
        file: the file, or its bytes.
        name: how errors call it.
        size: the `(height, width)` that it must have.

    Raises:
        PngError: it cannot be decoded, is not an RGB PNG of 8 bits, or has another size.
    """
    packed = read_map(  # R << 16 | G << 8 | B
        file,
        name,
        size,
        color_types=(RGB,),
        kinds="png",
        expected="a panoptic map has 8 bits, RGB, the id of a pixel's segment being R + 256 G + "
        "65536 B",
    )
    return packed >> 16 | packed & 0xFF00 | (packed & 0xFF) << 16


def read_segments(
    file: pathlib.Path | io.BytesIO,
    name: str,
    size: tuple[int, int],
    segments: Segments,
    image_id: int,
    advice: str,
) -> SegmentMap:
    """Read the map of an image, and check that it is that of its segments.

    Args:
        file: the PNG, or its bytes.
        name: the path that issues name.
        size: the `(height, width)` of the image.
        segments: its segments.
        image_id: its id.
        advice: what errors say to do.

    Raises:
        IssuesError: it is not.
    """
    try:
        ids = read_ids(file, pathlib.Path(name).name, size)
    except PngError as error:
        issue = Issue(error.kind, name, f"image id {image_id}", "file_name", str(error))
        raise IssuesError([issue], advice) from error
    segment_map, issues = map_segments(ids, segments, name, image_id)
    if issues:
        raise IssuesError(issues, advice)
    return segment_map


def map_segments(
    ids: np.ndarray, segments: Segments, file: str, image_id: int
) -> tuple[SegmentMap, list[Issue]]:
    """Return the pixels of the segments, and the issues of a map and its JSON.

    Args:
        ids: int32 `[h, w]`.
        segments: the segments of the JSON.
        file: the PNG, for the issues.
        image_id: the image, for the issues.
    """
    count = len(segments.ids)
    order = np.argsort(segments.ids).astype(np.int32)
    # In Fortran order, in which masks are encoded. MAX_ID + 1 is nowhere in the map.
    ascending = np.append(segments.ids[order], MAX_ID + 1).astype(np.int32)
    flat = ids.ravel("F")
    found = np.searchsorted(ascending, flat)
    is_known = ascending[found] == flat
    positions = np.append(order, np.int32(-1))[found]
    positions[~is_known] = -1
    areas = np.bincount(positions + 1, minlength=count + 1)[1:]
    positions = positions.reshape(ids.shape, order="F")
    boxes = np.zeros((count, 4), np.int64)
    for position in np.flatnonzero(areas).tolist():
        top, left, bottom, right = bitmap_bounds(positions == position) or (0, 0, 0, 0)
        boxes[position] = left, top, right, bottom
    issues = [
        *_unknown_ids(flat[~is_known], file, image_id),
        *_differences(segments, areas, boxes, file, image_id),
    ]
    return SegmentMap(segments, ids, positions, areas, boxes), issues


def _unknown_ids(ids: np.ndarray, file: str, image_id: int) -> list[Issue]:
    """Return an issue for each id of the pixels without a segment, `[n]`, but void."""
    unknown, counts = np.unique(ids[ids > 0], return_counts=True)
    return [
        Issue(
            "segment-unknown",
            file,
            f"image id {image_id}, segment id {segment_id}",
            "segments_info",
            f"{count} pixels have this id, which is not among the segments of the JSON",
        )
        for segment_id, count in zip(unknown.tolist(), counts.tolist(), strict=True)
    ]


def _differences(
    segments: Segments, areas: np.ndarray, boxes: np.ndarray, file: str, image_id: int
) -> list[Issue]:
    """Return an issue for each segment whose pixels are not those that the JSON promises."""
    issues = []

    def add(position: int, kind: str, field: str, message: str) -> None:
        where = f"image id {image_id}, segment id {segments.ids[position]}"
        issues.append(Issue(kind, file, where, field, message))

    has_pixels = areas > 0
    for i in np.flatnonzero(~has_pixels).tolist():
        add(i, "segment-empty", "id", "the segment has no pixel in the map")
    wrong_area = has_pixels & (segments.areas >= 0) & (segments.areas != areas)
    for i in np.flatnonzero(wrong_area).tolist():
        message = (
            f"area {segments.areas[i]}, but {areas[i]} pixels of the map are the segment's: "
            "each pixel belongs to one segment alone. Correct the area, or leave it out"
        )
        add(i, "segment-area-differs", "area", message)
    given = (segments.boxes >= 0).all(1)
    wrong_box = has_pixels & given & (segments.boxes != boxes).any(1)
    for i in np.flatnonzero(wrong_box).tolist():
        (x1, y1, x2, y2), (a1, b1, a2, b2) = segments.boxes[i].tolist(), boxes[i].tolist()
        message = (
            f"bbox {[x1, y1, x2 - x1, y2 - y1]}, but that of the segment's pixels is "
            f"{[a1, b1, a2 - a1, b2 - b1]} (x, y, width, height). Correct it, or leave it out"
        )
        add(i, "segment-box-differs", "bbox", message)
    return issues

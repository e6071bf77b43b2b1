"""COCO's panoptic format as a source: `panoptic_<split>.json`, and its PNGs in `panoptic_<split>/`.

The JSON is read and checked once, when a split is opened; only arrays stay in memory. The maps are
read and compared with the JSON on access, with the images. Things become objects, whose boxes and
masks are those of their pixels.
"""

import concurrent.futures
import logging
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxseg.data.coco.annotated_image import read_annotated_image, skip_advice
from jaxseg.data.coco.panoptic_file import PanopticFile
from jaxseg.data.coco.segment_ids import SegmentMap, Segments, read_segments
from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.issues import Issue, count_kinds
from jaxseg.data.panoptic import PanopticMap
from jaxseg.data.ragged import flatten_texts, offsets
from jaxseg.data.shared_arrays import SharedArrays
from jaxseg.data.source import Category, Example

_LOG = logging.getLogger(__name__)


class CocoPanopticSource:
    """A checked split of panoptic annotations, as a `PanopticSource`.

    An image with an ignored issue, its own or of its segments, is left out.
    """

    def __init__(
        self,
        content: PanopticFile,
        ignore_issues: Collection[str] = (),
        ignore_image_ids: Sequence[int] = (),
    ):
        self.path, self.image_folder = content.path, content.image_folder
        self.map_folder = content.path.with_suffix("")
        self.categories: Sequence[Category] = content.categories
        self.num_things = content.num_things
        images, segments = content.images, content.segments
        self.fingerprint = fingerprint(
            images.ids, images.sizes, content.segment_counts, *segments, str(content.num_things)
        )
        skipped = np.asarray(
            [any(i.kind in ignore_issues for i in issues) for issues in content.image_issues], bool
        )
        skipped |= np.isin(images.ids, ignore_image_ids)
        self._skipped = int(skipped.sum())
        kept = np.flatnonzero(~skipped)
        rows = np.flatnonzero(np.repeat(~skipped, content.segment_counts))
        counts = content.segment_counts[kept]
        self.image_ids = images.ids[kept].tolist()
        self.image_sizes = images.sizes[kept].astype(np.int32)
        columns = Segments(*(column[rows] for column in segments))
        is_object = (columns.labels < self.num_things) & ~columns.iscrowd
        image_of = np.repeat(np.arange(len(kept)), counts)
        self.object_counts: np.ndarray | None = np.bincount(
            image_of[is_object], minlength=len(kept)
        )
        arrays = {"offsets": offsets(counts), **columns._asdict()}
        for name, files in (("image", images.names), ("map", content.map_names)):
            texts = flatten_texts([files[row] for row in kept.tolist()])
            arrays[f"{name}_names"], arrays[f"{name}_offsets"] = texts
        self._arrays = SharedArrays(arrays)

    def log_skipped(self, issues: Sequence[Issue], ignore_issues: Collection[str]) -> None:
        """Log the number of images that training skips, and warnings."""
        counts = count_kinds(issue for issue in issues if issue.kind in ignore_issues)
        if counts:
            kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            _LOG.warning("%s: skipped %d images: %s", self.path, self._skipped, kinds)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]
        height, width = self.image_sizes[index].tolist()
        image = read_annotated_image(
            self.image_path(index), (height, width), self.image_ids[index], self.path
        )
        segment_map = self._segment_map(index)
        return segment_map.example(image, self.image_ids[index], self.num_things)

    def image_path(self, index: int) -> pathlib.Path:
        """Return the file of an image."""
        return self.image_folder / self._file_name("image", index)

    def _file_name(self, which: str, index: int) -> str:
        start, end = self._arrays[f"{which}_offsets"][index : index + 2]
        return self._arrays[f"{which}_names"][start:end].tobytes().decode()

    def panoptic_map(self, index: int, /) -> PanopticMap:
        """Return the panoptic map of the image `self[index]`."""
        return self._segment_map(range(len(self))[index]).panoptic_map()

    def _segment_map(self, index: int) -> SegmentMap:
        """Read the map of an image; raise IssuesError unless it is that of the JSON."""
        start, end = self._arrays["offsets"][index : index + 2]
        segments = Segments(*(self._arrays[name][start:end] for name in Segments._fields))
        path, image_id = self.map_folder / self._file_name("map", index), self.image_ids[index]
        advice = f"Fix the file or {self.path}, or {skip_advice(image_id)}"
        height, width = self.image_sizes[index].tolist()
        return read_segments(path, str(path), (height, width), segments, image_id, advice)

    def ground_truth(self) -> dict[str, Any]:
        """Return the things as COCO JSON, with areas and boxes of their pixels."""
        things = self.categories[: self.num_things]

        def annotations(index: int) -> list[dict[str, Any]]:
            first_id = 1 + int(self._arrays["offsets"][index])
            return self._segment_map(index).annotations(self.image_ids[index], first_id, things)

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            of_images = list(threads.map(annotations, range(len(self))))
        sizes = zip(self.image_ids, self.image_sizes.tolist(), strict=True)
        return {
            "images": [
                {
                    "id": image_id,
                    "file_name": self._file_name("image", index),
                    "height": height,
                    "width": width,
                }
                for index, (image_id, (height, width)) in enumerate(sizes)
            ],
            "annotations": [annotation for found in of_images for annotation in found],
            "categories": [category._asdict() for category in things],
        }

"""COCO-format instances as a source. Masks are polygons, compressed RLE or uncompressed RLE.

The JSON is read and checked once, when a split is opened; only arrays stay in memory. Images are
read on access.
"""

import itertools
import logging
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from jaxseg.data.coco.annotated_image import read_annotated_image
from jaxseg.data.coco.file import CocoFile, parse
from jaxseg.data.coco.segmentations import to_rle
from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.issues import Issue, count_kinds
from jaxseg.data.ragged import flatten_texts, offsets
from jaxseg.data.shared_arrays import SharedArrays
from jaxseg.data.source import RLE, Category, Example

_LOG = logging.getLogger(__name__)


class CocoSource:
    """A checked split of a COCO-format folder, as a `Source`."""

    def __init__(
        self,
        content: CocoFile,
        ignore_issues: Collection[str] = (),
        ignore_image_ids: Sequence[int] = (),
    ):
        self.path, self.image_folder = content.path, content.image_folder
        self._part = content.part
        self.digest, self.fingerprint = content.digest, _fingerprint(content)
        self.categories: Sequence[Category] = content.categories
        images, annotations = content.images, content.annotations
        skipped_image = content.image_table.has_issue(ignore_issues)
        skipped_image |= np.isin(images.ids, ignore_image_ids)
        skipped = content.annotation_table.has_issue(ignore_issues)
        skipped |= (annotations.image_rows < 0) | (annotations.labels < 0)
        skipped[~skipped] = skipped_image[annotations.image_rows[~skipped]]
        # Annotations without area stay in the ground truth, but have no object.
        no_area = content.annotation_table.has_issue({"box-zero"}) & ~skipped
        self._skipped_rows = np.flatnonzero(skipped_image), np.flatnonzero(skipped)

        kept = np.flatnonzero(~skipped_image)
        self.image_ids = images.ids[kept].tolist()
        self.image_sizes = images.sizes[kept].astype(np.int32)
        names, name_offsets = flatten_texts([images.names[row] for row in kept.tolist()])
        rows = np.flatnonzero(~skipped & ~no_area)
        rows = rows[np.argsort(annotations.image_rows[rows], kind="stable")]
        row_counts = np.bincount(annotations.image_rows[rows], minlength=len(skipped_image))
        objects = rows[~annotations.iscrowd[rows]]
        object_counts = np.bincount(annotations.image_rows[objects], minlength=len(skipped_image))
        self.object_counts: np.ndarray | None = object_counts[kept]
        self._arrays = SharedArrays(
            {
                # Ragged arrays: those of image i are [offsets[i] : offsets[i + 1]].
                "names": names,
                "name_offsets": name_offsets,
                "rows": rows,  # of the annotations, by image
                "row_offsets": offsets(row_counts[kept]),
                "boxes": annotations.boxes,
                "labels": annotations.labels.astype(np.int32),
                "iscrowd": annotations.iscrowd,
                **annotations.masks._asdict(),
            }
        )

    def log_skipped(self, issues: Sequence[Issue], ignore_issues: Collection[str]) -> None:
        """Log the number of images and annotations of a file that training skips."""
        kinds = {*ignore_issues, "box-zero"}
        counts = count_kinds(issue for issue in issues if issue.kind in kinds)
        no_area = counts.pop("box-zero", 0)
        if no_area:
            _LOG.warning("%s: skipped %d annotations with boxes without area", self.path, no_area)
        if counts:
            _LOG.warning(
                "%s: skipped %d images and %d annotations with these issues: %s",
                self.path,
                *map(len, self._skipped_rows),
                ", ".join(f"{count} {kind}" for kind, count in counts.items()),
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int, /) -> Example:
        index = range(len(self))[index]
        height, width = self.image_sizes[index].tolist()
        image_id = self.image_ids[index]
        image = read_annotated_image(self.image_path(index), (height, width), image_id, self.path)
        start, end = self._arrays["row_offsets"][index : index + 2]
        rows = self._arrays["rows"][start:end]
        return Example(
            image=image,
            image_id=image_id,
            boxes=self._arrays["boxes"][rows],
            labels=self._arrays["labels"][rows],
            rles=[self._rle(row, height, width) for row in rows.tolist()],
            iscrowd=self._arrays["iscrowd"][rows],
        )

    def image_path(self, index: int) -> pathlib.Path:
        """Return the file of an image."""
        start, end = self._arrays["name_offsets"][index : index + 2]
        name = self._arrays["names"][start:end].tobytes()
        return self.image_folder / name.decode()

    def _rle(self, row: int, height: int, width: int) -> RLE:
        """Return the mask of an annotation, rasterising polygons."""
        arrays = self._arrays
        start, end = arrays["rle_offsets"][row : row + 2].tolist()
        if end > start:
            return {"size": [height, width], "counts": arrays["rle_text"][start:end].tobytes()}
        first, last = arrays["polygon_offsets"][row : row + 2].tolist()
        bounds = arrays["point_offsets"][first : last + 1].tolist()
        polygons = [arrays["coordinates"][a:b] for a, b in itertools.pairwise(bounds)]
        return to_rle(polygons, height, width)

    def ground_truth(self) -> dict[str, Any]:
        """Read the file again, without the skipped images and annotations.

        Annotations without area stay, as COCO evaluates them. `iscrowd` and `area` are added to
        annotations without them.
        """
        content, digest = parse(self.path, self._part)
        if isinstance(content, Issue) or digest != self.digest:
            raise ValueError(f"{self.path} was changed since it was opened: open it again")
        skipped_images, skipped_annotations = (set(rows.tolist()) for rows in self._skipped_rows)
        images = [e for row, e in enumerate(content["images"]) if row not in skipped_images]
        size_of = dict(zip(self.image_ids, self.image_sizes.tolist(), strict=True))
        complete = []
        for row, annotation in enumerate(content["annotations"]):
            if row in skipped_annotations:
                continue
            added: dict[str, Any] = {} if "iscrowd" in annotation else {"iscrowd": 0}
            if "area" not in annotation:
                rle = to_rle(annotation["segmentation"], *size_of[annotation["image_id"]])
                added["area"] = float(mask_api.area(rle))
            complete.append({**annotation, **added})
        return {**content, "images": images, "annotations": complete}


def _fingerprint(content: CocoFile) -> str:
    """Return the identity of all images and annotations, before any is left out."""
    images, annotations = content.images, content.annotations
    return fingerprint(
        images.ids,
        images.sizes,
        annotations.image_rows,
        annotations.labels,
        annotations.boxes,
        annotations.iscrowd,
        *annotations.masks,
    )

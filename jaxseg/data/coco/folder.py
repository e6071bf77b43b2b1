"""COCO-format data: a folder with images and one JSON file of annotations for each split.

These layouts are supported (`jaxseg.data.coco.layout`):

    annotations/instances_<split>.json  and  <split>/                  COCO's own
    annotations/instances_<split>.json  and  images/ or images/<split>/            CVAT
    <split>.json                        and  images/ or the folder itself
    <split>/_annotations.coco.json      and  the images beside it                  Roboflow
    lvis_v1_<split>.json, there or in annotations/, and COCO's image folders      LVIS

and panoptic annotations (`jaxseg.data.coco.panoptic`), by `panoptic` where both are there:

    annotations/panoptic_<split>.json, annotations/panoptic_<split>/ and COCO's image folders

A single file without a split, or the path of a file, is split by a seed (`jaxseg.data.coco.split`).
"""

import dataclasses
import logging
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from jaxseg.data.coco.file import CocoFile, check_file
from jaxseg.data.coco.instances import CocoSource
from jaxseg.data.coco.layout import (
    Split,
    choose_split,
    find_split,
    is_panoptic,
    list_panoptic_splits,
    list_splits,
)
from jaxseg.data.coco.panoptic import CocoPanopticSource
from jaxseg.data.coco.panoptic_file import PanopticFile, check_panoptic_file
from jaxseg.data.coco.semantic_maps import CocoSemanticSource
from jaxseg.data.issues import IGNORABLE, WARNINGS, Issue, check_kinds, raise_if_any
from jaxseg.types import IGNORED

_LOG = logging.getLogger(__name__)


class CheckedSplit(NamedTuple):
    """The readable part of a split, and all issues of its annotations."""

    name: str
    file: str
    source: CocoSource | CocoPanopticSource
    issues: Sequence[Issue]


@dataclasses.dataclass(frozen=True)
class CocoFolder:
    """A COCO-format folder or file. `train` and `val` name the splits of training and validation.

    A folder that has neither of the two is read by its own splits for these roles, with a warning.
    """

    path: str
    train: str = "train"
    val: str = "val"
    ignore_issues: tuple[str, ...] = ()
    """Kinds of issues (`jaxseg.data.issues`) whose images or annotations are skipped."""
    ignore_image_ids: tuple[int, ...] = ()
    """Ids of images of the training split to skip, such as those whose files cannot be read. A run
    may be resumed with more of them."""
    allow_outside_files: bool = False
    """Accept file names that leave the image folder, by an absolute path or `..`."""
    images: str | None = None
    """Folder of the images (default: the one of the folder's layout)."""
    val_fraction: float = 0.2
    """Fraction of the images for validation, where one file has no splits."""
    split_seed: int = 0
    """Seed that chooses these images."""
    panoptic: bool = False
    """Read panoptic annotations. A folder without others is read by them in any case."""

    semantic_maps: str | None = None
    """Folder of semantic maps, in `path` or elsewhere, such as COCO-Stuff's `stuffthingmaps`: PNGs
    under the images' names, whose values are classes, 255 where there is none."""
    num_semantic_classes: int | None = None
    """Number of classes of the semantic maps."""

    def open(self, split: str) -> CocoSource | CocoPanopticSource:
        """Open the split of a role (`train`, `val`) or of the given name.

        Raises ValueError if it has errors that are not ignored.
        """
        check_kinds(self.ignore_issues)
        files = choose_split(
            self._path,
            split,
            {"train": self.train, "val": self.val},
            images=self._images,
            val_fraction=self.val_fraction,
            seed=self.split_seed,
            panoptic=self.reads_panoptic(),
        )
        ignored = self.ignore_image_ids if self._is_train(split) else ()
        content = self._read(files)
        raise_if_any(content.issues_without(ignored), self.ignore_issues)
        unknown = sorted(set(ignored) - set(content.images.ids.tolist()))
        if unknown:
            where = "" if files.part is None else f" in the split {split!r} of that file"
            raise ValueError(
                f"ignore_image_ids: {content.path} has no image id {unknown[0]}{where}; remove it"
            )
        source = self._source(content, self.ignore_issues, ignored)
        if not len(source):
            raise ValueError(
                f"{source.path}: no image is left: ignore_issues={self.ignore_issues} and "
                f"ignore_image_ids={ignored} skip all"
            )
        source.log_skipped(content.issues, self.ignore_issues)
        if files.part is not None:
            _LOG.info("%s: %d images for %s, %s", source.path, len(source), split, files.part)
        return source

    def check(self, split: str | None = None) -> Iterator[CheckedSplit]:
        """Open the readable part of the split of that name, or of all, with all issues.

        Raises FileNotFoundError or ValueError if there is no such split.
        """
        panoptic = self.reads_panoptic()
        listed = (list_panoptic_splits if panoptic else list_splits)(self._path, self._images)
        if split is not None or not listed:  # without any split it raises
            listed = [find_split(self._path, split or "train", self._images, panoptic=panoptic)]
        for files in listed:
            content = self._read(files)
            source = self._source(content, IGNORABLE.keys() - WARNINGS.keys(), ())
            yield CheckedSplit(files.name, str(files.annotations), source, content.issues)

    def has_panoptic(self) -> bool:
        """Return whether there are panoptic annotations."""
        return self._path.exists() and bool(list_panoptic_splits(self._path))

    def reads_panoptic(self) -> bool:
        """Return whether panoptic annotations are read."""
        panoptic = self.panoptic or is_panoptic(self._path)
        if panoptic and self.semantic_maps is not None:
            raise ValueError(
                "panoptic annotations have semantic maps of their own: set panoptic or "
                "semantic_maps, not both"
            )
        return panoptic

    @property
    def _path(self) -> pathlib.Path:
        return pathlib.Path(self.path).expanduser()

    @property
    def _images(self) -> pathlib.Path | None:
        return None if self.images is None else pathlib.Path(self.images)

    def _read(self, files: Split) -> CocoFile | PanopticFile:
        """Read and check the annotations of a split."""
        outside = self.allow_outside_files
        if self.reads_panoptic():
            return check_panoptic_file(
                files.annotations, *files.images, allow_outside_files=outside, part=files.part
            )
        return check_file(
            files.annotations,
            *files.images,
            allow_outside_files=outside,
            part=files.part,
            semantic_folders=self._semantic_folders(files),
        )

    def _semantic_folders(self, files: Split) -> tuple[pathlib.Path, ...]:
        """Return the folders that may hold the semantic maps of a split."""
        if self.semantic_maps is None:
            if self.num_semantic_classes is not None:
                raise ValueError(
                    f"num_semantic_classes {self.num_semantic_classes} is the number of classes of "
                    "semantic maps: set their folder, semantic_maps, too"
                )
            return ()
        if self.num_semantic_classes is None or not 1 <= self.num_semantic_classes <= IGNORED:
            raise ValueError(
                f"num_semantic_classes {self.num_semantic_classes} must be the number of classes "
                f"of the semantic maps, 1 to {IGNORED}"
            )
        folder = self._path if self._path.is_dir() else self._path.parent
        root = folder / pathlib.Path(self.semantic_maps).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"no folder of semantic maps {root}")
        return root / files.name, root / files.images[0].name, root

    def _source(
        self,
        content: CocoFile | PanopticFile,
        ignore_issues: Collection[str],
        ignore_image_ids: Sequence[int],
    ) -> CocoSource | CocoPanopticSource:
        if isinstance(content, PanopticFile):
            return CocoPanopticSource(content, ignore_issues, ignore_image_ids)
        if self.num_semantic_classes is not None and content.semantic_folder is not None:
            classes = self.num_semantic_classes
            return CocoSemanticSource(content, classes, ignore_issues, ignore_image_ids)
        return CocoSource(content, ignore_issues, ignore_image_ids)

    def _is_train(self, split: str) -> bool:
        """Return whether a split, by its role or its name, is that of training."""
        return {"train": self.train, "val": self.val}.get(split, split) == self.train

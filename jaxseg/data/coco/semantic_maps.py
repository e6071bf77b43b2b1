"""Semantic maps beside instances, such as COCO-Stuff's `stuffthingmaps`, which HTC learns from.

A map is a PNG under its image's name whose values are classes: 0 to their number - 1, and 255 where
the class is not known. The classes are the maps' own; those of the instances are others.
"""

import pathlib
from collections.abc import Collection, Sequence

import numpy as np

from jaxseg.data.coco.annotated_image import skip_advice
from jaxseg.data.coco.file import CocoFile, semantic_map_name
from jaxseg.data.coco.instances import CocoSource
from jaxseg.data.coco.map_png import GREY, PALETTE, PngError, read_map
from jaxseg.data.fingerprint import fingerprint
from jaxseg.data.issues import Issue, IssuesError
from jaxseg.data.source import Example
from jaxseg.types import IGNORED


class CocoSemanticSource(CocoSource):
    """A checked split of instances with semantic maps, as a `SemanticSource`."""

    def __init__(
        self,
        content: CocoFile,
        num_semantic_classes: int,
        ignore_issues: Collection[str] = (),
        ignore_image_ids: Sequence[int] = (),
    ):
        super().__init__(content, ignore_issues, ignore_image_ids)
        assert content.semantic_folder is not None
        self.semantic_folder = content.semantic_folder
        self.num_semantic_classes = num_semantic_classes
        self.fingerprint = fingerprint(self.fingerprint, f"{num_semantic_classes} semantic classes")

    def __getitem__(self, index: int, /) -> Example:
        example = super().__getitem__(index)
        name = semantic_map_name(str(self.image_path(index)), self.image_folder)
        assert name is not None  # checked when the split was opened
        height, width = example.image.shape[:2]
        semantic = read_semantic_map(
            self.semantic_folder / name,
            (height, width),
            self.num_semantic_classes,
            example.image_id,
        )
        return example._replace(semantic=semantic)


def read_semantic_map(
    path: pathlib.Path, size: tuple[int, int], num_classes: int, image_id: int
) -> np.ndarray:
    """Return the class of each pixel, uint8 `[h, w]`.

    Args:
        path: the PNG.
        size: the `(height, width)` of the image.
        num_classes: the number of classes.
        image_id: the id of the image.

    Raises:
        IssuesError: it is no such map, or has other values.
    """
    kind = message = ""
    try:
        values = read_map(
            path,
            path.name,
            size,
            color_types=(GREY, PALETTE),
            kinds="semantic",
            expected="a semantic map has 8 bits, grey or palette, the values being classes",
        )
        others = np.unique(values[(values >= num_classes) & (values != IGNORED)]).tolist()
        if others:
            listed = ", ".join(map(str, others[:10]))
            kind = "semantic-class"
            message = f"it has the classes {listed}, but num_semantic_classes is {num_classes}"
    except PngError as error:
        kind, message = error.kind, str(error)
    if kind:
        issue = Issue(kind, str(path), f"image id {image_id}", "", message)
        raise IssuesError([issue], f"Fix the file, or {skip_advice(image_id)}")
    return values.astype(np.uint8)

"""What can be wrong with a data set, as values.

Terms:
    kind       a short stable name for one way of being wrong
    tolerated  of a kind: it is reported, and training goes on; COCO's own files have such
    droppable  of a kind: it is of single images or annotations, which can be left out
"""

import collections
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

WARNINGS = {
    "box-zero": "a box without width or height; it is never trained on",
    "annotation-duplicate": "the same image, category and mask as an earlier annotation",
}
IGNORABLE = {
    "image-not-object": "an image that is not a JSON object",
    "image-field": "an image without id, file_name, height or width",
    "image-id": "an image whose id is not a whole number",
    "image-id-duplicate": "the id of an earlier image",
    "image-size": "height or width is not a positive whole number, or they are too large",
    "image-name": "a file_name that is not text",
    "image-name-duplicate": "the file_name of an earlier image",
    "image-missing": "an image whose file is absent",
    "annotation-not-object": "an annotation that is not a JSON object",
    "annotation-field": "an annotation without a field that it needs",
    "annotation-id": "id, image_id or category_id is not a whole number",
    "annotation-id-duplicate": "the id of an earlier annotation",
    "annotation-image": "image_id of an absent image",
    "annotation-category": "category_id of an absent category",
    "annotation-crowd": "iscrowd is neither 0 nor 1",
    "annotation-area": "area is not a number of at least 0",
    "box-numbers": "bbox is not four finite numbers",
    "box-negative": "a box with a negative side",
    "box-far": "a box that reaches beyond the image by more than an image",
    "box-mask": "a box that is not where the mask is",
    "mask-type": "segmentation is neither polygons nor RLE",
    "mask-empty": "a mask without any pixel",
    "polygon-type": "polygons that are not lists of x, y, x, y, ...",
    "polygon-numbers": "a polygon with something else than finite numbers",
    "polygon-box": "four numbers, likely a box, in a polygon's place",
    "polygon-short": "a polygon of fewer than three points",
    "polygon-odd": "a polygon with an x that has no y",
    "polygon-far": "a polygon that reaches beyond the image by more than an image",
    "polygon-outside": "a polygon no part of which is in the image",
    "rle-size": "an RLE of another size than the image's",
    "rle-text": "RLE counts that are neither whole numbers nor COCO's compressed text",
    "rle-sum": "RLE counts that do not add up to the image's pixels",
} | WARNINGS
"""Kinds that opening a split finds, and that can be named in `ignore_issues`."""
FATAL = {
    "file-json": "the annotations are not valid JSON",
    "file-coco": "the annotations are not a JSON object with COCO's three lists",
    "split-empty": "a split without images",
    "category-not-object": "a category that is not a JSON object",
    "category-field": "a category without id or name",
    "category-id": "a category whose id is not a whole number",
    "category-id-duplicate": "the id of an earlier category",
    "category-name": "a category whose name is not text",
    "image-unreadable": "an image file that cannot be decoded",
    "image-size-differs": "an image file of another size than annotated",
    "objects-truncated": "more objects in an image than the training has slots",
}
"""Kinds that can only be mended. The last three are found when images are read."""


class Issue(NamedTuple):
    """One thing that is wrong: of what kind, in which file, of which entry and field. As text it
    is without the file, which a list of them names once."""

    kind: str
    file: str
    where: str
    field: str
    message: str

    def __str__(self) -> str:
        field = f" ({self.field})" if self.field else ""
        return f"{self.where or 'the file'}{field}: {self.message} [{self.kind}]"


def count_kinds(issues: Iterable[Issue]) -> dict[str, int]:
    """How many defects there are of each kind, the most frequent first."""
    return dict(collections.Counter(issue.kind for issue in issues).most_common())


def check_kinds(ignore_issues: Collection[str]) -> None:
    """ValueError if a kind in `ignore_issues` is none that can be dropped."""
    unknown = sorted(set(ignore_issues) - IGNORABLE.keys())
    if unknown:
        raise ValueError(
            f"drop names {', '.join(map(repr, unknown))}; what can be dropped is "
            f"{', '.join(sorted(IGNORABLE))}"
        )


def errors(issues: Iterable[Issue], ignore_issues: Collection[str]) -> list[Issue]:
    """Those that would make training lose or distort something."""
    return [d for d in issues if d.kind not in WARNINGS and d.kind not in ignore_issues]


def raise_if_any(issues: Sequence[Issue], ignore_issues: Collection[str]) -> None:
    """ValueError if there are harmful ones: the count of each kind, the first few, the ways out."""
    bad = errors(issues, ignore_issues)
    if not bad:
        return
    counts = count_kinds(bad)
    kinds = tuple(kind for kind in counts if kind in IGNORABLE)
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    lines = [f"{bad[0].file} has defects that training would suffer from: {total}"]
    lines += [f"  {issue}" for issue in bad[:5]]
    lines += [f"  ... and {len(bad) - 5} more"] if len(bad) > 5 else []
    ways = f", or leave the images and annotations out: drop={kinds}" if kinds else ""
    lines.append(f"Mend them{ways}. `jaxseg data check` lists them all.")
    raise ValueError("\n".join(lines))

"""The kinds of problems that a dataset can have, and the type of one such issue.

Terms:
    kind       a short stable name of one problem, such as `box-zero`
    warning    an issue that is reported while training continues; COCO's own files have some
    ignorable  an issue of a single image or annotation, which `ignore_issues` can leave out
    fatal      an issue that must be fixed
    error      any issue that is not a warning
"""

import collections
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

WARNINGS = {
    "box-zero": "a box without width or height; training skips it",
    "annotation-duplicate": "the same image, category and mask as an earlier annotation",
    "png-extra": "a PNG in the folder of panoptic maps that no annotation names",
    "segment-stuff-twice": "a second segment of a class of stuff in an image",
    "category-without-instances": "classes of things without any segment that is not a crowd",
}
IGNORABLE = {
    "image-not-object": "an image that is not a JSON object",
    "image-field": "an image without id, file_name, height or width",
    "image-id": "an image whose id is not a whole number",
    "image-id-duplicate": "the id of an earlier image",
    "image-size": "height or width is not a positive whole number, or they are too large",
    "image-name": "a file_name that is not text, or not valid Unicode",
    "image-outside": "a file_name that leaves the image folder, by an absolute path or `..`",
    "image-name-duplicate": "the file_name of an earlier image",
    "image-missing": "an image without a file",
    "annotation-not-object": "an annotation that is not a JSON object",
    "annotation-field": "an annotation without a required field",
    "annotation-id": "id, image_id or category_id is not a whole number",
    "annotation-id-duplicate": "the id of an earlier annotation",
    "annotation-image": "an image_id that no image has",
    "annotation-category": "a category_id that no category has",
    "annotation-crowd": "iscrowd is neither 0 nor 1",
    "annotation-area": "area is not a number of at least 0",
    "box-numbers": "bbox is not four finite numbers",
    "box-negative": "a box with a negative width or height",
    "box-far": "a box that extends beyond the image by more than the image's size",
    "box-mask": "a box that does not match its mask",
    "mask-type": "segmentation is neither polygons nor RLE",
    "mask-empty": "a mask without any pixel",
    "polygon-type": "polygons that are not lists of x, y, x, y, ...",
    "polygon-numbers": "a polygon with values that are not finite numbers",
    "polygon-box": "four numbers, probably a box, instead of a polygon",
    "polygon-short": "a polygon of fewer than three points",
    "polygon-odd": "a polygon with an x that has no y",
    "polygon-far": "a polygon that extends beyond the image by more than the image's size",
    "polygon-long": "a polygon whose outline is longer than 64 times the image's",
    "polygon-outside": "a polygon completely outside the image",
    "rle-size": "an RLE whose size differs from the image's",
    "rle-text": "RLE counts that are neither whole numbers nor COCO's compressed text",
    "rle-sum": "RLE counts that do not add up to the image's pixels",
    "semantic-missing": "an image without a semantic map, where there should be one",
    "image-unannotated": "an image without a panoptic map",
    "image-annotated-twice": "a second panoptic map of an image",
    "png-name": "the name of a panoptic map that is not text, or leaves the folder of the maps",
    "png-missing": "a panoptic map without a file",
    "segment-list": "segments_info is not a list",
    "segment-not-object": "a segment that is not a JSON object",
    "segment-field": "a segment without a required field",
    "segment-id": "the id of a segment is not a whole number from 1 to 2**24 - 1",
    "segment-id-duplicate": "the id of an earlier segment of the image",
    "segment-category": "a category_id that no category has",
    "segment-crowd": "iscrowd is neither 0 nor 1",
    "segment-area": "the area of a segment is not a whole number of at least 0",
    "segment-box": "the bbox of a segment is not four whole numbers",
} | WARNINGS
"""Kinds that are found when a split is opened and that `ignore_issues` accepts."""
FATAL = {
    "file-json": "the annotations are not valid JSON",
    "file-coco": "the annotations are not a JSON object with COCO's three lists",
    "split-empty": "a split without images",
    "category-not-object": "a category that is not a JSON object",
    "category-field": "a category without id or name",
    "category-id": "a category whose id is not a whole number",
    "category-id-duplicate": "the id of an earlier category",
    "category-name": "a category whose name is not text, or not valid Unicode",
    "category-isthing": "a category of panoptic maps whose isthing is neither 0 nor 1",
    "category-count": "more categories than a semantic map can hold, 255",
    "image-unreadable": "an image file that cannot be decoded",
    "image-size-differs": "an image file whose size differs from the annotated one",
    "objects-truncated": "an image with more objects than training keeps (max_objects)",
    "png-unreadable": "a panoptic map that cannot be decoded",
    "png-type": "a panoptic map that is no PNG of RGB with 8 bits",
    "png-size": "a panoptic map whose size differs from the image's",
    "segment-empty": "a segment without a pixel in its panoptic map",
    "segment-unknown": "an id in a panoptic map that no segment has",
    "segment-area-differs": "a segment whose area is not the number of its pixels",
    "segment-box-differs": "a segment whose bbox is not that of its pixels",
    "semantic-unreadable": "a semantic map that cannot be decoded",
    "semantic-type": "a semantic map that is no grey or palette PNG with 8 bits",
    "semantic-size": "a semantic map whose size differs from the image's",
    "semantic-class": "a value of a semantic map that is neither a class nor 255",
}
"""Kinds that `ignore_issues` does not accept."""
FOUND_ON_READING = (
    "image-unreadable",
    "image-size-differs",
    "objects-truncated",
    "png-unreadable",
    "png-type",
    "png-size",
    "segment-empty",
    "segment-unknown",
    "segment-area-differs",
    "segment-box-differs",
    "semantic-unreadable",
    "semantic-type",
    "semantic-size",
    "semantic-class",
)
"""Kinds that are found when images are read, not when a split is opened."""


class Issue(NamedTuple):
    """One problem of a dataset: its kind, the file, the entry and field, and a message.

    Its text leaves out the file, which lists of issues name once.
    """

    kind: str
    file: str
    where: str  # such as "image id 7"; empty for the whole file
    field: str
    message: str

    def __str__(self) -> str:
        field = f" ({self.field})" if self.field else ""
        return f"{self.where or 'the file'}{field}: {self.message} [{self.kind}]"


class IssuesError(ValueError):
    """Issues of one image that are found when it is read."""

    def __init__(self, issues: Sequence[Issue], advice: str):
        super().__init__(issues, advice)
        self.issues, self._advice = issues, advice

    def __str__(self) -> str:
        more = f"; ... and {len(self.issues) - 5} more" if len(self.issues) > 5 else ""
        listed = "; ".join(map(str, self.issues[:5]))
        return f"{self.issues[0].file}: {listed}{more}. {self._advice}"


def count_kinds(issues: Iterable[Issue]) -> dict[str, int]:
    """Count the issues of each kind, the most frequent first."""
    return dict(collections.Counter(issue.kind for issue in issues).most_common())


def check_kinds(ignore_issues: Collection[str]) -> None:
    """Raise ValueError if `ignore_issues` has a kind that cannot be ignored."""
    unknown = sorted(set(ignore_issues) - IGNORABLE.keys())
    if unknown:
        raise ValueError(
            f"ignore_issues: {', '.join(map(repr, unknown))} cannot be ignored; use kinds among "
            f"{', '.join(sorted(IGNORABLE))}"
        )


def errors(issues: Iterable[Issue], ignore_issues: Collection[str]) -> list[Issue]:
    """Return the issues that are neither warnings nor ignored."""
    return [
        issue for issue in issues if issue.kind not in WARNINGS and issue.kind not in ignore_issues
    ]


def raise_if_any(issues: Sequence[Issue], ignore_issues: Collection[str]) -> None:
    """Raise ValueError if there are errors, with their counts, the first five, and what to do."""
    found = errors(issues, ignore_issues)
    if not found:
        return
    counts = count_kinds(found)
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    lines = [f"{found[0].file} has invalid annotations, which training refuses: {total}"]
    lines += [f"  {issue}" for issue in found[:5]]
    lines += [f"  ... and {len(found) - 5} more"] if len(found) > 5 else []
    ignorable = " ".join(kind for kind in counts if kind in IGNORABLE)
    skip = f", or skip them with `--data.source.ignore-issues {ignorable}`" if ignorable else ""
    skip_images = ""
    if any(issue.where.startswith("image id") for issue in found):
        skip_images = (
            " Single images are skipped by `--data.source.ignore-image-ids ID ...`, also on resume."
        )
    lines.append(f"Fix them{skip}.{skip_images} `jaxseg data check` lists them all.")
    raise ValueError("\n".join(lines))

"""Check the Python classes that a TFDS dataset names in `features.json`.

TFDS imports the module of every class that the file names. A dataset may be untrusted, so only
TFDS's own classes are let through, those that the supported datasets use.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxseg.data.coco.table import shorten

_ALLOWED = tuple(
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "bounding_boxes.BBoxFeature",
        "class_label_feature.ClassLabel",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "scalar.Scalar",
        "sequence_feature.Sequence",
        "tensor_feature.Tensor",
        "text_feature.Text",
    )
)
_CLASS_KEYS = ("pythonClassName", "python_class_name")
_HIDING_KEYS = ("jsonFeature", "json_feature", "type")
"""Keys of values that may hold JSON as text: TFDS's feature of its own JSON, and the class in its
format before 4.3, whose `content` may be a text."""


def check_feature_classes(path: pathlib.Path) -> None:
    """Raise ValueError unless a `features.json` names only classes that may be imported.

    A missing file is left to TFDS.
    """
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text())
        refusal = next(_refusals(content), None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if refusal is not None:
        raise ValueError(
            f"{path} {refusal}, which no dataset that jaxseg reads has; nothing was imported. "
            "Build a dataset with masks by `jaxseg data build`, or use TFDS's coco/2017_panoptic"
        )


def _refusals(value: Any) -> Iterator[str]:
    """Yield what is wrong with each part of a JSON value that names or may hide a class."""
    if isinstance(value, list):
        for item in value:
            yield from _refusals(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            # A dict under one of these keys is a feature that has the key's name.
            if key in _CLASS_KEYS and not isinstance(item, dict):
                if item not in _ALLOWED:
                    yield f"names the class {shorten(item)}"
            elif key in _HIDING_KEYS and not (key == "type" and isinstance(item, dict)):
                yield f"has JSON as text under {key!r}"
            else:
                yield from _refusals(item)

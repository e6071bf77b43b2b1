"""Split the images of one COCO file into training and validation, by a seed."""

import hashlib
from collections.abc import Collection
from typing import Any, NamedTuple, TypeVar

_Key = TypeVar("_Key", int, str)


class Part(NamedTuple):
    """One side, `train` or `val`, of the split of a file by a seed."""

    role: str
    val_fraction: float
    seed: int

    def __str__(self) -> str:
        return f"split by seed {self.seed} with val_fraction {self.val_fraction:g}"


def choose_val(keys: Collection[_Key], fraction: float, seed: int) -> set[_Key]:
    """Choose the images for validation: `fraction` of the keys, rounded, and at least one.

    The images are ordered by a hash of seed and key, so the choice depends on neither the order of
    the keys nor the machine, and a new image moves at most one of the others.

    >>> sorted(choose_val(range(10), 0.2, seed=0)) == sorted(choose_val(range(9, -1, -1), 0.2, 0))
    True

    Args:
        keys: the ids or names of the images.
        fraction: the fraction for validation, between 0 and 1.
        seed: another seed chooses other images.

    Raises:
        ValueError: the fraction is out of range, or there are fewer than two images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"val_fraction {fraction:g} must be between 0 and 1")

    def rank(key: _Key) -> bytes:
        return hashlib.sha256(f"{seed} {key}".encode()).digest()

    ordered = sorted(set(keys), key=rank)
    if len(ordered) < 2:
        raise ValueError(
            f"{len(ordered)} images cannot be split into train and val: give a folder with both"
        )
    return set(ordered[: min(max(round(len(ordered) * fraction), 1), len(ordered) - 1)])


def select_part(content: dict[str, Any], part: Part) -> dict[str, Any]:
    """Return the COCO content with only the images of one part, and their annotations.

    Invalid entries stay in both parts, so that each reports them.
    """
    ids = [_key(image, "id") for image in content["images"]]
    chosen = choose_val([i for i in ids if i is not None], part.val_fraction, part.seed)
    others = {i for i in ids if i is not None and (i in chosen) != (part.role == "val")}

    def kept(entries: list[Any], field: str) -> list[Any]:
        return [entry for entry in entries if _key(entry, field) not in others]

    images = kept(content["images"], "id")
    annotations = kept(content["annotations"], "image_id")
    return {**content, "images": images, "annotations": annotations}


def _key(entry: Any, field: str) -> int | None:
    """Return the id in a field of an entry; None if the entry has no valid one."""
    value = entry.get(field) if type(entry) is dict else None
    return value if type(value) is int else None

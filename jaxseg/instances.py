"""The instances that a detector found in one image, as users of the library receive them."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as mask_api

from jaxseg import data, evaluation, visualize
from jaxseg.data.panoptic import PanopticMap


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
    """The n instances found in one image, best score first, in pixels of the image as it was given.

    Masks are kept as run lengths and decoded when `masks` is read.
    """

    prediction: evaluation.Prediction
    """The boxes, scores, labels and RLEs."""
    categories: Sequence[data.Category]
    """The model's categories, in the order of its labels."""
    size: tuple[int, int]
    """`(height, width)` of the image."""
    source: data.ImageOrPath
    """The image, or the file that it is in."""
    num_things: int | None = None
    """The number of thing categories, the first ones; None if there is no stuff."""

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """Return the boxes, float32 `xyxy`."""
        return self.prediction.boxes

    @property
    def scores(self) -> Float[np.ndarray, " n"]:
        """Return the scores, float32 from 0 to 1."""
        return self.prediction.scores

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """Return each instance's index in `categories`."""
        return self.prediction.labels

    @property
    def names(self) -> list[str]:
        """Return each instance's class name."""
        return [self.categories[label].name for label in self.labels.tolist()]

    @property
    def rles(self) -> list[data.RLE] | None:
        """Return the masks as COCO's compressed RLE; None from a model without masks."""
        return self.prediction.rles

    @functools.cached_property
    def masks(self) -> Bool[np.ndarray, "n h w"] | None:
        """Return the masks, decoded at the first use; None from a model without masks.

        They take `n * h * w` bytes. Select instances first if these are many.
        """
        if self.rles is None:
            return None
        masks = np.zeros((len(self), *self.size), bool)
        for mask, rle in zip(masks, self.rles, strict=True):
            mask[:] = mask_api.decode(rle)
        return masks

    @property
    def panoptic(self) -> PanopticMap | None:
        """Return the panoptic map of the whole image; None from a model that is not panoptic.

        `panoptic.ids` (int32 `[h, w]`) has a segment's id in each pixel, 0 for none;
        `panoptic.segments` have an `id`, a `label` (index in `categories`) and, of things, a
        `score`. A selection of instances has the map of all.
        """
        return self.prediction.panoptic

    @property
    def image_id(self) -> int:
        """Return the image's number among those that were predicted on together, from 1."""
        return self.prediction.image_id

    @property
    def file(self) -> pathlib.Path | None:
        """Return the image's file; None for an image that was given as pixels."""
        return self.source if isinstance(self.source, pathlib.Path) else None

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image, RGB; a file is read again each time."""
        return self.source if isinstance(self.source, np.ndarray) else data.read_image(self.source)

    def __len__(self) -> int:
        return len(self.prediction.scores)

    def __getitem__(self, index: Any) -> "Instances":
        """Return the instances of an int, a slice, a list of ints, or a bool or int array."""
        if isinstance(index, SupportsIndex) and not isinstance(index, np.ndarray):
            index = [range(len(self))[index]]
        chosen = np.arange(len(self))[index if isinstance(index, slice) else _as_index(index)]
        return dataclasses.replace(self, prediction=self.prediction.select(chosen))

    def __iter__(self) -> Iterator["Instances"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        found = [f"{n} {s:.2f}" for n, s in zip(self.names[:5], self.scores.tolist(), strict=False)]
        more = ["..."] if len(self) > len(found) else []
        where = self.file or f"image {self.image_id}"
        return f"Instances({len(self)} in {where}: {', '.join([*found, *more]) or 'none'})"

    def draw(self, image: UInt8[np.ndarray, "h w 3"] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """Return a picture of all instances, RGB; small images are enlarged.

        `image` is what they are drawn over, the image itself by default. To draw only the certain
        ones, select them: `instances[instances.scores >= 0.5].draw()`.
        """
        return visualize.draw_prediction(
            self._image_below(image), self.prediction, self._class_names, threshold=0.0
        )

    def draw_panoptic(
        self, image: UInt8[np.ndarray, "h w 3"] | None = None
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Return a picture of the panoptic map, RGB; small images are enlarged.

        `image` is what it is drawn over, the image itself by default. Raises ValueError for a model
        that is not panoptic.
        """
        if self.panoptic is None:
            raise ValueError("the model is not panoptic: use draw()")
        things = len(self.categories) if self.num_things is None else self.num_things
        return visualize.draw_panoptic(
            self._image_below(image), self.panoptic, self._class_names, things
        )

    @property
    def _class_names(self) -> list[str]:
        return [category.name for category in self.categories]

    def _image_below(self, image: np.ndarray | None) -> np.ndarray:
        """Return what to draw over: an image that fits, by default the one predicted on."""
        picture = self.image if image is None else np.asarray(image)
        if picture.dtype != np.uint8 or picture.shape != (*self.size, 3):
            raise ValueError(
                f"the image to draw over is {picture.dtype} {list(picture.shape)}; it must be "
                f"uint8 {[*self.size, 3]}, as the image that was predicted on"
            )
        return picture

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """Return a COCO result list, ready for `json.dump`.

        `image_id` is the dataset's id of the image; by default the image's number.
        """
        prediction = self.prediction
        if image_id is not None:
            prediction = prediction._replace(image_id=image_id)
        return evaluation.coco_results([prediction], [c.id for c in self.categories])

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`; ImportError without the package supervision."""
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            mask=self.masks if len(self) else None,  # else its is_empty() would be False
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.asarray(self.names, dtype=str)},
        )


def _as_index(index: Any) -> np.ndarray:
    """Return a bool or int array; an empty list selects nothing."""
    array = np.asarray(index)
    return array if array.size or array.dtype == bool else array.astype(int)

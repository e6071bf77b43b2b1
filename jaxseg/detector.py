"""Load a trained detector and predict, in three lines.

    detector = jaxseg.load("runs/nuclei")
    instances = detector.predict("photo.jpg")
    instances.boxes, instances.scores, instances.names, instances.masks

`jaxseg predict` uses the same functions: its results for the same files are equal.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from jaxseg import data, evaluation, predictor, weights_file
from jaxseg.instances import Instances
from jaxseg.model import ModelConfig
from jaxseg.predictor import Predictor, TrainedModel
from jaxseg.types import HeuristicMerging

_LOG = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    step: int | None = None,
    ema: bool = True,
    allow_modules: Collection[str] = (),
) -> "Detector":
    """Return the detector of a workdir or of a file of weights.

    Nothing in a file is executed.

    Args:
        path: the workdir of a run; or a file: one that `jaxseg weights export` wrote, or published
            weights (`.pth`, `.pkl`, `.safetensors`, `.npz`).
        model: the name of a published model, such as "maskrcnn_resnet50_fpn" (`docs/models.md`
            lists them), which published weights need.
        step: the step of a workdir's checkpoint, None for the newest.
        ema: use the EMA of the parameters where a workdir keeps one.
        allow_modules: modules whose config classes the workdir or file may name, besides jaxseg's.

    Raises:
        FileNotFoundError: there is no such file, or the workdir holds no checkpoint.
        ValueError: it cannot be read, does not fit the model, or arguments are missing or do not
            belong together.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        if model is not None:
            raise ValueError(
                f"{path} is no file: model={model!r} is for a file of published weights; a workdir "
                "knows its model"
            )
        return Detector(predictor.restore(path, step, ema=ema, allow_modules=allow_modules))
    if step is not None:
        raise ValueError(f"{path} is a file and has no steps: leave out step={step}")
    return Detector(weights_file.read_model(path, model, allow_modules))


class Detector:
    """A trained model that predicts on images.

    The model is compiled at the first prediction on each image size that it pads to (bucket), which
    takes seconds to minutes, and again for another `batch_size`, a lower `threshold` or more
    `max_detections` than the model's own.
    """

    def __init__(self, trained: TrainedModel):
        self.trained = trained
        self.names = [category.name for category in trained.categories]
        """The class names, in the order of labels."""
        self._predictors: dict[ModelConfig, Predictor] = {}
        self._replicated: Any = None
        # Prediction starts for each call, and worker processes would have to start with it.
        self._config = dataclasses.replace(trained.experiment.data, num_workers=0)

    def __repr__(self) -> str:
        model = type(self.trained.experiment.model).__name__.removesuffix("Config")
        classes = "1 class" if len(self.names) == 1 else f"{len(self.names)} classes"
        return f"Detector({model}, {classes}, step {self.trained.step})"

    def predict(
        self,
        images: Any,
        *,
        threshold: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
    ) -> Any:
        """Return the instances in an image, or a list of them for several images, in their order.

        Args:
            images: one image: a path, a Pillow image, or RGB pixels, uint8 `[h, w, 3]` (OpenCV
                reads BGR: `image[..., ::-1]`); or several: a list of these, a folder, or a glob
                pattern such as `photos/**/*.jpg`. Files are rotated as their EXIF orientation says.
            threshold: lowest score; None for the model's own. Panoptic maps do not depend on it.
            max_detections: largest number of instances in an image; None for the model's own.
            batch_size: the images that each device predicts on at once. It changes results by
                rounding alone.

        Returns:
            `Instances` for one image, a list of them for several.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file is no image, an array has another dtype or shape, or an argument is
                out of range.
        """
        source = data.ImageFiles(data.read_inputs(images))
        found = self.predict_each(
            source, threshold=threshold, max_detections=max_detections, batch_size=batch_size
        )
        ordered = sorted(found, key=lambda instances: instances.image_id)
        return ordered[0] if data.is_single(images) else ordered

    def predict_each(
        self,
        source: data.ImageFiles,
        *,
        threshold: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
    ) -> Iterator[Instances]:
        """Yield the instances of each image as soon as they are found, for many images.

        Images that are padded to one size come together, in the order of the source. Files are read
        batch by batch. The other arguments and the errors are those of `predict`.
        """
        _check_arguments(threshold, max_detections, batch_size)
        compiled = self._predictor(threshold, max_detections)
        predictions = compiled.predict_batches(self._replicated, source, self._config, batch_size)

        def instances(prediction: evaluation.Prediction) -> Instances:
            position = source.image_ids.index(prediction.image_id)
            height, width = source.image_sizes[position].tolist()
            limited = _limit(prediction, threshold, max_detections)
            return Instances(
                limited,
                self.trained.categories,
                (height, width),
                source.images[position],
                self.trained.experiment.model.num_classes,
            )

        return map(instances, predictions)

    def _predictor(self, threshold: float | None, max_detections: int | None) -> Predictor:
        """Return the compiled prediction that finds at least what the arguments ask for."""
        own = self.trained.experiment.model
        config = widen_limits(own, threshold, max_detections)
        if config not in self._predictors:
            _LOG.info("the first prediction on each image size compiles the model")
            model = self.trained.model if config == own else config.build()
            self._predictors[config] = Predictor(model)
        found = self._predictors[config]
        if self._replicated is None:
            self._replicated = found.replicate(self.trained.variables)
        return found


def widen_limits(config: Any, threshold: float | None, max_detections: int | None) -> Any:
    """Return a model's config whose own limits leave out nothing that the arguments ask for.

    The limits are the fields `score_threshold`, `post_nms_score_threshold` and
    `detections_per_image` of the config and of its parts, such as the box head, but not those of
    the panoptic map. Beside more `detections_per_image` there are at least twice as many
    candidates, `pre_nms_topk`: of fewer, NMS could not keep so many.
    """
    changes: dict[str, Any] = {}
    wanted = max_detections or 0
    is_more = wanted > getattr(config, "detections_per_image", wanted)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, HeuristicMerging):
            continue
        if dataclasses.is_dataclass(value):
            changes[field.name] = widen_limits(value, threshold, max_detections)
        elif field.name in ("score_threshold", "post_nms_score_threshold"):
            changes[field.name] = value if threshold is None else min(value, threshold)
        elif field.name == "detections_per_image":
            changes[field.name] = max(value, wanted)
        elif field.name == "pre_nms_topk" and is_more:
            changes[field.name] = max(value, 2 * wanted)
    return dataclasses.replace(config, **changes)


def _limit(
    prediction: evaluation.Prediction, threshold: float | None, max_detections: int | None
) -> evaluation.Prediction:
    """Return the best `max_detections` instances with at least the score `threshold`."""
    kept = np.arange(len(prediction.scores))
    if threshold is not None:
        kept = kept[prediction.scores >= threshold]
    return prediction.select(kept[:max_detections])


def _check_arguments(threshold: float | None, max_detections: int | None, batch_size: int) -> None:
    """Raise ValueError for an argument of `Detector.predict` that is out of range."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} must be from 0 to 1")
    for name, value in (("max_detections", max_detections), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value} must be at least 1")

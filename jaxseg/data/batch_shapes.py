"""The shapes of training batches, known without any data."""

from typing import Any

import jax
import numpy as np

from jaxseg.data.config import DataConfig
from jaxseg.types import Batch, ImageMasks, TargetSpec


def abstract_batch(
    config: DataConfig, targets: TargetSpec, batch_size: int, bucket: tuple[int, int]
) -> Batch:
    """Return the shapes and dtypes of a batch as `TrainPipeline` makes it, for `jax.jit(f).lower`.

    Raises ValueError if the bucket does not divide by a stride of the targets.
    """
    objects = config.max_objects
    pixels = np.float32 if config.resize_backend == "torch" else np.uint8

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    fields: dict[str, Any] = {
        "images": array(pixels, *bucket, 3),
        "image_size": array(np.int32, 2),
        "boxes": array(np.float32, objects, 4),
        "labels": array(np.int32, objects),
        "valid": array(np.bool_, objects),
        "index": array(np.int32),
        "centers": array(np.float32, objects, 2) if targets.centers else None,
    }
    if targets.masks is not None:
        height, width = targets.masks.shape(bucket)
        fields["masks"] = array(np.uint8, objects, height, -(-width // 8))
    if targets.semantic_stride is not None:
        fields["semantic"] = array(np.uint8, *ImageMasks(targets.semantic_stride).shape(bucket))
    return Batch(**fields)

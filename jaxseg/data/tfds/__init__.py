"""COCO instances as a TFDS dataset, written shard by shard and read through `as_data_source`.

Neither needs TensorFlow. TFDS itself is imported only where it is used, as that takes time.
Therefore `jaxseg.data.tfds.builder`, which subclasses TFDS's classes, is not imported here.
"""

from jaxseg.data.tfds.source import TfdsFolder, TfdsSource, split_names
from jaxseg.data.tfds.write import build

__all__ = ["TfdsFolder", "TfdsSource", "build", "split_names"]

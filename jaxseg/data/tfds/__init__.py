"""COCO instances as a TFDS set: built shard by shard, read through `as_data_source`.

TensorFlow is not needed for either. TFDS itself is imported where it is used, since that
takes time; so `jaxseg.data.tfds.builder`, a module of TFDS's own kind, is not imported here.
"""

from jaxseg.data.tfds.source import TfdsFolder, TfdsSource, split_names
from jaxseg.data.tfds.write import build

__all__ = ["TfdsFolder", "TfdsSource", "build", "split_names"]

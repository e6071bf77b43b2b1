"""Read what annotation tools export, and write it as a COCO-format folder.

Each format has one file, with a function that detects it and one that reads it; all return the same
value (`jaxseg.data.importers.values`). `readers.py` lists them and `write.py` writes the folder.
Everything that is read is untrusted: paths stay inside the source, and nothing is executed.
"""

from jaxseg.data.importers.readers import READERS, find_reader, read_dataset
from jaxseg.data.importers.values import Options
from jaxseg.data.importers.write import write_dataset

__all__ = ["READERS", "Options", "find_reader", "read_dataset", "write_dataset"]

"""COCO-format folders: files, annotations and their checks."""

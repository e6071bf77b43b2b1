"""`jaxseg data import`: what an annotation tool exported, as a COCO-format folder."""

import pathlib

from jaxseg.data.importers import Options, find_reader, read_dataset, write_dataset
from jaxseg.data.importers.values import ImportedData
from jaxseg.data.importers.write import SplitCounts, check_output


def import_data(
    source: pathlib.Path, out: pathlib.Path, options: Options, format_name: str | None = None
) -> None:
    """Convert a dataset to a COCO-format folder; print what was found and what was lost.

    Args:
        source: the folder or file that a tool exported.
        out: the new folder, absent or empty.
        options: how to read and split it.
        format_name: the format; detected if None.

    Raises:
        FileNotFoundError, ValueError: the source cannot be read; nothing is written.
        OSError: `out` cannot be written.
    """
    source = source.expanduser()
    reader = find_reader(source, format_name)
    check_output(out)
    print(f"format: {reader.name}")
    data = read_dataset(source, reader, options)
    counts = write_dataset(data, out)
    for line in _summary(data, counts):
        print(line)
    print(f"wrote {out}; `jaxseg data check {out}` checks it")


def _summary(data: ImportedData, counts: dict[str, SplitCounts]) -> list[str]:
    """Return the lines about splits, classes and what was lost."""
    lines = [data.split_note] if data.split_note else []
    for split, count in counts.items():
        crowds = f" and {count.crowds} crowds" if count.crowds else ""
        lines.append(f"split {split}: {count.images} images, {count.objects} objects{crowds}")
        lines += [f"  {name}: {objects}" for name, objects in count.classes.items()]
    if "train" in counts and "val" not in counts:
        lines.append("there is no split val, which evaluation needs")
    skipped = data.skipped.lines()
    lines.append("lost or changed:" if skipped else "nothing was lost")
    return [*lines, *(f"  {line}" for line in skipped)]

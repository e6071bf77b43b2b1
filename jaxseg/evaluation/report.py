"""Write metrics as a table for people and as `metrics.json` for programs."""

import json
import pathlib
from collections.abc import Iterable

from jaxseg.evaluation.coco import METRIC_NAMES, METRIC_TYPES, Metrics
from jaxseg.evaluation.panoptic_quality import PQ_NAMES
from jaxseg.files import atomic_write


def format_table(metrics: Metrics) -> str:
    """Return the twelve metrics of boxes, masks and boundaries, then the AP of each class.

    Below come PQ, SQ and RQ where there are any: of all classes, things, stuff, and each class.
    """
    lines = [f"{'':<24}" + "".join(f"{name:>10}" for name in METRIC_TYPES)]
    lines += [_row(name, metrics, name) for name in METRIC_NAMES]
    # Boxes and masks have the same classes; models without masks have boxes alone.
    keys = (key.partition("/AP/") for key in metrics)
    classes = dict.fromkeys(name for _, separator, name in keys if separator)
    lines.append("AP by class")
    lines += [_row(f"  {name}", metrics, f"AP/{name}") for name in classes]
    if "panoptic/PQ" in metrics:
        lines += ["", *_panoptic_lines(metrics)]
    return "\n".join(lines)


def _panoptic_lines(metrics: Metrics) -> list[str]:
    def row(title: str, suffix: str) -> str:
        return f"{title:<24}" + _cells(metrics.get(f"panoptic/{name}{suffix}") for name in PQ_NAMES)

    keys = (key.partition("panoptic/PQ/") for key in metrics)
    classes = [name for _, separator, name in keys if separator]
    return [
        f"{'panoptic':<24}" + "".join(f"{name:>10}" for name in PQ_NAMES),
        row("all", ""),
        row("things", "_things"),
        row("stuff", "_stuff"),
        "by class",
        *(row(f"  {name}", f"/{name}") for name in classes),
    ]


def _row(title: str, metrics: Metrics, name: str) -> str:
    """Return one metric of all types, "-" where it is None or missing."""
    return f"{title:<24}" + _cells(metrics.get(f"{kind}/{name}") for kind in METRIC_TYPES)


def _cells(values: Iterable[float | None]) -> str:
    return "".join(f"{'-' if value is None else format(value, '.3f'):>10}" for value in values)


def write_metrics(metrics: Metrics, path: pathlib.Path) -> None:
    """Write `metrics` as JSON, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n")

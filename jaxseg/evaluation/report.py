"""Write metrics as a table for people and as `metrics.json` for programs."""

import json
import pathlib

from jaxseg.evaluation.coco import METRIC_NAMES, METRIC_TYPES, Metrics
from jaxseg.files import atomic_write


def format_table(metrics: Metrics) -> str:
    """Return the twelve metrics of boxes, masks and boundaries, then the AP of each class."""
    lines = [f"{'':<24}" + "".join(f"{name:>10}" for name in METRIC_TYPES)]
    lines += [_row(name, metrics, name) for name in METRIC_NAMES]
    # Boxes and masks have the same classes; models without masks have boxes alone.
    keys = (key.partition("/AP/") for key in metrics)
    classes = dict.fromkeys(name for _, separator, name in keys if separator)
    lines.append("AP by class")
    lines += [_row(f"  {name}", metrics, f"AP/{name}") for name in classes]
    return "\n".join(lines)


def _row(title: str, metrics: Metrics, name: str) -> str:
    """Return one metric of all types, "-" where it is None or missing."""
    values = (metrics.get(f"{metric_type}/{name}") for metric_type in METRIC_TYPES)
    return f"{title:<24}" + "".join(f"{'-' if v is None else format(v, '.3f'):>10}" for v in values)


def write_metrics(metrics: Metrics, path: pathlib.Path) -> None:
    """Write `metrics` as JSON, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(metrics, indent=2) + "\n")

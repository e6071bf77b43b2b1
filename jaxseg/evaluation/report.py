"""The figures as a table for people and as `metrics.json` for programs."""

import json
import os
import pathlib

from jaxseg.evaluation.coco import FIGURES, KINDS, Metrics


def format_table(metrics: Metrics) -> str:
    """The twelve figures for boxes and masks side by side, then the AP of each class."""
    lines = [f"{'':<24}" + "".join(f"{kind:>8}" for kind in KINDS)]
    lines += [_row(figure, metrics, figure) for figure in FIGURES]
    prefix = "segm/AP/"
    classes = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    lines.append("AP by class")
    lines += [_row(f"  {name}", metrics, f"AP/{name}") for name in classes]
    return "\n".join(lines)


def _row(title: str, metrics: Metrics, figure: str) -> str:
    cells = (metrics.get(f"{kind}/{figure}") for kind in KINDS)
    return f"{title:<24}" + "".join(f"{'-' if v is None else format(v, '.3f'):>8}" for v in cells)


def write_metrics(metrics: Metrics, path: pathlib.Path) -> None:
    """Writes `metrics` as JSON; the file is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(metrics, indent=2) + "\n")
    os.replace(partial, path)

"""The times of a run as a picture."""

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxseg.bench.results import GroupResult
from jaxseg.bench.timing import median

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def plot(path: pathlib.Path, groups: Sequence[GroupResult], title: str) -> str:
    """Draw the medians and the spread of all timed rows, a panel for each group.

    Returns a line that says what was written, or why nothing was.
    """
    timed = [group for group in groups if any(row.samples for row in group.rows)]
    if not timed:
        return f"{path}: nothing was timed, nothing is drawn"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return f"{path}: matplotlib is not installed, nothing is drawn"
    rows = [sum(bool(row.samples) for row in group.rows) for group in timed]
    figure = Figure(figsize=(12, 1.5 + 0.8 * len(timed) + 0.3 * sum(rows)), layout="constrained")
    panels = figure.subplots(len(timed), squeeze=False, height_ratios=[n + 2 for n in rows])[:, 0]
    for panel, group in zip(panels, timed, strict=True):
        _draw_group(panel, group)
    figure.suptitle(title)
    figure.savefig(path)
    return f"{path}: drawn"


def _draw_group(panel: Any, group: GroupResult) -> None:
    rows = [row for row in group.rows if row.samples]
    sides = list(dict.fromkeys(row.side for row in rows))
    for position, row in enumerate(rows):
        wall = [1e3 * sample.wall for sample in row.samples]
        middle = 1e3 * median(row.samples).wall
        spread = [[middle - min(wall)], [max(wall) - middle]]
        color = COLORS[sides.index(row.side) % len(COLORS)]
        panel.barh(position, middle, xerr=spread, color=color, ecolor="gray")
    panel.set_yticks(range(len(rows)), [f"{row.case}: {row.side}" for row in rows], fontsize=7)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("ms")
    panel.set_title(group.name)

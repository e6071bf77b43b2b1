"""The results as Markdown tables and as JSON."""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxseg.bench.results import OURS, GroupResult, Row
from jaxseg.bench.timing import median
from jaxseg.files import atomic_write


def machine_lines(machine: Mapping[str, Any], speeds: Mapping[str, float]) -> Iterator[str]:
    """Yield what the figures were measured on, for people."""
    yield (
        f"{machine['devices']} x {machine['device']} ({machine['backend']}), "
        f"{machine['processor']}, {machine['cores']} cores; {machine['date']}"
    )
    yield (
        f"jaxseg {machine['jaxseg']}, JAX {machine['jax']}, jaxlib {machine['jaxlib']}, flax "
        f"{machine['flax']}, Python {machine['python']}"
    )
    if "torch" in machine:
        yield (
            f"torchvision {machine['torchvision']}, torch {machine['torch']} on "
            f"{machine['torch_device']}, {machine['torch_threads']} threads"
        )
    else:
        yield f"torchvision: not measured ({machine['no_peer']})"
    yield (
        f"{machine['dtype']}, matmul precision {machine['matmul_precision']}; a product of "
        f"{machine['matmul']}x{machine['matmul']} matrices: {speeds['matmul, TFLOP/s']:.3g} "
        f"TFLOP/s, a copy: {speeds['copy, GB/s']:.3g} GB/s"
    )
    for name, value in machine["settings"].items():
        yield f"{name}={value}"


def group_lines(group: GroupResult) -> Iterator[str]:
    """Yield a group's table, and below it the comparisons and what was left out."""
    yield f"## {group.name}"
    yield ""
    yield from _table(group.rows)
    for case, comparison in group.comparisons:
        verdict = "" if comparison.passed else ": DIFFERENT"
        yield (
            f"- {case}: {comparison.what}: difference {comparison.difference:.2g}, "
            f"tolerance {comparison.tolerance:.2g}{verdict}"
        )
    for case, reason in group.skipped.items():
        yield f"- skipped {case}: {reason}"
    for case, reason in group.failed.items():
        yield f"- FAILED {case}: {reason}"
    yield ""


def _table(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    titles = list(dict.fromkeys(name for row in rows for name in row.figures))
    timed = any(row.samples for row in rows)
    times = ["ms", "min to max", "CPU ms", "time / torchvision"] if timed else []
    head = ["case", "side", *times, *titles]
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        cells = [row.case, row.side]
        if timed:
            cells += _times(row, rows)
        cells += [_format(row.figures.get(title, "")) for title in titles]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _times(row: Row, rows: Sequence[Row]) -> list[str]:
    if not row.samples:
        return [""] * 4
    middle, wall = median(row.samples), [sample.wall for sample in row.samples]
    spread = f"{_format(1e3 * min(wall))} to {_format(1e3 * max(wall))}"
    share = ratio(row, rows)
    return [
        _format(1e3 * middle.wall),
        spread,
        _format(1e3 * middle.cpu),
        "" if share is None else f"{share:.2f}",
    ]


def ratio(row: Row, rows: Sequence[Row]) -> float | None:
    """Return jaxseg's time over that of the fastest other codebase in its case."""
    others = [
        median(other.samples).wall
        for other in rows
        if other.case == row.case and not other.side.startswith(OURS) and other.samples
    ]
    if row.side != OURS or not others or not row.samples:
        return None
    return median(row.samples).wall / min(others)


def _format(value: float | str) -> str:
    """Return a number with three digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def to_json(
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    speeds: Mapping[str, float],
    groups: Sequence[GroupResult],
) -> dict[str, Any]:
    """Return everything that was measured, each sample included, in seconds."""
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "speeds": dict(speeds),
        "groups": [_group_to_json(group) for group in groups],
    }


def _group_to_json(group: GroupResult) -> dict[str, Any]:
    return {
        "name": group.name,
        "rows": [
            {
                "case": row.case,
                "side": row.side,
                "wall_s": [sample.wall for sample in row.samples],
                "cpu_s": [sample.cpu for sample in row.samples],
                "figures": row.figures,
            }
            for row in group.rows
        ],
        "comparisons": [
            {
                "case": case,
                "what": comparison.what,
                "difference": comparison.difference,
                "tolerance": comparison.tolerance,
                "passed": comparison.passed,
            }
            for case, comparison in group.comparisons
        ],
        "skipped": group.skipped,
        "failed": group.failed,
    }


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Write the JSON file, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n")

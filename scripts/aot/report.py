"""What the compiler says of a program, as one JSON value, and its tables."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aot.hlo import COLLECTIVES, Frame, Kernel, Program
from aot.topology import CHIPS

UNESTIMATED = ("gather", "scatter", "sort", "top-k")
"""Listed with their sizes, since TPU programs have no estimate for most of them."""

MODULES = r"[/(](backbone|fpn|rpn_head|box_head|mask_head|mask_feature_head|head)[/)]"
"""Layers of the models, in JAX's name of an operation."""
SOURCES = {
    "ops/roi_align.py:": "roi_align",
    "ops/roi_taps.py:": "roi_align",
    "ops/roi_tiles.py:": "roi_align",
    "heads/roi_pooler.py:": "roi_align",
    "ops/nms.py:": "nms",
    "ops/matrix_nms.py:": "nms",
    "ops/matching.py:": "matching",
    "ops/grid_targets.py:": "matching",
    "ops/sampling.py:": "sampling",
    "ops/anchors.py:": "anchors",
    "heads/rpn.py:make_anchors": "anchors",
    "heads/rpn.py:sample_anchors": "matching",
    "heads/rpn.py:rpn_losses": "losses",
    "heads/rpn.py:": "proposals",
    "heads/roi_sampling.py:": "matching",
    "ops/masks.py:": "mask_targets",
    "heads/mask_head.py:mask_targets": "mask_targets",
    "heads/mask_head.py:": "mask_head",
    "heads/box_head.py:box_losses": "losses",
    "heads/box_head.py:": "box_head",
    "nn/pixels.py:": "pixels",
    "nn/resnet.py:": "backbone",
    "nn/fpn.py:": "fpn",
    "nn/conv.py:": "convolution",
    "optax/": "optimizer",
    "models/": "losses",
    "training/step.py:": "optimizer",
}
"""Part of the model by source, `file:function`. The innermost caller that is listed counts."""


def analyse(
    program: Program, schedules: Mapping[str, int], device_kind: str, top: int
) -> dict[str, Any]:
    """Return kernels, estimates, loops and collectives; `top` is the number of kernels listed.

    `schedules` has cycles by kernel, used for those that have no estimate (`aot.schedules`).
    """
    chip = CHIPS.get(device_kind)
    clock = chip.clock if chip else None
    kernels = list(program.kernels())
    counts = Counter(kernel.kind for kernel in kernels)
    unestimated: dict[str, Counter] = defaultdict(Counter)
    collectives: dict[str, Counter] = defaultdict(Counter)
    by_part: dict[str, Counter] = defaultdict(Counter)
    by_kind: Counter = Counter()
    alike = {  # libtpu writes the machine code of equal kernels once
        (kernel.kind, kernel.instruction.type): schedules[kernel.instruction.name]
        for kernel in kernels
        if kernel.instruction.name in schedules
    }
    scheduled = 0
    rows = []
    for kernel in kernels:
        instruction, kind = kernel.instruction, kernel.kind
        written = instruction.bytes_written * kernel.runs
        if kind in COLLECTIVES:
            collectives[kind].update(number=1, bytes=written)
        cycles = instruction.cycles
        if cycles is None:
            if kind in UNESTIMATED:
                unestimated[kind].update(number=1, runs=kernel.runs, bytes=written)
            cycles = schedules.get(instruction.name, alike.get((kind, instruction.type)))
            if cycles is None:
                continue
            scheduled += cycles * kernel.runs
        cycles *= kernel.runs
        part, direction = part_of(program, kernel)
        by_kind[kind] += cycles
        by_part[part][direction] += cycles
        rows.append((cycles, part, direction, kernel))
    rows.sort(key=lambda row: -row[0])
    loops = program.loops()
    return {
        "kernels": dict(counts.most_common()),
        "loops": {
            "number": len(loops),
            "unknown_length": sum(program.trips(loop) is None for loop in loops),
        },
        "collectives": {kind: dict(value) for kind, value in collectives.items()},
        "unestimated": {kind: dict(value) for kind, value in unestimated.items()},
        "estimate": {
            "clock": clock,
            "cycles": sum(by_kind.values()),
            "cycles_from_schedules": scheduled,
            "cycles_in_loops_of_unknown_length": sum(
                cycles for cycles, _, _, kernel in rows if kernel.in_unknown_loop
            ),
            "by_kind": dict(by_kind.most_common()),
            "by_part": {
                part: dict(value)
                for part, value in sorted(by_part.items(), key=lambda x: -sum(x[1].values()))
            },
        },
        "largest": [
            {
                "cycles": cycles,
                "runs": kernel.runs,
                "kind": kernel.kind,
                "part": f"{part} {direction}",
                "type": re.sub(r"\{[^}]*\}", "", kernel.instruction.type),
                "op_name": program.traced(kernel.instruction).op_name,
            }
            for cycles, part, direction, kernel in rows[:top]
        ],
    }


def part_of(program: Program, kernel: Kernel) -> tuple[str, str]:
    """Return the part of the model that a kernel belongs to, and forward or backward.

    A fusion belongs where its last operation does.
    """
    traced = program.traced(kernel.instruction)
    name = traced.op_name
    direction = "backward" if "transpose(" in name else "forward"
    module = re.search(MODULES, name)
    if module:
        return module[1], direction
    for frame in program.callers(traced):
        part = _source(frame)
        if part:
            return part, direction
    return "other", direction


def _source(frame: Frame) -> str | None:
    place = f"{frame.file}:{frame.function}"
    return next((part for source, part in SOURCES.items() if f"/{source}" in place), None)


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report as Markdown."""
    yield f"# {report['what']}: {report['topology']}, {report['devices']} x {report['device']}"
    yield ""
    yield ", ".join(f"{key} {value}" for key, value in report["settings"].items())
    yield ", ".join(f"{key} {value}" for key, value in report["versions"].items())
    yield f"compiled in {report['compile_seconds']:.1f} s"
    yield ""
    chip = CHIPS.get(report["device"])
    yield from _table(["on each device", ""], _sizes(report, chip))
    yield from _table(["kernels", "number"], report["kernels"].items())
    loops = report["loops"]
    unknown = loops["unknown_length"]
    yield f"loops: {loops['number']}, {unknown} of a length that depends on the data"
    yield ""
    yield from _counted(report["collectives"], ["collectives", "number", "MB"])
    yield from _counted(report["unestimated"], ["without an estimate", "number", "runs", "MB"])
    yield from _estimate(report)
    yield from _largest(report)


def _sizes(report: Mapping[str, Any], chip: Any) -> Iterator[tuple[str, str]]:
    for name, size in report["memory"].items():
        yield name, f"{size / 2**20:,.1f} MiB"
    flops, moved = report["flops"], report["bytes"]
    if flops is not None:
        peak = f" ({1000 * flops / chip.peak_flops:.2f} ms at the peak)" if chip else ""
        yield "floating-point operations", f"{flops / 1e9:,.1f} G{peak}"
    if moved is not None:
        limit = f" ({1000 * moved / chip.bandwidth:.2f} ms at the bandwidth)" if chip else ""
        yield "bytes read and written", f"{moved / 1e9:,.2f} G{limit}"


def _counted(values: Mapping[str, Mapping[str, int]], header: list[str]) -> Iterator[str]:
    if values:
        rows = (
            (kind, *(v for k, v in value.items() if k != "bytes"), f"{value['bytes'] / 1e6:,.1f}")
            for kind, value in values.items()
        )
        yield from _table(header, rows)


def _estimate(report: Mapping[str, Any]) -> Iterator[str]:
    estimate = report["estimate"]
    if not estimate["cycles"]:
        yield "The compiler gives no estimate of time for this device."
        yield ""
        return
    clock = estimate["clock"]
    unit, scale = ("ms", 1000 / clock) if clock else ("cycles", 1)
    images = report["settings"]["images on each device"] * report["devices"]
    of_model = "model" in report["settings"]
    rate = f", {images * clock / estimate['cycles']:,.1f} images/s" if clock and of_model else ""
    yield f"estimated: {estimate['cycles'] * scale:,.2f} {unit}{rate}"
    scheduled = estimate["cycles_from_schedules"]
    if scheduled:
        yield (
            f"of it {scheduled * scale:,.2f} {unit} from the machine code of kernels without an "
            "estimate, a lower bound: waits for memory are not in it"
        )
    unknown = estimate["cycles_in_loops_of_unknown_length"]
    if unknown:
        yield (
            f"of it {unknown * scale:,.2f} {unit} in loops of a length that depends on the data, "
            "as if they ran once"
        )
    yield ""
    parts = (
        (part, *(f"{value.get(k, 0) * scale:,.2f}" for k in ("forward", "backward")))
        for part, value in estimate["by_part"].items()
    )
    yield from _table([f"part, {unit}", "forward", "backward"], parts)
    kinds = ((kind, f"{cycles * scale:,.2f}") for kind, cycles in estimate["by_kind"].items())
    yield from _table(["kind", unit], kinds)


def _largest(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["largest"]:
        return
    clock = report["estimate"]["clock"]
    unit, scale = ("ms", 1000 / clock) if clock else ("cycles", 1)
    rows = (
        (f"{x['cycles'] * scale:,.3f}", x["runs"], x["kind"], x["part"], x["type"], x["op_name"])
        for x in report["largest"]
    )
    yield from _table([unit, "runs", "kind", "part", "result", "operation"], rows)


def _table(header: list[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"| {' | '.join('---' for _ in header)} |"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
    yield ""

"""Run the chosen groups of measurements, print their tables, and write the files.

A case that fails or cannot run here is reported, and the others go on.
"""

import dataclasses
import datetime
import gc
import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxseg.bench import machine, plot, report
from jaxseg.bench.context import Context
from jaxseg.bench.models import Models, find_config
from jaxseg.bench.peer import find_peer
from jaxseg.bench.results import OURS, Case, GroupResult, Prepared, Row, Skipped, first_line
from jaxseg.bench.settings import Settings
from jaxseg.bench.timing import median, time_sides
from jaxseg.files import prepare_output_file

MATMUL = "matmul"
"""The side that the share of the machine's speed refers to."""
HOST_PACKAGES = {"grain", "pycocotools", "cv2", "PIL", "safetensors", "tensorflow_datasets"}
"""Packages of the host's parts; cases that need them are skipped where they are missing."""
_MODULES = {"compile": "compiling"}
"""The modules whose names are not those of their groups."""


def measure_compilation() -> None:
    """Let JAX compile everything, whatever is kept from earlier runs."""
    jax.config.update("jax_enable_compilation_cache", False)


def bench(settings: Settings, print_line: Callable[[str], None] = print) -> int:
    """Measure, and return the exit status: 1 if a case failed or results differ, else 0."""
    for path in (settings.out, settings.plot):
        if path is not None:
            prepare_output_file(path)
    for name in settings.models:
        find_config(name)
    peer, reason = find_peer()
    about = machine.describe_machine() | {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "dtype": settings.dtype,
        "matmul": settings.matmul,
        **({"no_peer": reason} if peer is None else peer.describe()),
    }
    speeds = machine.measure_speeds(settings)
    for line in report.machine_lines(about, speeds):
        print_line(line)
    print_line("")
    context = Context(settings, Models(settings), peer)
    results = []
    for name in settings.groups:
        group = importlib.import_module(f"jaxseg.bench.{_MODULES.get(name, name)}")
        results.append(run_group(name, group.cases(context), context))
        for line in report.group_lines(results[-1]):
            print_line(line)
        if settings.out is not None:  # after every group: a later one may end the process
            chosen = dataclasses.asdict(settings)
            report.write_json(settings.out, report.to_json(about, chosen, speeds, results))
    if settings.plot is not None:
        print_line(plot.plot(settings.plot, results, f"{about['device']}, {about['date']}"))
    different = any(not c.passed for group in results for _, c in group.comparisons)
    return int(different or any(group.failed for group in results))


def run_group(name: str, cases: Iterable[Case], context: Context) -> GroupResult:
    """Measure the cases one after the other."""
    result = GroupResult(name)
    for case in cases:
        print(f"{name}: {case.name}", file=sys.stderr, flush=True)
        try:
            _run_case(result, case, context)
        except Skipped as skip:
            result.skipped[case.name] = str(skip)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in HOST_PACKAGES:
                raise
            result.skipped[case.name] = f"{error.name} is not installed"
        except Exception as error:
            result.failed[case.name] = first_line(error)
        gc.collect()  # of the arrays of a case, which the next one needs room for
        if context.peer is not None:
            context.peer.free()
    return result


def _run_case(result: GroupResult, case: Case, context: Context) -> None:
    settings, prepared = context.settings, case.prepare()
    sides = dict(prepared.sides)
    if prepared.flop:  # in turn with the case, since the machine's speed may change
        sides[MATMUL] = machine.matmul_side(settings)
    try:
        samples = time_sides(sides, settings.steps, settings.seconds)
        result.rows += [
            Row(case.name, side, samples.get(side, []), _figures(side, samples, prepared, context))
            for side in {**prepared.sides, **prepared.figures}
        ]
        result.failed |= {f"{case.name}, {s}": why for s, why in prepared.problems.items()}
        result.comparisons += [(case.name, comparison) for comparison in prepared.compare()]
    finally:
        prepared.close()


def _figures(side: str, samples: Any, prepared: Prepared, context: Context) -> dict[str, Any]:
    """Return a side's figures, with those that follow from its time."""
    figures = dict(prepared.figures.get(side, {}))
    if side not in samples:
        return figures
    seconds = median(samples[side]).wall
    derived: dict[str, Any] = {}
    if prepared.images:
        derived["images/s"] = prepared.images / seconds
    if prepared.flop and side == OURS:
        speed = machine.matmul_flop(context.settings) / median(samples[MATMUL]).wall
        derived["TFLOP/s"] = prepared.flop / seconds / 1e12
        derived["matmul, TFLOP/s"] = speed / 1e12
        derived["share of it"] = f"{prepared.flop / seconds / speed:.0%}"
    return derived | figures

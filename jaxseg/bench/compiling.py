"""The time that compilation takes, and what it makes; nothing is compiled twice in a run."""

import functools
import time
from collections.abc import Iterable

import jax

from jaxseg.bench.context import Context
from jaxseg.bench.memory import GIB
from jaxseg.bench.results import OURS, Case, Prepared
from jaxseg.training.step import init_variables

PROGRAMS = ("predict", "step")


def cases(context: Context) -> Iterable[Case]:
    """Return a case for each program of each model."""
    for name in context.settings.models:
        yield Case(f"{name}, random variables", functools.partial(_init, context, name))
        for program in PROGRAMS:
            yield Case(f"{name}, {program}", functools.partial(_prepare, context, name, program))


def _init(context: Context, name: str) -> Prepared:
    started = time.perf_counter()
    jax.block_until_ready(init_variables(context.models[name].model, (1, 64, 64, 3), seed=0))
    return Prepared(figures={OURS: {"with its run, s": time.perf_counter() - started}})


def _prepare(context: Context, name: str, program: str) -> Prepared:
    made = getattr(context.models[name], f"{program}_program")
    code = made.run.memory_analysis().generated_code_size_in_bytes
    return Prepared(
        figures={
            OURS: {
                "trace, s": made.trace_seconds,
                "compile, s": made.compile_seconds,
                "code, MiB": 1024 * code / GIB,
            }
        }
    )

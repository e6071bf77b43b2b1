"""Compiled programs are counted, and a step that is compiled twice is reported."""

import dataclasses
import re
import threading

import jax
import numpy as np

from jaxseg.training import loop
from jaxseg.training.compilations import CompilationCounter, Compilations
from tests.training.toy_run import CONFIG, run


def compile_something(shape=(3,)):
    jax.jit(lambda x: x * 2 + 1)(np.ones(shape, np.float32))


def test_programs_are_counted_in_all_threads_and_in_one():
    compile_something()
    with CompilationCounter() as counter:
        assert counter.count() == Compilations()
        compile_something()
        first = counter.count_in_thread()
        assert first.programs >= 1
        assert first.seconds > 0
        thread = threading.Thread(target=compile_something)
        thread.start()
        thread.join()
        assert counter.count_in_thread() == first
        assert counter.count().programs > first.programs
        assert counter.count().since(first).programs == counter.count().programs - first.programs
    counted = counter.count()
    compile_something()
    assert counter.count() == counted


def test_programs_from_the_cache_are_counted_apart():
    counter = CompilationCounter()
    counter._listen("/jax/core/compile/backend_compile_duration", 2.0)
    assert str(counter.count()) == "compiled 1 programs in 2 s"
    counter._listen("/jax/compilation_cache/cache_retrieval_time_sec", 0.5)
    counter._listen("/jax/core/compile/backend_compile_duration", 0.6, fun_name="step")
    counter._listen("/jax/core/compile/jaxpr_trace_duration", 9.0)
    assert counter.count() == Compilations(2, 1, 2.6)
    assert str(counter.count()) == "compiled 2 programs in 3 s, 1 of them from the cache"


def test_a_step_that_is_compiled_again_for_a_known_bucket_is_reported(tmp_path, monkeypatch, log):
    parallel_step = loop._parallel_step

    def compiling_again(*settings):
        step, calls = parallel_step(*settings), []

        def run_step(state, batch, noticed):
            calls.append(batch)
            if len(calls) == 3:
                compile_something((5,))
            return step(state, batch, noticed)

        return run_step

    monkeypatch.setattr(loop, "_parallel_step", compiling_again)
    run(tmp_path, dataclasses.replace(CONFIG, steps=4))
    assert re.search(r"step 3: compiled \d programs in 0 s, although its bucket had", log())
    assert log().count("although") == 1

"""Compiled programs are counted, and a step that is compiled twice is reported."""

import dataclasses
import os
import re
import signal
import threading

import jax
import numpy as np
import pytest

from jaxseg.training.compilations import CompilationCounter, Compilations
from jaxseg.training.preemption import Preempted
from jaxseg.training.train_step import TrainStep
from tests.training.toy_run import CONFIG, ToyData, run


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
    train_step, calls = TrainStep.__call__, []

    def run_step(self, state, batch, noticed):
        calls.append(batch)
        if len(calls) == 3:
            compile_something((5,))
        return train_step(self, state, batch, noticed)

    monkeypatch.setattr(TrainStep, "__call__", run_step)
    run(tmp_path, dataclasses.replace(CONFIG, steps=4))
    assert re.search(r"step 3: compiled \d programs in 0 s, although its bucket had", log())
    assert log().count("although") == 1


@pytest.mark.parametrize("parallel", ["pmap", "shard_map"])
def test_the_step_is_compiled_for_all_buckets_before_the_first_and_never_again(
    tmp_path, monkeypatch, capsys, parallel
):
    train_step, compiled = TrainStep.__call__, []

    def run_step(self, *arguments):
        with CompilationCounter() as counter:
            result = train_step(self, *arguments)
        compiled.append(counter.count().programs)
        return result

    monkeypatch.setattr(TrainStep, "__call__", run_step)
    monkeypatch.setattr(ToyData, "buckets", ((64, 64), (64, 96)))
    run(tmp_path, dataclasses.replace(CONFIG, steps=4, parallel=parallel))
    assert compiled == [0] * 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "compiling the training step for 64x64 (1 of 2) ...",
        "compiling the training step for 64x96 (2 of 2) ...",
    ]
    assert lines[2].startswith("step 1/4  loss ")


def test_a_step_that_cannot_be_compiled_for_a_later_bucket_fails_before_any_batch(
    tmp_path, monkeypatch
):
    abstract_batches = ToyData.abstract_batches

    def with_a_bad_one(*arguments):
        (batch,) = abstract_batches(*arguments)
        return batch, batch._replace(valid=jax.ShapeDtypeStruct((8, 6), bool))

    monkeypatch.setattr(ToyData, "abstract_batches", with_a_bad_one)
    with pytest.raises(TypeError, match="shape"):
        run(tmp_path, at_step={0: lambda: pytest.fail("a batch was made")})


def test_a_notice_stops_the_run_between_two_buckets(tmp_path, monkeypatch, capsys):
    compile_step = TrainStep.compile

    def compile_and_stop(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        compile_step(self, *arguments)

    monkeypatch.setattr(TrainStep, "compile", compile_and_stop)
    monkeypatch.setattr(ToyData, "buckets", ((64, 64), (64, 96)))
    with pytest.raises(Preempted, match="stopped by SIGTERM: run the same command again"):
        run(tmp_path, at_step={0: lambda: pytest.fail("a batch was made")})
    assert capsys.readouterr().out.count("compiling") == 1

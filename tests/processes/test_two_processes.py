"""A training by two processes: it ends as one, and stops or fails in both."""

import json
import re
import signal
import time

import pytest

from jaxseg import predictor
from tests.processes.launch import (
    STEPS,
    assert_params_are_close,
    flags_of_two,
    launch,
    newest_checkpoint,
    start_two,
    wait_for_checkpoint,
)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path, file):
    processes = start_two(file, tmp_path)
    outs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert f"step {STEPS}/{STEPS}" in outs[0]
    assert "img/s" not in outs[1]
    assert predictor.restore(tmp_path).step == STEPS


@pytest.mark.slow
def test_two_processes_end_as_one_and_evaluate_exactly_as_one(
    tmp_path, sampling_file, of_one_process
):
    workdir = tmp_path / "run"
    processes = start_two(sampling_file, workdir)
    outs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert_params_are_close(workdir, of_one_process)

    evaluate = ["eval", workdir, "--out"]
    processes = [launch(*evaluate, tmp_path / "one")]
    processes += [launch(*evaluate, tmp_path / "two", *flags) for flags in flags_of_two()]
    outs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outs
    one, two = tmp_path / "one", tmp_path / "two"
    assert json.loads((one / "metrics.json").read_text()) == json.loads(
        (two / "metrics.json").read_text()
    )
    found, expected = (
        sorted(json.loads((out / "predictions.json").read_text()), key=lambda r: r["image_id"])
        for out in (two, one)
    )
    assert found == expected
    assert found
    overlays = [sorted(path.name for path in (out / "overlays").iterdir()) for out in (one, two)]
    assert overlays[0] == overlays[1]


@pytest.mark.slow
def test_two_processes_evaluate_and_keep_the_best(tmp_path, file):
    processes = start_two(file, tmp_path, "--train.eval-every", "6", "--train.steps", "18")
    outs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert outs[0].count("evaluating step") == 3
    assert "has the best segm/AP so far" in outs[0]
    assert predictor.restore(tmp_path / "best").step in (6, 12, 18)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_at_the_start_ends_the_other(tmp_path, file, failing):
    files = [file, file]
    files[failing] = tmp_path / "absent.py"
    processes = start_two(tuple(files), tmp_path / "run")
    out, _ = processes[failing].communicate(timeout=60)
    failed = time.monotonic()
    assert processes[failing].returncode == 1
    assert "no experiment file" in out
    processes[1 - failing].communicate(timeout=90)
    print(f"the other ended {time.monotonic() - failed:.1f} s later")
    assert processes[1 - failing].returncode not in (0, None)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_dies_the_other_ends_with_an_error(tmp_path, file, killed):
    processes = start_two(file, tmp_path)
    wait_for_checkpoint(processes[0], tmp_path, 3)
    processes[killed].kill()
    died = time.monotonic()
    processes[killed].communicate()
    out, _ = processes[1 - killed].communicate(timeout=90)
    # Without process 0, JAX's own message may come before jaxseg's.
    reports = re.findall(r"another (?:process has|task) died.*", out)
    print(f"the other ended {time.monotonic() - died:.1f} s later: {reports}")
    assert time.monotonic() - died < 60
    assert processes[1 - killed].returncode not in (0, None)
    assert reports
    assert newest_checkpoint(tmp_path) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path, file, number):
    processes = start_two(file, tmp_path)
    wait_for_checkpoint(processes[0], tmp_path, 3)
    processes[1].send_signal(number)
    outs = [process.communicate(timeout=90)[0] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], outs
    saved = [int(re.search(r"saved after step (\d+)", out)[1]) for out in outs]
    assert saved[0] == saved[1] == newest_checkpoint(tmp_path)


@pytest.mark.slow
def test_a_signal_before_the_first_step_of_a_resumed_run_stops_both(tmp_path, file):
    first = start_two(file, tmp_path)
    wait_for_checkpoint(first[0], tmp_path, 0)
    for process in first:
        process.kill()
        process.communicate()
    step = newest_checkpoint(tmp_path)
    processes = start_two(file, tmp_path)
    for line in processes[0].stdout:
        if "training on" in line:  # next, the state is restored and the step compiled
            break
    processes[1].send_signal(signal.SIGTERM)
    outs = [process.communicate(timeout=600)[0] for process in processes]  # compiles first
    assert [process.returncode for process in processes] == [75, 75], outs
    saved = [int(re.search(r"saved after step (\d+)", out)[1]) for out in outs]
    assert saved == [step + 2, step + 2]  # the other process learns of it by the first step

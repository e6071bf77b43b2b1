"""Trainings in processes of their own: killed, stopped by signals, or left by the other process."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxseg import predictor
from jaxseg.experiment import load_experiment
from jaxseg.training.checkpoint import open_checkpoints
from tests.conftest import ROOT
from tests.event_files import read_events

STEPS, LOG_EVERY, KILLS = 120, 10, 50
EXPERIMENT = f"""
import dataclasses
from jaxseg.commands.demo import MASK_RCNN as demo

small = dataclasses.replace(demo.model, backbone=dataclasses.replace(demo.model.backbone, width=8))
experiment = dataclasses.replace(
    demo,
    model=small,
    data=dataclasses.replace(demo.data, buckets=((64, 64),), min_size=64, max_size=64),
    train=dataclasses.replace(
        demo.train,
        steps={STEPS},
        batch_size=2,
        checkpoint_every=3,
        log_every={LOG_EVERY},
        ema_decay=0.9,
    ),
)
"""


SAMPLING = """
import numpy as np
from jaxseg.data import shapes

read = shapes.ShapesSource.__getitem__

def read_with_noise(self, index):
    example = read(self, index)
    noise = np.random.default_rng(index).integers(-20, 21, example.image.shape)
    return example._replace(image=np.clip(example.image + noise, 0, 255).astype(np.uint8))

shapes.ShapesSource.__getitem__ = read_with_noise
model = experiment.model
anchors = sum((64 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
rpn = dataclasses.replace(
    model.rpn,
    aspect_ratios=(1.0,),
    batch_size_per_image=anchors,
    positive_fraction=1.0,
    pre_nms_topk_train=anchors,
    post_nms_topk_train=anchors,
    nms_threshold=1.0,
)
box = dataclasses.replace(model.box, batch_size_per_image=anchors + 16, positive_fraction=1.0)
experiment = dataclasses.replace(
    experiment,
    model=dataclasses.replace(model, rpn=rpn, box=box),
    data=dataclasses.replace(
        experiment.data, source=dataclasses.replace(experiment.data.source, val_images=13)
    ),
    train=dataclasses.replace(
        experiment.train,
        steps=4,
        checkpoint_every=1,
        optimizer=dataclasses.replace(
            experiment.train.optimizer, name="sgd", learning_rate=0.02, warmup_steps=0
        ),
    ),
)
"""
"""Leaves nothing for rounding to decide, by which runs on other devices drift apart as far as they
learn: which proposals NMS keeps, and which of several equal pixels max pooling takes. All anchors
and proposals are sampled, and the flat colours of the scenes get noise."""
BOUND = 1e-4
"""Largest difference of a parameter after 4 steps on another number of devices or processes.
Rounding alone makes 2e-7; a neuron that falls on the other side of its ReLU makes 1e-5."""


@pytest.fixture(scope="module")
def sampling_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampling") / "experiment.py"
    path.write_text(EXPERIMENT + SAMPLING)
    return path


@pytest.fixture(scope="module")
def of_one_process(sampling_file, tmp_path_factory):
    """The workdir of the run that samples everything, by one process with one device."""
    workdir = tmp_path_factory.mktemp("one_process")
    process = start(sampling_file, workdir)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return workdir


def assert_params_are_close(workdir, expected):
    found, expected = (
        predictor.restore(path, ema=False).variables["params"] for path in (workdir, expected)
    )
    worst = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), found, expected)))
    print(f"largest difference of a parameter after 4 steps: {worst:.1e}")
    assert worst < BOUND


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "experiment.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def uninterrupted(file, tmp_path_factory):
    """The workdir of a run without interruptions."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    process = start(file, workdir)
    process.communicate()
    assert process.returncode == 0
    return workdir


def start(file, workdir, *arguments, **options):
    return launch("train", file, "--workdir", workdir, *arguments, **options)


def launch(*arguments, devices=1, **options):
    """Start the program with a number of devices."""
    command = [sys.executable, "-m", "jaxseg.commands.cli", *map(str, arguments)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    STARTED.append(process)
    return process


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def none_is_left():
    """Kill what a test that failed has left running, so that it disturbs no other test."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()
        process.stdout.close()


def newest_checkpoint(workdir):
    steps = [p.name for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    return max(map(int, steps), default=0)


def wait_for_checkpoint(process, workdir, after):
    while process.poll() is None and newest_checkpoint(workdir) <= after:
        time.sleep(0.02)


def read_scalars(workdir):
    """Return `{(tag, step): value}` of all processes of a run, except timings and memory.

    Values that two processes recorded for the same step must be equal, bit for bit.
    """
    found = {}
    for event in read_events(workdir / "tensorboard"):
        for value in event.summary.value:
            if not re.search("per_second|wait|memory", value.tag):
                key = value.tag, event.step
                assert found.setdefault(key, value.simple_value) == value.simple_value, key
    return found


def final_state(file, workdir):
    with open_checkpoints(workdir) as checkpoints:
        assert checkpoints.latest_step() == STEPS
        state = checkpoints.restore(predictor.state_shapes(load_experiment(file)))
    return jax.tree.map(np.asarray, state)


def assert_ended_the_same(file, workdir, uninterrupted):
    """Check that two runs have equal final states (with optimiser and EMA) and equal metrics."""
    jax.tree.map(
        np.testing.assert_array_equal, final_state(file, workdir), final_state(file, uninterrupted)
    )
    expected = read_scalars(uninterrupted)
    assert ("train/loss", STEPS) in expected
    # A run that is stopped by a signal also records the step it stopped at.
    found = {key: value for key, value in read_scalars(workdir).items() if key[1] % LOG_EVERY == 0}
    assert found == expected


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_never_stopped(tmp_path, file, uninterrupted):
    rng = random.Random(0)
    reached = []
    for kill in range(KILLS):
        process = start(file, tmp_path)
        if kill % 2:  # just after the next checkpoint, while another one is being written
            wait_for_checkpoint(process, tmp_path, newest_checkpoint(tmp_path))
            time.sleep(rng.uniform(0, 0.2))
        else:  # any moment: imports, restoring, compiling, the first steps
            time.sleep(rng.uniform(0, 12))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        reached.append(newest_checkpoint(tmp_path))
    print(f"{KILLS} kills, newest checkpoints {reached}")
    process = start(file, tmp_path)
    process.communicate()
    assert process.returncode == 0
    if reached[-1] == STEPS:
        pytest.fail("the run ended before the last kill: make it longer")
    assert_ended_the_same(file, tmp_path, uninterrupted)


@pytest.mark.slow
def test_sigterm_saves_in_time_and_the_same_command_resumes(tmp_path, file, uninterrupted):
    process = start(file, tmp_path)
    wait_for_checkpoint(process, tmp_path, 3)
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    print(f"ended {time.monotonic() - signalled:.1f} s after SIGTERM")
    assert time.monotonic() - signalled < 30
    assert process.returncode == 75
    step = int(re.search(r"stopped by SIGTERM: saved after step (\d+)", out)[1])
    assert newest_checkpoint(tmp_path) == step
    process = start(file, tmp_path)
    out, _ = process.communicate()
    assert f"resuming from step {step}" in out
    assert_ended_the_same(file, tmp_path, uninterrupted)


HANGING = """
import os, time
from jaxseg.data import shapes

read = shapes.ShapesSource.__getitem__

def hang_once_told(self, index):
    while os.path.exists({flag!r}):
        time.sleep(0.1)
    return read(self, index)

shapes.ShapesSource.__getitem__ = hang_once_told
"""


@pytest.mark.slow
def test_sigterm_saves_in_time_while_the_data_hangs(tmp_path):
    flag, file, workdir = tmp_path / "hang", tmp_path / "experiment.py", tmp_path / "run"
    file.write_text(HANGING.format(flag=str(flag)) + EXPERIMENT)
    process = start(file, workdir)
    wait_for_checkpoint(process, workdir, 3)
    flag.touch()
    time.sleep(3)  # until all batches made before are used up
    signalled = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as `timeout` does
    out, _ = process.communicate(timeout=60)
    print(f"ended {time.monotonic() - signalled:.1f} s after SIGTERM")
    assert process.returncode == 75, out
    assert time.monotonic() - signalled < 30
    step = int(re.search(r"stopped by SIGTERM: saved after step (\d+)", out)[1])
    assert newest_checkpoint(workdir) == step


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_devices(tmp_path, sampling_file, of_one_process):
    process = start(sampling_file, tmp_path, devices=2)
    wait_for_checkpoint(process, tmp_path, 1)
    process.kill()
    process.communicate()
    process = start(sampling_file, tmp_path)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "resuming from step" in out
    assert_params_are_close(tmp_path, of_one_process)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_data_workers_survive_a_signal_to_the_whole_process_group(tmp_path, file, number):
    flags = ["--data.num-workers", "1"]
    process = start(file, tmp_path, *flags, start_new_session=True)
    wait_for_checkpoint(process, tmp_path, 3)
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert f"stopped by {number.name}: saved after step" in out
    assert_group_ends(process.pid)


@pytest.mark.slow
def test_data_workers_end_when_their_training_is_killed(tmp_path, file):
    process = start(file, tmp_path, "--data.num-workers", "1", start_new_session=True)
    wait_for_checkpoint(process, tmp_path, 3)
    assert len(members(process.pid)) > 1
    process.kill()
    process.communicate(timeout=60)
    assert_group_ends(process.pid)


def members(group):
    """Return the ids of the running processes of a process group."""
    found = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True).stdout
    rows = [line.split() for line in found.splitlines()[1:]]
    return [int(pid) for pid, pgid, stat in rows if int(pgid) == group and not stat.startswith("Z")]


def assert_group_ends(group, seconds=15):
    until = time.monotonic() + seconds
    while members(group) and time.monotonic() < until:
        time.sleep(0.1)
    left = members(group)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def start_two(file, workdir, *arguments):
    """Start the two processes of a run; `file` is the experiment of both, or a pair."""
    files = file if isinstance(file, tuple) else (file, file)
    return [
        start(files[index], workdir, *flags, *arguments)
        for index, flags in enumerate(flags_of_two())
    ]


def flags_of_two():
    """Return the flags by which each of two processes finds the other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--coordinator-address", address, "--num-processes", "2", "--process-id"]
    return [[*flags, index] for index in range(2)]


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
    outs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    assert outs[0].count("evaluating step") == 3
    assert "is the best so far" in outs[0]
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
    outs = [process.communicate(timeout=300)[0] for process in processes]  # compiles first
    assert [process.returncode for process in processes] == [75, 75], outs
    saved = [int(re.search(r"saved after step (\d+)", out)[1]) for out in outs]
    assert saved == [step + 2, step + 2]  # the other process learns of it by the first step

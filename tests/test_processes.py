"""Trainings in processes of their own: killed outright, told to stop, left by the other host."""

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

from jaxseg import inference
from jaxseg.experiment import load_experiment
from jaxseg.training.checkpoint import Checkpoints
from jaxseg.training.optimizer import make_optimizer
from jaxseg.training.step import init_state
from tests.conftest import ROOT

STEPS, KILLS = 120, 50
EXPERIMENT = f"""
import dataclasses
from jaxseg.demo import MASK_RCNN as demo

small = dataclasses.replace(demo.model, backbone=dataclasses.replace(demo.model.backbone, width=8))
experiment = dataclasses.replace(
    demo,
    model=small,
    data=dataclasses.replace(demo.data, canvases=((64, 64),), resize=(64, 64)),
    train=dataclasses.replace(
        demo.train, steps={STEPS}, batch_size=2, checkpoint_every=3, log_every=10, ema_decay=0.9
    ),
)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "experiment.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def straight(file, tmp_path_factory):
    """The workdir and the last line of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("straight")
    process = start(file, workdir)
    out, _ = process.communicate()
    assert process.returncode == 0
    return workdir, last_metrics(out)


def start(file, workdir, *arguments, devices=1):
    command = [sys.executable, "-m", "jaxseg.cli", "train", str(file), "--workdir", str(workdir)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    return subprocess.Popen(
        [*command, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def newest_checkpoint(workdir):
    steps = [p.name for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    return max(map(int, steps), default=0)


def wait_for_checkpoint(process, workdir, after):
    while process.poll() is None and newest_checkpoint(workdir) <= after:
        time.sleep(0.02)


def last_metrics(out):
    """The last step's losses and learning rate, as printed."""
    return re.findall(rf"step {STEPS}/{STEPS}  (loss .*?lr \S+)", out)[-1]


def final_state(file, workdir):
    experiment = load_experiment(file)
    config = experiment.train
    optimizer = make_optimizer(config.optimizer, config.steps)
    model, shape = experiment.model.build(), (1, 64, 64, 3)
    like = jax.eval_shape(lambda: init_state(model, optimizer, shape, config.seed, ema=True))
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.latest_step() == STEPS
        return jax.tree.map(np.asarray, checkpoints.restore(like))


def assert_ended_the_same(file, workdir, out, straight):
    """Parameters, model state, optimiser, average, and the last metrics."""
    jax.tree.map(
        np.testing.assert_array_equal, final_state(file, workdir), final_state(file, straight[0])
    )
    assert last_metrics(out) == straight[1]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_never_stopped(tmp_path, file, straight):
    rng = random.Random(0)
    reached = []
    for life in range(KILLS):
        process = start(file, tmp_path)
        if life % 2:  # some moments after the next checkpoint, while another one is written
            wait_for_checkpoint(process, tmp_path, newest_checkpoint(tmp_path))
            time.sleep(rng.uniform(0, 0.2))
        else:  # any moment: imports, restoring, compiling, the first steps
            time.sleep(rng.uniform(0, 8))
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        reached.append(newest_checkpoint(tmp_path))
    print(f"{KILLS} kills, newest checkpoints {reached}")
    process = start(file, tmp_path)
    out, _ = process.communicate()
    assert process.returncode == 0
    if reached[-1] == STEPS:
        pytest.fail("the run ended before the last kill: make it longer")
    assert_ended_the_same(file, tmp_path, out, straight)


@pytest.mark.slow
def test_sigterm_saves_in_time_and_the_same_command_goes_on(tmp_path, file, straight):
    process = start(file, tmp_path)
    wait_for_checkpoint(process, tmp_path, 3)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    print(f"left {time.monotonic() - told:.1f} s after SIGTERM")
    assert time.monotonic() - told < 30
    assert process.returncode == 75
    step = int(re.search(r"told to stop by SIGTERM: saved after step (\d+)", out)[1])
    assert newest_checkpoint(tmp_path) == step
    process = start(file, tmp_path)
    out, _ = process.communicate()
    assert f"going on from step {step}" in out
    assert_ended_the_same(file, tmp_path, out, straight)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, file, straight):
    process = start(file, tmp_path, devices=2)
    wait_for_checkpoint(process, tmp_path, 9)
    process.kill()
    process.communicate()
    process = start(file, tmp_path)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "going on from step" in out
    assert inference.load(tmp_path).step == STEPS


def start_hosts(file, workdir):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--coordinator", address, "--hosts", "2", "--host"]
    return [start(file, workdir, *flags, str(host)) for host in range(2)]


@pytest.mark.slow
def test_two_hosts_train_as_one(tmp_path, file):
    hosts = start_hosts(file, tmp_path)
    outs = [host.communicate()[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outs
    assert f"step {STEPS}/{STEPS}" in outs[0]
    assert "img/s" not in outs[1]
    assert inference.load(tmp_path).step == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_host_dies_the_other_ends_with_an_error(tmp_path, file, killed):
    hosts = start_hosts(file, tmp_path)
    wait_for_checkpoint(hosts[0], tmp_path, 3)
    hosts[killed].kill()
    died = time.monotonic()
    out, _ = hosts[1 - killed].communicate(timeout=90)
    # Without host 0, JAX may be the first to say so.
    told = re.findall(r"another (?:host has|task) died.*", out)
    print(f"the other ended {time.monotonic() - died:.1f} s later: {told}")
    assert time.monotonic() - died < 60
    assert hosts[1 - killed].returncode not in (0, None)
    assert told
    assert newest_checkpoint(tmp_path) >= 3


@pytest.mark.slow
def test_sigterm_to_one_of_two_hosts_ends_both(tmp_path, file):
    hosts = start_hosts(file, tmp_path)
    wait_for_checkpoint(hosts[0], tmp_path, 3)
    hosts[1].send_signal(signal.SIGTERM)
    outs = [host.communicate(timeout=90)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [75, 75], outs
    saved = [int(re.search(r"saved after step (\d+)", out)[1]) for out in outs]
    assert saved[0] == saved[1] == newest_checkpoint(tmp_path)

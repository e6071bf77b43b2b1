"""Start trainings in processes of their own, and compare what they leave."""

import os
import re
import socket
import subprocess
import sys
import time

import jax
import numpy as np

from jaxseg import predictor
from jaxseg.experiment import load_experiment
from jaxseg.training.checkpoint import open_checkpoints
from tests.conftest import ROOT
from tests.event_files import read_events

STEPS, LOG_EVERY = 120, 10


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


def assert_params_are_close(workdir, expected):
    found, expected = (
        predictor.restore(path, ema=False).variables["params"] for path in (workdir, expected)
    )
    worst = max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), found, expected)))
    print(f"largest difference of a parameter after 4 steps: {worst:.1e}")
    assert worst < BOUND


def start(file, workdir, *arguments, **options):
    return launch("train", file, "--workdir", workdir, *arguments, **options)


def launch(*arguments, devices=1, **options):
    """Start the program with a number of devices."""
    command = [sys.executable, "-m", "jaxseg", *map(str, arguments)]
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

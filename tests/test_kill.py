"""A training process that is killed outright goes on where its last checkpoint was."""

import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxseg import inference

STEPS = 60
EXPERIMENT = f"""
import dataclasses
from jaxseg.demo import MASK_RCNN as demo

small = dataclasses.replace(demo.model, backbone=dataclasses.replace(demo.model.backbone, width=8))
experiment = dataclasses.replace(
    demo,
    model=small,
    data=dataclasses.replace(demo.data, canvases=((64, 64),), resize=(64, 64)),
    train=dataclasses.replace(demo.train, steps={STEPS}, batch_size=2, checkpoint_every=2),
)
"""


def start(file, workdir):
    command = [sys.executable, "-m", "jaxseg.cli", "train", str(file), "--workdir", str(workdir)]
    return subprocess.Popen(command)


def newest_checkpoint(workdir):
    steps = [p.name for p in workdir.glob("checkpoints/*") if p.name.isdigit()]
    return max(map(int, steps), default=0)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_never_stopped(tmp_path):
    file = tmp_path / "experiment.py"
    file.write_text(EXPERIMENT)
    assert start(file, tmp_path / "straight").wait() == 0

    workdir, rng = tmp_path / "killed", random.Random(0)
    for _ in range(5):
        before = newest_checkpoint(workdir)
        process = start(file, workdir)
        # Each life gets as far as one more checkpoint, and some moments further.
        while process.poll() is None and newest_checkpoint(workdir) == before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(file, workdir).wait() == 0

    runs = [inference.load(tmp_path / name) for name in ("straight", "killed")]
    assert runs[0].step == runs[1].step == STEPS
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        *(run.variables for run in runs),
    )

"""What is wrong with a command is found before data is read and anything compiled."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from jaxseg import data, predictor, zoo
from jaxseg.commands import train as train_command
from jaxseg.commands.cli import main
from jaxseg.commands.demo import MASK_RCNN
from jaxseg.data import Shapes
from jaxseg.data.tfds import build
from tests.conftest import ROOT


@pytest.fixture
def no_data(monkeypatch):
    """Let a test fail if data is opened."""

    def fail(*_, **__):
        pytest.fail("the data was opened first")

    monkeypatch.setattr(Shapes, "open", fail)
    monkeypatch.setattr(data.ImageFiles, "__init__", fail)
    monkeypatch.setattr(predictor, "restore", fail)


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"no checkpoint file \S*weights.safetensors: name one with --pretrained",
        ),
        ({"conv1.weight": np.ones((32, 3, 7, 7), np.float32)}, "weights.safetensors: .*missing"),
        ({"fc.weight": np.ones(3, np.float32)}, "none of its arrays has a ResNet's name"),
    ],
)
def test_pretrained_weights_are_checked_first(tmp_path, content, message):
    path, workdir = tmp_path / "weights.safetensors", tmp_path / "run"
    if content is not None:
        zoo.write_safetensors(path, content)
    experiment = dataclasses.replace(MASK_RCNN, pretrained=str(path))
    with pytest.raises((ValueError, OSError), match=message):
        train_command.train(experiment, workdir)
    assert not workdir.exists()


@pytest.mark.usefixtures("no_data")
def test_a_workdir_that_cannot_be_written_is_found_first(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file is not a folder\): choose another --workdir"):
        train_command.train(MASK_RCNN, tmp_path / "file" / "run")


@pytest.mark.usefixtures("no_data")
def test_a_batch_that_does_not_divide_over_the_devices_is_found_first(tmp_path):
    train = dataclasses.replace(MASK_RCNN.train, batch_size=3)
    with pytest.raises(ValueError, match="batch_size 3"):
        train_command.train(dataclasses.replace(MASK_RCNN, train=train), tmp_path / "run")


@pytest.mark.usefixtures("no_data")
def test_outputs_are_checked_before_images_are_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "out")
    assert main(["predict", str(tmp_path), str(tmp_path / "absent.png"), "--out", out]) == 1
    assert "file is not a folder): choose another --out" in capsys.readouterr().err
    with pytest.raises(OSError, match="choose another --out"):
        build(tmp_path / "absent", tmp_path / "file" / "set")


def test_a_missing_file_ends_a_training_with_data_workers(tmp_path):
    """Nothing is left that could keep the process from its end: neither threads nor workers."""
    command = [sys.executable, "-m", "jaxseg", "train", "mask_rcnn_nuclei_r50", "--workdir"]
    flags = ["--pretrained", "absent.pth", "--data.num-workers", "8"]
    result = subprocess.run(
        [*command, str(tmp_path / "run"), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(
        "jaxseg train: no checkpoint file absent.pth: name one with --pretrained"
    )
    assert result.stderr.count("\n") == 1
    assert not result.stdout

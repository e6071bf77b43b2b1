"""Every experiment, made small: a dry run, a training of two steps, and its checkpoints."""

import dataclasses

import jax
import pytest

from jaxseg import predictor
from jaxseg.commands import train as train_command
from jaxseg.commands.dry_run import dry_run
from jaxseg.data import CocoFolder, Shapes, write_coco
from jaxseg.experiment import load_experiment
from jaxseg.models.htc import HTCConfig
from jaxseg.models.panoptic_fpn import PanopticFPNConfig
from tests.conftest import ROOT

FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("coco")
    shapes = Shapes(size=96, train_images=8, val_images=4)
    for split in ("train", "val"):
        write_coco(shapes.open(split), path, split)
    return path


def shrink(experiment, folder):
    """Return the same recipe for a model of a few channels on 128x128 pixels, without weights."""
    backbone = dataclasses.replace(
        experiment.model.backbone, depth=18, width=8, groups=1, width_per_group=64
    )
    model = dataclasses.replace(experiment.model, num_classes=5, backbone=backbone, fpn_channels=16)
    source = CocoFolder(str(folder))
    if isinstance(model, PanopticFPNConfig):
        model = dataclasses.replace(model, num_stuff_classes=3)
        source = Shapes(size=96, train_images=8, val_images=4, stuff=True)
    if isinstance(model, HTCConfig):
        model = dataclasses.replace(model, num_semantic_classes=8)
        source = Shapes(size=96, train_images=8, val_images=4, stuff=True)
    augmentation = experiment.data.augmentation
    min_sizes = tuple(dict.fromkeys(min(side // 8, 96) for side in augmentation.min_sizes))
    data = dataclasses.replace(
        experiment.data,
        source=source,
        buckets=((128, 128),),
        min_size=96,
        max_size=128,
        max_objects=20,
        augmentation=dataclasses.replace(augmentation, min_sizes=min_sizes),
        num_workers=0,
    )
    train = dataclasses.replace(experiment.train, steps=2, batch_size=4, log_every=1, eval_every=2)
    return dataclasses.replace(experiment, model=model, data=data, train=train, pretrained=None)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_experiment_dry_runs_and_trains_two_steps(path, folder, tmp_path, capsys):
    source = CocoFolder(str(folder)) if path.stem == "own_data" else None
    experiment = shrink(load_experiment(path, source), folder)
    dry_run(experiment)
    printed = capsys.readouterr().out
    assert "parameters: " in printed
    assert "GiB of temporaries" in printed
    train_command.train(experiment, tmp_path)
    assert "step 2/2" in capsys.readouterr().out
    assert not (tmp_path / "nonfinite.jsonl").exists()
    assert predictor.restore(tmp_path).step == predictor.restore(tmp_path / "best").step == 2
    jax.clear_caches()

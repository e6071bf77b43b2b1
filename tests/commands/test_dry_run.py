"""`jaxseg train --dry-run`: the numbers that it prints."""

import dataclasses

import numpy as np

from jaxseg.commands import dry_run
from jaxseg.commands.cli import main
from tests.commands.tiny_run import EXPERIMENT, SHAPES
from tests.tiny import CROPS, toy_model


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """A model that compiles in a second; tests/test_experiments.py dry-runs the real ones."""

    num_classes: int = 5
    backbone: None = None

    def build(self):
        return toy_model()._replace(targets=CROPS)


TOY_EXPERIMENT = dataclasses.replace(EXPERIMENT, model=ToyConfig())


def test_the_dry_run_counts_images_with_too_many_objects(capsys):
    source = SHAPES.open("train")
    source.object_counts = np.asarray([1, 2, 3, 4, 5, 6, 7, 20])
    dry_run._print_data(EXPERIMENT, source)
    expected = "6.0 objects an image, at most 20; 2 images have more than max_objects (6)"
    assert expected in capsys.readouterr().out


def test_the_dry_run_is_a_flag_of_train_and_writes_nothing(tmp_path, capsys):
    path = tmp_path / "experiment.py"
    path.write_text("from tests.commands.test_dry_run import TOY_EXPERIMENT as experiment")
    fields = ["--train.batch-size", "4", "--train.grad-accum-steps", "2"]
    assert main(["train", str(path), "--dry-run", *fields]) == 0
    printed = capsys.readouterr().out
    for expected in ("parameters: ", "FLOP", "GiB of temporaries", "8 images"):
        assert expected in printed
    assert list(tmp_path.iterdir()) == [path]

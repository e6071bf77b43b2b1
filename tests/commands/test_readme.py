"""The Python code of README.md runs as it is written, except for the sizes in `REPLACED`."""

import re

import jax
import numpy as np
from PIL import Image

from jaxseg.data import write_coco
from tests.commands.tiny_run import SHAPES
from tests.conftest import ROOT
from tests.tiny import tiny_config

REPLACED = {
    "MaskRCNNConfig(num_classes=len(source.categories))": "MaskRCNNConfig(**TINY_FIELDS)",
    "512": "64",
    "range(1000)": "range(3)",
}
"""Text of the README and what runs instead, to compile in seconds and end after three steps."""
LONGEST_LOOP = 15
"""Lines of the training loop."""


def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def run(some, namespace):
    """Run blocks one after the other in a namespace, and return it."""
    # The tests' strict promotion, which Optax does not support, is not that of users.
    with jax.numpy_dtype_promotion("standard"):
        for block in some:
            exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_every_block_is_run_by_a_test():
    assert len(blocks()) == 5


def test_a_trained_detector_predicts_in_three_lines(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "nuclei").symlink_to(workdir)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save("photo.jpg")
    ran = run(blocks()[:2], {})
    assert str(ran["instances"].names) in capsys.readouterr().out
    assert ran["instances"].masks.shape == (8, 48, 64)
    assert len(ran["results"]) == len(ran["certain"])


def test_the_training_loop_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(SHAPES.open("train"), tmp_path / "my-data", "train")
    some = blocks()[2:]
    assert len([line for line in some[1].splitlines() if line.strip()]) <= LONGEST_LOOP
    for text, other in REPLACED.items():
        assert any(text in block for block in some), text
        some = [block.replace(text, other) for block in some]
    config = tiny_config()
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    ran = run(some[:1], {"TINY_FIELDS": fields | {"num_classes": 5}})
    first = ran["variables"]["params"]
    run(some[1:], ran)
    assert np.isfinite(ran["value"])
    assert ran["number"] == 2
    assert ran["detections"].boxes.shape == (2, 8, 4)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), first, ran["variables"]["params"])
    assert np.mean(jax.tree.leaves(changed)) > 0.9

"""`jaxseg bench`: everything that it measures runs, and what fails or is missing is reported."""

import importlib.util
import json
import re
import subprocess
import sys

import jax
import pytest

from jaxseg.bench import plot, report
from jaxseg.bench.context import Context
from jaxseg.bench.models import USED_SLOTS, Models
from jaxseg.bench.peer import Peer, Variant, add_variants, find_peer
from jaxseg.bench.results import Case, Comparison, GroupResult, Prepared, Row, Skipped
from jaxseg.bench.run import bench, run_group
from jaxseg.bench.settings import SMALL, make_settings
from jaxseg.bench.small import SMALL_MODELS
from jaxseg.bench.timing import Sample, Side, time_sides
from jaxseg.data import Shapes, write_coco
from tests.conftest import ROOT

QUICK_GROUPS = ("loader", "evaluation")


def constant_side(seconds=0.0):
    return Side(lambda: seconds, lambda result: result)


def context():
    return Context(SMALL, Models(SMALL), None)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The printed lines and the JSON of a run of the groups that compile nothing large."""
    folder = tmp_path_factory.mktemp("bench")
    write_coco(Shapes(size=64, train_images=4).open("train"), folder / "data", "train")
    out, lines = folder / "bench.json", []
    settings = make_settings(QUICK_GROUPS, small=True, data=folder / "data", out=out)
    assert bench(settings, lines.append) == 0
    return lines, json.loads(out.read_text())


@pytest.mark.slow
def test_every_group_has_rows(small_run):
    lines, content = small_run
    assert [group["name"] for group in content["groups"]] == [*QUICK_GROUPS]
    for group in content["groups"]:
        assert group["rows"], group
        assert not group["failed"]
        assert f"## {group['name']}" in lines
        for row in group["rows"]:
            assert any(line.startswith(f"| {row['case']} | {row['side']} |") for line in lines)
            assert len(row["wall_s"]) == len(row["cpu_s"])
            assert row["wall_s"]


@pytest.mark.slow
def test_the_json_says_where_and_how_it_was_measured(small_run):
    _, content = small_run
    machine = content["machine"]
    assert machine["devices"] >= 1
    for name in ("date", "device", "processor", "cores", "jax", "jaxlib", "jaxseg", "dtype"):
        assert machine[name]
    assert content["settings"]["size"] == [64, 96]
    assert content["speeds"]["copy, GB/s"] > 0


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_models_learn_from_the_batch_that_is_made_for_them(name):
    model = Models(SMALL)[name]
    batch, key = model.batch, jax.random.key(0)
    losses = jax.eval_shape(model.model.loss, model.variables, batch, key)
    assert USED_SLOTS in losses.metrics
    assert model.mask_slots > 0


@pytest.mark.slow
def test_operations_are_measured():
    lines = []
    assert bench(make_settings(("ops",), small=True), lines.append) == 0
    assert not any("FAILED" in line for line in lines)


@pytest.mark.slow
def test_a_model_is_measured(tmp_path):
    out, lines = tmp_path / "bench.json", []
    groups = ("predict", "train", "compile")
    assert bench(make_settings(groups, small=True, out=out), lines.append) == 0
    predict, train, compilation = json.loads(out.read_text())["groups"]
    assert predict["rows"][0]["figures"]["detections an image"] == "8"
    step = train["rows"][0]["figures"]
    assert {"images/s", "compile, s", "temporaries, GiB", "TFLOP", "TFLOP/s"} <= step.keys()
    assert step["mask slots used"].endswith(" of 8")
    assert compilation["rows"]


@pytest.mark.slow
def test_other_models_and_scaling_run(tmp_path):
    models = ("small_mask_rcnn", "small_panoptic_fpn", "small_solov2")
    settings = make_settings(("predict", "train", "scaling"), small=True, models=models)
    lines = []
    assert bench(settings, lines.append) == 0
    assert not any("FAILED" in line for line in lines)
    assert any(line.startswith("| small_solov2, step, 2 devices, 4 images |") for line in lines)


def test_a_case_that_fails_does_not_stop_the_others():
    def fail():
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore")

    def skip():
        raise Skipped("no data")

    def missing():
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

    closed = []
    good = Prepared(
        {"jaxseg": constant_side()},
        images=2,
        compare=lambda: [Comparison("x", float("nan"), 1.0)],
        close=lambda: closed.append(True),
    )
    cases = [
        Case("fails", fail),
        Case("skips", skip),
        Case("lacks", missing),
        Case("runs", lambda: good),
    ]
    result = run_group("group", cases, context())
    assert result.failed == {"fails": "RuntimeError: RESOURCE_EXHAUSTED: out of memory"}
    assert result.skipped == {"skips": "no data", "lacks": "cv2 is not installed"}
    assert [row.case for row in result.rows] == ["runs"]
    assert closed == [True]
    text = "\n".join(report.group_lines(result))
    assert "- FAILED fails: RuntimeError" in text
    assert "- skipped skips: no data" in text
    assert "DIFFERENT" in text


def test_a_side_of_torchvision_that_fails_is_left_out():
    def make(variant):
        raise RuntimeError("CUDA out of memory")

    class WithoutTorch(Peer):
        def __init__(self):
            self.variants = [Variant("torchvision", amp=False)]

    prepared = Prepared({"jaxseg": constant_side()})
    assert add_variants(WithoutTorch(), prepared, make) == []
    result = run_group("group", [Case("case", lambda: prepared)], context())
    assert [row.side for row in result.rows] == ["jaxseg"]
    assert result.failed == {"case, torchvision": "RuntimeError: CUDA out of memory"}


def test_a_failed_case_is_in_the_exit_status(monkeypatch):
    monkeypatch.setattr("jaxseg.bench.loader.cases", lambda _: [Case("x", lambda: 1 / 0)])
    assert bench(make_settings(("loader",), small=True), lambda line: None) == 1


def test_sides_are_timed_in_turn_and_within_the_time():
    order = []
    sides = {name: Side(lambda n=name: order.append(n), lambda x: x) for name in "ab"}
    samples = time_sides(sides, steps=3, seconds=60.0)
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    changes = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert "".join(changes) == "ab" * 4  # the first calls, and three rounds
    samples = time_sides(sides, steps=3, seconds=0.0)
    assert {name: len(values) for name, values in samples.items()} == {"a": 1, "b": 1}


def test_the_ratio_is_to_the_fastest_other_side():
    rows = [
        Row("case", side, [Sample(wall, wall)], {})
        for side, wall in (("jaxseg", 3.0), ("torchvision", 4.0), ("torchvision, AMP", 2.0))
    ]
    assert report.ratio(rows[0], rows) == 1.5
    assert report.ratio(rows[1], rows) is None
    assert report.ratio(rows[0], rows[:1]) is None


@pytest.mark.parametrize(
    ("groups", "given", "message"),
    [
        (("opz",), {}, "unknown group opz: choose from ops, predict"),
        ((), {"size": (800, 1080)}, "multiples of 32"),
        ((), {"batch": 0}, "--batch 0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(groups, given, message):
    with pytest.raises(ValueError, match=message):
        make_settings(groups, **given)


def test_an_unknown_model_is_refused_before_anything_is_measured():
    with pytest.raises(ValueError, match="unknown model resnet: choose from maskrcnn_resnet50_fpn"):
        bench(make_settings((), small=True, models=("resnet",)))


TIMED = GroupResult("ops", [Row("case", "jaxseg", [Sample(1.0, 1.0), Sample(2.0, 1.0)], {})])


def test_times_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra notebooks (matplotlib)")
    assert plot.plot(tmp_path / "x.png", [TIMED], "title").endswith("x.png: drawn")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_without_matplotlib_a_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = plot.plot(tmp_path / "x.png", [TIMED], "title")
    assert "matplotlib is not installed" in line


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_the_reason_is_known():
    assert find_peer() == (None, "No module named 'torch'")


CODE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from jaxseg.bench.__main__ import main
sys.exit(main(["--small", "ops", "loader", "evaluation", "--steps", "1"]))
"""
BLOCKED = {
    "PIL", "cv2", "grain", "matplotlib", "orbax", "pycocotools", "safetensors", "tensorboardX",
    "tensorflow_datasets", "torch", "tyro",
}  # fmt: skip
"""What a machine with JAX, Flax, Optax and NumPy alone may lack."""


def test_it_runs_without_the_packages_of_the_host():
    code = CODE.replace("{BLOCKED}", repr(BLOCKED))
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    skipped = r"- skipped 10 masks to RLE on the host, 64x96: \w+ is not installed"
    assert re.search(skipped, result.stdout)
    assert "| RoIAlign, 20 boxes, 7x7x8: forward | jaxseg |" in result.stdout

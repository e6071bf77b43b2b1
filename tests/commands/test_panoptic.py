"""Panoptic models in `jaxseg eval`, `jaxseg predict`, and the evaluations during a training."""

import dataclasses
import json
import pathlib
from typing import Any

import cv2
import numpy as np
import pytest

from jaxseg import data, evaluation, predictor, validation, weights_file
from jaxseg.commands import eval as eval_command
from jaxseg.commands import predict as predict_command
from jaxseg.commands import train as train_command
from jaxseg.commands.data_check import print_proposal
from jaxseg.data import CocoFolder, Shapes, write_coco
from jaxseg.data.coco.categories import coco_categories
from jaxseg.data.issues import errors
from jaxseg.data.panoptic import PanopticMap, Segment
from jaxseg.detector import Detector, widen_limits
from jaxseg.evaluation import Prediction
from jaxseg.experiment import replace_source
from jaxseg.instances import Instances
from jaxseg.models.htc import HTCConfig
from jaxseg.models.panoptic_fpn import PanopticFPNConfig
from jaxseg.training.preemption import PreemptionNotice
from jaxseg.training.step import TrainState
from jaxseg.visualize import save_picture
from tests.commands.fake_panoptic import EXPERIMENT, SCENES, trained
from tests.data.coco import small_panoptic
from tests.data.coco.test_semantic_maps import write_maps
from tests.tiny import tiny_config

SOURCE = SCENES.open("val")
LABELS = {category.id: label for label, category in enumerate(SOURCE.categories)}
"""The label of each category id."""


@pytest.fixture
def restored(monkeypatch):
    """Let `jaxseg eval` restore the model, whatever the workdir."""
    monkeypatch.setattr(eval_command.predictor, "restore", lambda *_, **__: trained())


def read_maps(folder):
    """Return the written maps by image id."""
    return {
        result["image_id"]: evaluation.from_panoptic_result(result, LABELS)
        for result in evaluation.read_panoptic_results(folder / "panoptic.json")
    }


def test_eval_writes_panoptic_results_and_their_quality(restored, tmp_path, capsys):
    metrics = eval_command.evaluate(tmp_path, tmp_path / "out")
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = read_maps(tmp_path / "out")
    pairs = [(SOURCE.panoptic_map(i), found[SOURCE.image_ids[i]]) for i in range(len(SOURCE))]
    expected = evaluation.panoptic_quality(pairs, SOURCE.categories, SOURCE.num_things)
    assert {key: metrics[key] for key in expected} == expected
    assert 0 < metrics["panoptic/PQ_stuff"] < 1
    assert "segm/AP" in metrics
    things = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {result["category_id"] for result in things} == {1, 2, 5}
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == len(SOURCE)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for title, suffix in (("all", ""), ("stuff", "_stuff"), ("dotted", "/dotted")):
        values = [f"{metrics[f'panoptic/{name}{suffix}']:.3f}" for name in ("PQ", "SQ", "RQ")]
        assert [title, *values] in rows


def test_the_truth_as_results_has_a_quality_of_1():
    ids = [category.id for category in SOURCE.categories]
    results = [
        evaluation.panoptic_result(image_id, SOURCE.panoptic_map(i), ids)
        for i, image_id in enumerate(SOURCE.image_ids)
    ]
    # Of other processes, in another order.
    metrics = validation._panoptic_quality(SOURCE, results[::-1])
    assert metrics["panoptic/PQ"] == metrics["panoptic/SQ_stuff"] == 1


def test_the_results_of_two_processes_are_those_of_one(monkeypatch):
    evaluator = validation.SplitEvaluator(EXPERIMENT, SOURCE.categories, "val")
    variables = trained().variables
    expected = evaluator.predict(variables)
    shares = []

    def gather(share):
        shares.append(json.loads(json.dumps(share)))
        return [share]

    monkeypatch.setattr(validation, "allgather_json", gather)
    for module in (validation, predictor):
        monkeypatch.setattr(module, "process_count", lambda: 2)
    for index in (0, 1):
        for module in (validation, predictor):
            monkeypatch.setattr(module, "process_index", lambda index=index: index)
        evaluator.predict(variables)
    monkeypatch.setattr(validation, "allgather_json", lambda _: shares[:2])
    found = evaluator.predict(variables)
    for name in ("instances", "panoptic"):
        both = sorted(getattr(found, name), key=lambda result: result["image_id"])
        assert both == getattr(expected, name)
    assert [len(share) for _, share in shares[:2]] == [2, 1]


def test_a_panoptic_model_on_instance_data_is_evaluated_by_its_instances(tmp_path, monkeypatch):
    monkeypatch.setattr(eval_command.predictor, "restore", lambda *_, **__: trained())
    write_coco(Shapes(size=64, val_images=2).open("val"), tmp_path, "val")
    metrics = eval_command.evaluate(tmp_path, tmp_path / "out", data_folder=tmp_path)
    assert "segm/AP" in metrics
    assert not any(key.startswith("panoptic") for key in metrics)
    assert not (tmp_path / "out" / "panoptic.json").exists()


def test_a_training_keeps_the_best_by_panoptic_quality():
    validator = validation.Validator(EXPERIMENT, SOURCE.categories)
    state = TrainState(None, {"w": np.ones((), np.float32)}, {}, None, None)
    result = validator(state, 2)
    assert result.score_name == "panoptic/PQ"
    assert result.score == result.metrics["panoptic/PQ"] > 0
    assert len(result.pictures) == len(SOURCE)


def test_an_instance_model_has_the_things_of_panoptic_data():
    model = dataclasses.replace(tiny_config(), num_classes=5)
    experiment = dataclasses.replace(EXPERIMENT, model=model)
    train_command.check_num_classes(experiment, SOURCE)
    _, validator, metadata = train_command._open_data(
        dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, eval_every=1)),
        ["tests.tiny"],
        PreemptionNotice(),
    )
    assert [c["name"] for c in metadata["categories"]] == [
        category.name for category in SOURCE.categories[:5]
    ]
    assert validator.source.num_things == 5


@pytest.mark.parametrize(
    ("change", "source", "message"),
    [
        (
            {"num_classes": 8},
            SCENES,
            "5 categories of things and 3 of stuff .*--model.num-classes 5$",
        ),
        ({"num_stuff_classes": 2}, SCENES, "3 of stuff .*--model.num-stuff-classes 3$"),
        ({}, Shapes(), "the data has no stuff"),
    ],
)
def test_a_panoptic_model_needs_the_datas_numbers_of_classes(change, source, message):
    experiment = dataclasses.replace(
        EXPERIMENT,
        model=dataclasses.replace(EXPERIMENT.model, **change),
        data=dataclasses.replace(EXPERIMENT.data, source=source),
    )
    with pytest.raises(ValueError, match=message):
        train_command.check_num_classes(experiment, source.open("val"))


def test_data_of_stuff_alone_are_refused(tmp_path, capsys):
    content = small_panoptic.content()
    for category in content["categories"]:
        category["isthing"] = 0
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = 0
    folder = dataclasses.replace(small_panoptic.write(tmp_path, content), panoptic=True)
    message = "has 0 categories of things and 4 of stuff, and no objects to learn: .*isthing 1"
    with pytest.raises(ValueError, match=message):
        train_command.check_num_classes(EXPERIMENT, folder.open("train"))
    print_proposal(folder, ())
    assert "no model fits" in capsys.readouterr().out


@dataclasses.dataclass(frozen=True)
class FakeSemanticConfig:
    """A model with a semantic branch beside instances, such as HTC."""

    num_classes: int = 2
    num_semantic_classes: int = 12
    backbone: Any = EXPERIMENT.model.backbone

    def build(self):
        return EXPERIMENT.model.build()


def test_a_semantic_branch_needs_the_maps_number_of_classes(tmp_path):
    write_maps(tmp_path)
    folder = CocoFolder(str(tmp_path), semantic_maps="stuffthingmaps", num_semantic_classes=12)
    model = FakeSemanticConfig()
    experiment = dataclasses.replace(EXPERIMENT, model=model)
    train_command.check_num_classes(experiment, folder.open("train"))
    other = dataclasses.replace(
        experiment, model=dataclasses.replace(model, num_semantic_classes=9)
    )
    message = "maps of the data have 12 classes .*--model.num-semantic-classes 12$"
    with pytest.raises(ValueError, match=message):
        train_command.check_num_classes(other, folder.open("train"))
    plain = data.without_semantic_maps(folder).open("train")
    with pytest.raises(ValueError, match="semantic maps, which the data does not have"):
        train_command.check_num_classes(experiment, plain)
    scenes = dataclasses.replace(model, num_classes=5, num_semantic_classes=8)
    train_command.check_num_classes(dataclasses.replace(experiment, model=scenes), SOURCE)
    branchless = HTCConfig(num_classes=5, semantic=None)
    train_command.check_num_classes(dataclasses.replace(experiment, model=branchless), SOURCE)


def test_another_folder_is_read_by_the_annotations_that_the_model_needs(tmp_path):
    folder = small_panoptic.write(tmp_path, small_panoptic.content())
    assert replace_source(EXPERIMENT, folder).data.source.panoptic
    assert replace_source(EXPERIMENT, CocoFolder("other")).data.source == CocoFolder("other")
    instances = dataclasses.replace(EXPERIMENT, model=tiny_config())
    assert replace_source(instances, CocoFolder("other")).data.source == CocoFolder("other")
    own = CocoFolder("own", semantic_maps="maps", num_semantic_classes=12)
    semantic = replace_source(dataclasses.replace(instances), own)
    source = replace_source(semantic, CocoFolder("other")).data.source
    assert source == dataclasses.replace(own, path="other")
    named = CocoFolder("other", semantic_maps="stuff", num_semantic_classes=3)
    assert replace_source(semantic, named).data.source == named
    assert data.without_semantic_maps(named) == CocoFolder("other")
    # Panoptic annotations alone have semantic maps of their own.
    assert replace_source(semantic, folder).data.source == folder
    assert replace_source(EXPERIMENT, Shapes()).data.source == Shapes()


@pytest.fixture
def detector():
    return Detector(trained())


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    save_picture(path, SOURCE[1].image)
    return path


def test_instances_have_the_panoptic_map_of_the_image(detector, photo):
    found = detector.predict(photo)
    assert found.names == ["ring", "disc", "square"]
    assert found.panoptic.ids.shape == found.size == (64, 64)
    names = [found.categories[segment.label].name for segment in found.panoptic.segments]
    assert names == ["ring", "disc", "striped", "dotted"]
    # The map has a threshold of its own, and is that of the image whatever instances are chosen.
    for other in (detector.predict(photo, threshold=0.85), found[:1]):
        assert len(other) == 1
        np.testing.assert_array_equal(other.panoptic.ids, found.panoptic.ids)
    assert found.draw_panoptic().shape == found.draw().shape
    assert (found.draw_panoptic() != found.draw()).any()


def test_other_instances_have_no_panoptic_map():
    prediction = Prediction(1, np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, int), None)
    found = Instances(prediction, SOURCE.categories, (64, 64), SOURCE[0].image)
    assert found.panoptic is None
    with pytest.raises(ValueError, match="the model is not panoptic"):
        found.draw_panoptic()


def test_a_lower_threshold_leaves_the_merging_as_it_is():
    config = PanopticFPNConfig()
    widened = widen_limits(config, 0.01, None)
    assert widened.box.score_threshold == 0.01
    assert widened.merging == config.merging


def test_predict_draws_and_writes_panoptic_maps(detector, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_command, "load", lambda *_, **__: detector)
    out = tmp_path / "out"
    predict_command.predict(tmp_path, [photo], out, 0.5)
    found = detector.predict(photo)
    (written,) = read_maps(out).values()
    np.testing.assert_array_equal(written.ids, found.panoptic.ids)
    assert [s.label for s in written.segments] == [s.label for s in found.panoptic.segments]
    content = json.loads((out / "panoptic.json").read_text())
    assert content["annotations"][0]["file_name"] == "001_photo.png"
    assert content["images"][0]["file_name"] == "001_photo.png"
    assert [category["isthing"] for category in content["categories"]] == [1] * 5 + [0] * 3
    overlay = cv2.imread(str(out / "001_photo.png"))[..., ::-1]
    np.testing.assert_array_equal(overlay, found.draw_panoptic())
    dataset = json.loads((out / "dataset.json").read_text())
    assert len(dataset["categories"]) == 5  # objects are of things

    (instances,) = CocoFolder(str(out)).check()
    assert instances.name == "dataset"
    (maps,) = CocoFolder(str(out), panoptic=True).check()
    assert not errors(maps.issues, ())
    np.testing.assert_array_equal(maps.source.panoptic_map(0).ids, found.panoptic.ids)
    np.testing.assert_array_equal(maps.source[0].image, found.image)


def test_things_of_the_model_must_be_things_of_the_data():
    categories = list(SOURCE.categories)
    categories[0], categories[5] = categories[5], categories[0]
    with pytest.raises(ValueError, match="the reverse: plain, disc"):
        validation.SplitEvaluator(EXPERIMENT, categories, "val")


def test_stuff_of_the_model_cannot_be_evaluated_as_instances():
    settings = dataclasses.replace(EXPERIMENT.data, source=Shapes(size=64, val_images=2))
    instances = dataclasses.replace(EXPERIMENT, data=settings)
    categories = list(SOURCE.categories)
    validation.SplitEvaluator(instances, categories, "val")
    categories[0], categories[5] = categories[5], categories[0]
    with pytest.raises(ValueError, match="the reverse: disc"):
        validation.SplitEvaluator(instances, categories, "val")


def test_published_panoptic_models_have_cocos_things_and_stuff():
    experiment, categories = weights_file.describe(
        pathlib.Path("model.pkl"), "detectron2_panoptic_fpn_r50"
    )
    assert [categories[label].name for label in (0, 79, 80, 132)] == [
        "person",
        "toothbrush",
        "banner",
        "rug-merged",
    ]
    assert experiment.data.source.panoptic
    assert len(coco_categories(EXPERIMENT.model)) == 8


def test_segments_of_categories_that_the_data_lacks_become_void():
    ids = np.asarray([[1, 2, 3]], np.int32)
    panoptic = PanopticMap(ids, [Segment(1, 0), Segment(2, 1), Segment(3, 2)])
    prediction = Prediction(1, np.zeros((1, 4)), np.ones(1), np.asarray([0]), None, panoptic)
    found = validation.relabel(prediction, np.asarray([1, -1, 0])).panoptic
    assert found.ids.tolist() == [[1, 0, 3]]
    assert found.segments == [Segment(1, 1), Segment(3, 0)]

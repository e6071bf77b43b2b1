"""A published checkpoint from its file to predictions and AP, by the commands."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg import weights_file, zoo
from jaxseg.commands import cli
from jaxseg.data import Shapes
from jaxseg.data.coco.write import write_coco
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.zoo import mask_rcnn as names
from jaxseg.zoo import solov2 as solo_names
from jaxseg.zoo.engine import export_state
from jaxseg.zoo.mask_rcnn import DETECTRON2_R50_FPN, MMDET_R50_FPN, TORCHVISION_R50_FPN_V2
from jaxseg.zoo.solov2 import MMDET_SOLOV2_R50
from tests.tiny import tiny_solov2_config
from tests.zoo.small import FLAGS, small


def tiny_solov2(norm):
    return dataclasses.replace(
        tiny_solov2_config(), backbone=ResNetConfig(depth=18, width=8, norm=norm)
    )


def initial(config):
    return jax.jit(config.build().init, static_argnums=1)(jax.random.key(0), (1, 64, 64, 3))


def random_arrays(config):
    """Return positive numbers in place of variables, whose initialisation takes seconds."""
    init, rng = config.build().init, np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))
    return jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file with torchvision's names for a small `maskrcnn_resnet50_fpn_v2`, and its arrays."""
    config = small(TORCHVISION_R50_FPN_V2)
    state = zoo.to_torchvision(initial(config), config)
    path = tmp_path_factory.mktemp("weights") / "published.safetensors"
    zoo.write_safetensors(path, state)
    return path, state


def import_checkpoint(path, out):
    arguments = ["weights", "import", str(path), "--model", "maskrcnn_resnet50_fpn_v2"]
    return cli.main([*arguments, "--out", str(out), *FLAGS])


def test_an_imported_checkpoint_predicts_and_is_exported_unchanged(checkpoint, tmp_path):
    path, state = checkpoint
    assert import_checkpoint(path, tmp_path / "imported") == 0

    photo = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    out = tmp_path / "predicted"
    assert cli.main(["predict", str(tmp_path / "imported"), str(photo), "--out", str(out)]) == 0
    assert json.loads((out / "predictions.json").read_text())
    assert list(out.glob("*.png"))

    exported = tmp_path / "exported.safetensors"
    arguments = ["weights", "export", str(tmp_path / "imported"), "--out", str(exported)]
    assert cli.main(arguments) == 0
    again = zoo.read_state_dict(exported)
    assert again.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)

    assert import_checkpoint(path, tmp_path / "imported") == 1  # it would be overwritten


def test_bad_checkpoints_are_refused_before_anything_is_written(checkpoint, tmp_path, capsys):
    path, state = checkpoint
    broken = {name: array for name, array in state.items() if name != "rpn.head.cls_logits.bias"}
    zoo.write_safetensors(tmp_path / "broken.safetensors", broken)
    assert import_checkpoint(tmp_path / "broken.safetensors", tmp_path / "out") == 1
    assert "missing: rpn.head.cls_logits.bias" in capsys.readouterr().err
    arguments = ["weights", "import", str(path), "--model", "yolo", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "maskrcnn_resnet50_fpn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "table", "load"),
    [
        (small(DETECTRON2_R50_FPN), names.detectron2_table, zoo.load_detectron2),
        (small(MMDET_R50_FPN), names.mmdet_table, zoo.load_mmdet),
        (tiny_solov2("norm_eval"), solo_names.mmdet_table, zoo.load_mmdet),
        (tiny_solov2("norm_eval"), solo_names.authors_table, zoo.load_solo),
        (tiny_solov2("frozen"), solo_names.adelaidet_table, zoo.load_adelaidet),
    ],
)
def test_names_of_other_codebases_load(config, table, load, tmp_path):
    variables = random_arrays(config)
    state = export_state(merge_frozen(variables), list(table(config)))
    zoo.write_safetensors(tmp_path / "published.safetensors", state)
    extra = {"roi_heads.box_head.fc1.num_batches_tracked": np.zeros(())}
    for loaded in (
        load(state | extra, config),
        zoo.load_checkpoint_file(tmp_path / "published.safetensors", config),
    ):
        jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))


def test_models_without_torchvisions_heads_cannot_be_exported():
    config = small(DETECTRON2_R50_FPN)
    with pytest.raises(ValueError, match="predict_background=True"):
        zoo.to_torchvision(random_arrays(config), config)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    zoo.write_safetensors(tmp_path / "other.safetensors", {"encoder.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="not those of a MaskRCNNConfig in torchvision or mmdet"):
        zoo.load_checkpoint_file(tmp_path / "other.safetensors", DETECTRON2_R50_FPN)


def test_old_names_of_torchvision():
    old = {
        "backbone.fpn.inner_blocks.3.weight": "backbone.fpn.inner_blocks.3.0.weight",
        "rpn.head.conv.bias": "rpn.head.conv.0.0.bias",
        "roi_heads.mask_head.mask_fcn4.weight": "roi_heads.mask_head.3.0.weight",
        "backbone.body.conv1.weight": "backbone.body.conv1.weight",
    }
    assert [names.current_torchvision_name(name) for name in old] == list(old.values())


def test_evaluation_matches_classes_by_name(checkpoint, tmp_path, capsys):
    """The imported model's classes are not the data's: the error names both."""
    path, _ = checkpoint
    import_checkpoint(path, tmp_path / "imported")
    source = Shapes(size=64, train_images=2, val_images=2).open("val")
    write_coco(source, tmp_path / "shapes", "val")
    arguments = ["eval", str(tmp_path / "imported"), "--data", str(tmp_path / "shapes")]
    assert cli.main(arguments) == 1
    assert "(the model has class 1, class 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_published_solov2_is_imported_and_predicts(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(tiny_solov2("norm_eval"), num_classes=80)
    name = "mmdet_solov2_light_r18_fpn"
    record = dataclasses.replace(zoo.MODELS[name], config=config)
    monkeypatch.setitem(zoo.MODELS, name, record)
    state = export_state(initial(config), list(solo_names.mmdet_table(config)))
    zoo.write_safetensors(tmp_path / "published.safetensors", state)
    arguments = ["weights", "import", str(tmp_path / "published.safetensors")]
    arguments += ["--model", "mmdet_solov2_light_r18_fpn", "--out", str(tmp_path / "imported")]
    arguments += ["--data.buckets", "64", "64", "--data.min-size", "64", "--data.max-size", "64"]
    assert cli.main(arguments) == 0
    Image.new("RGB", (60, 48), (200, 30, 30)).save(tmp_path / "photo.png")
    predict = ["predict", str(tmp_path / "imported"), str(tmp_path / "photo.png")]
    assert cli.main([*predict, "--out", str(tmp_path / "out"), "--threshold", "0"]) == 0
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert all(result["segmentation"]["size"] == [48, 60] for result in results)

    exported = tmp_path / "exported.safetensors"
    arguments = ["weights", "export", str(tmp_path / "imported"), "--out", str(exported)]
    assert cli.main([*arguments, "--names", "torchvision"]) == 1
    assert "torchvision has no names for a SOLOv2Config" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert all(name.count("/") > 1 for name in zoo.read_state_dict(exported))
    workdir = jaxseg.load(tmp_path / "imported")
    assert_same_model(jaxseg.load(exported), workdir)
    again = tmp_path / "again"
    assert cli.main(["weights", "import", str(exported), "--out", str(again)]) == 0
    assert_same_model(jaxseg.load(again), workdir)
    assert (
        workdir.predict(tmp_path / "photo.png").to_coco()
        == jaxseg.load(exported).predict(tmp_path / "photo.png").to_coco()
    )


def assert_same_model(found, expected):
    assert found.trained.experiment == expected.trained.experiment
    assert found.trained.categories == list(expected.trained.categories)
    jax.tree.map(np.testing.assert_array_equal, found.trained.variables, expected.trained.variables)


@pytest.mark.parametrize("norm", ["norm_eval", "sync_batch"])
def test_own_names_cover_every_array(tmp_path, norm):
    """Frozen layers and running statistics included, in the model's own collections."""
    backbone = ResNetConfig(depth=18, width=8, norm=norm, freeze_at=2)
    config = dataclasses.replace(tiny_solov2_config(), backbone=backbone)
    variables = random_arrays(config)
    assert "frozen" in variables
    zoo.write_safetensors(tmp_path / "own.safetensors", zoo.to_own_names(variables))
    loaded = zoo.load_checkpoint_file(tmp_path / "own.safetensors", config)
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))


def test_an_exported_file_has_its_formats_ending_and_the_usual_permissions(checkpoint, tmp_path):
    workdir, exported = tmp_path / "imported", tmp_path / "model.safetensors"
    assert import_checkpoint(checkpoint[0], workdir) == 0
    assert cli.main(["weights", "export", str(workdir), "--out", str(tmp_path / "m.pth")]) == 1
    assert cli.main(["weights", "export", str(workdir), "--out", str(exported)]) == 0
    (tmp_path / "other").touch()
    assert exported.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert not (tmp_path / "m.pth").exists()


def test_export_with_own_names_and_those_of_torchvision(checkpoint, tmp_path):
    path, _ = checkpoint
    assert import_checkpoint(path, tmp_path / "imported") == 0
    expected = jaxseg.load(tmp_path / "imported")
    for kind, first in (("torchvision", "backbone.body"), ("jaxseg", "params/")):
        exported = tmp_path / f"{kind}.safetensors"
        arguments = ["weights", "export", str(tmp_path / "imported"), "--out", str(exported)]
        assert cli.main([*arguments, "--names", kind]) == 0
        assert any(name.startswith(first) for name in zoo.read_state_dict(exported))
        assert_same_model(jaxseg.load(exported), expected)  # either file says which model it is


def test_a_file_that_does_not_say_its_model_needs_its_name(checkpoint, tmp_path, capsys):
    path, _ = checkpoint
    with pytest.raises(ValueError, match="model=NAME"):
        jaxseg.load(path)
    assert cli.main(["weights", "import", str(path), "--out", str(tmp_path / "x")]) == 1
    assert "--model NAME" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no published model 'resnet'"):
        jaxseg.load(path, model="resnet")
    with pytest.raises(ValueError, match="does not fit the model"):
        jaxseg.load(path, model="maskrcnn_resnet50_fpn_v2")
    with pytest.raises(ValueError, match="leave out step=3"):
        jaxseg.load(path, step=3)
    with pytest.raises(ValueError, match="a workdir knows its model"):
        jaxseg.load(tmp_path, model="maskrcnn_resnet50_fpn")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"experiment": 3}', "description of the model is invalid"),
        ('{"experiment": {"class": "os:system"}}', "not one of jaxseg's own"),
        ('{"experiment": {"class": "jaxseg.data.shapes:Shapes"}, "categories": []}', "invalid"),
    ],
)
def test_a_hostile_description_is_an_error(tmp_path, text, message):
    path = tmp_path / "hostile.safetensors"
    zoo.write_safetensors(path, {"params/w": np.zeros(3)}, {weights_file.KEY: text})
    with pytest.raises(ValueError, match=message):
        jaxseg.load(path)


# As the codebases' checkpoints list them, one layer of each kind.
SOURCE_NAMES = {
    solo_names.adelaidet_table: """
        backbone.bottom_up.stem.conv1.norm.running_var backbone.bottom_up.res2.0.conv1.weight
        backbone.fpn_lateral2.weight backbone.fpn_output5.bias
        ins_head.cate_tower.0.weight ins_head.cate_tower.1.bias ins_head.cate_tower.9.weight
        ins_head.cate_tower.10.weight ins_head.kernel_tower.0.weight ins_head.cate_pred.bias
        ins_head.kernel_pred.weight mask_head.convs_all_levels.0.conv0.0.weight
        mask_head.convs_all_levels.3.conv2.1.weight mask_head.conv_pred.0.weight
        mask_head.conv_pred.1.bias
    """,
    solo_names.authors_table: """
        backbone.conv1.weight backbone.layer1.0.bn1.running_mean neck.lateral_convs.0.conv.weight
        neck.fpn_convs.3.conv.bias bbox_head.cate_convs.3.conv.weight
        bbox_head.cate_convs.0.gn.weight bbox_head.kernel_convs.0.conv.weight
        bbox_head.solo_cate.bias bbox_head.solo_kernel.weight
        mask_feat_head.convs_all_levels.0.conv0.conv.weight
        mask_feat_head.convs_all_levels.3.conv2.gn.bias mask_feat_head.conv_pred.0.conv.weight
        mask_feat_head.conv_pred.0.gn.weight
    """,
}


@pytest.mark.parametrize("table", SOURCE_NAMES)
def test_tables_have_the_codebases_names(table):
    names = {entry.name for entry in table(MMDET_SOLOV2_R50)}
    assert set(SOURCE_NAMES[table].split()) <= names


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.body.layer1.0.bn1.running_var", -1e-3, "negative variances"),
        ("backbone.body.layer1.0.bn1.running_mean", np.nan, "NaN or infinite values"),
        ("rpn.head.cls_logits.bias", np.inf, "NaN or infinite values"),
    ],
)
def test_values_that_no_model_has_are_refused_by_name(
    checkpoint, tmp_path, capsys, name, value, message
):
    broken = {key: array.copy() for key, array in checkpoint[1].items()}
    broken[name].flat[-1] = value
    zoo.write_safetensors(tmp_path / "broken.safetensors", broken)
    assert import_checkpoint(tmp_path / "broken.safetensors", tmp_path / "out") == 1
    assert f"with {message}: {name}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

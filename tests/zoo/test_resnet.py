"""ImageNet ResNets: read, compared with a plain forward, and given to a detector to start from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from jaxseg import zoo
from jaxseg.commands import cli
from jaxseg.data import Shapes, write_coco
from jaxseg.nn.freezing import merge_frozen
from jaxseg.nn.pixels import PixelConfig, normalize
from jaxseg.nn.resnet import ResNet, ResNetConfig
from jaxseg.predictor import restore
from jaxseg.zoo import RESNETS
from tests.conftest import ROOT
from tests.oracles.resnet import resnet
from tests.tiny import tiny_config

CAFFE = ResNetConfig(depth=50, stride_in_1x1=True, norm_epsilon=1e-3)
CAFFE_PIXELS = PixelConfig((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), "bgr")


@pytest.fixture(scope="module")
def real(shared):
    """The file of a real ImageNet ResNet-50, and its variables."""
    path = shared / "weights" / "resnet50_imagenet_caffe_f16.npz"
    return path, zoo.load_resnet_file(path, CAFFE)


@jax.jit
def features(variables, images):
    size = jnp.tile(jnp.asarray(images.shape[1:3])[None], (len(images), 1))
    pixels = normalize(CAFFE_PIXELS, images, size)
    return ResNet(CAFFE).apply(variables, pixels, size, train=False)


def test_features_of_the_real_resnet_are_those_of_a_plain_forward(real):
    path, variables = real
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    means = np.asarray([103.939, 116.779, 123.68])
    expected = resnet(
        zoo.read_state_dict(path),
        (image[..., ::-1] - means).transpose(2, 0, 1),
        blocks=(3, 4, 6, 3),
        epsilon=1e-3,
        stride_in_1x1=True,
    )
    for ours, theirs in zip(features(variables, image[None]).values(), expected, strict=True):
        ours = np.asarray(ours)[0].transpose(2, 0, 1)
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photograph", "expected"),
    [("chelsea", {285: 0.754, 282: 0.149, 281: 0.094}), ("coffee", {967: 0.993})],
)
def test_the_real_resnet_names_photographs(real, photograph, expected):
    """Egyptian cat, tiger cat, tabby; espresso. Shorter side 256, the 224x224 in the middle."""
    photographs = pytest.importorskip("skimage.data", reason="needs scikit-image's photographs")
    path, variables = real
    image = Image.fromarray(getattr(photographs, photograph)())
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = ((side - 224) // 2 for side in image.size)
    pixels = np.asarray(image)[top : top + 224, left : left + 224]
    state = zoo.read_state_dict(path)
    pooled = features(variables, pixels[None])[32].mean((1, 2))
    logits = pooled @ state["fc.weight"].T.astype(np.float32) + state["fc.bias"][None]
    probability = np.asarray(jax.nn.softmax(logits))[0]
    assert np.argsort(-probability)[: len(expected)].tolist() == list(expected)
    for label, value in expected.items():
        assert abs(probability[label] - value) < 2e-3


def small_resnet(norm="frozen", seed=0):
    config = ResNetConfig(depth=18, width=8, norm=norm)
    size = jnp.full((1, 2), 32)
    init = jax.jit(lambda key: ResNet(config).init(key, jnp.zeros((1, 32, 32, 3)), size, False))
    return config, init(jax.random.key(seed))


@pytest.mark.parametrize("norm", ["frozen", "sync_batch"])
def test_a_resnet_is_exported_and_imported_unchanged(norm):
    config, variables = small_resnet(norm)
    state = zoo.resnet_to_torchvision(variables, config)
    classifier = {"fc.weight": np.zeros((10, 64)), "fc.bias": np.zeros(10)}
    again = zoo.load_resnet(state | classifier, config)
    jax.tree.map(np.testing.assert_array_equal, again, dict(variables))


def test_wrong_resnets_are_refused():
    config, variables = small_resnet()
    state = zoo.resnet_to_torchvision(variables, config)
    with pytest.raises(ValueError, match=r"missing: layer1\.2"):
        zoo.load_resnet(state, dataclasses.replace(config, depth=34))
    with pytest.raises(ValueError, match=r"not used: layer1\.0\.se\.weight"):
        zoo.load_resnet(state | {"layer1.0.se.weight": np.zeros(3)}, config)
    detector = {f"backbone.body.{name}": array for name, array in state.items()}
    with pytest.raises(ValueError, match=r"none of its arrays has a ResNet's name.*--init-from"):
        zoo.load_resnet(detector, config)
    with pytest.raises(ValueError, match=r"set it to 0\.001"):
        zoo.load_resnet(state | {"bn_eps": np.asarray(1e-3)}, config)
    with pytest.raises(ValueError, match="norm='group'"):
        zoo.load_resnet(state, dataclasses.replace(config, norm="group"))


def test_a_detector_starts_from_the_backbone_and_keeps_its_own_heads():
    config, backbone = small_resnet(seed=5)
    frozen = dataclasses.replace(config, freeze_at=2)
    detector = dataclasses.replace(tiny_config(norm="sync_batch"), backbone=frozen)
    before = jax.jit(detector.build().init, static_argnums=1)(jax.random.key(0), (1, 64, 64, 3))
    after = zoo.replace_backbone(before, backbone)
    assert jax.tree.structure(after) == jax.tree.structure(dict(before))
    ours, given = merge_frozen(after), traverse_util.flatten_dict(dict(backbone))
    for (collection, *path), value in given.items():
        np.testing.assert_array_equal(
            traverse_util.flatten_dict(ours[collection]["backbone"])[tuple(path)], value
        )
    for part in ("fpn", "rpn_head", "box_head", "mask_head"):
        jax.tree.map(np.testing.assert_array_equal, after["params"][part], before["params"][part])


FLAGS = """
--data.source.train train --data.buckets 64 64 --train.batch-size 2 --train.steps 1
--model.num-classes 5 --model.backbone.depth 18 --model.backbone.width 8
--model.backbone.no-stride-in-1x1 --model.backbone.norm-epsilon 1e-5
--model.fpn-channels 16 --model.rpn.pre-nms-topk-train 20 --model.rpn.post-nms-topk-train 20
--model.box.fc-dim 16 --model.box.batch-size-per-image 8
--model.mask.num-convs 1 --model.mask.conv-dim 8
"""


@pytest.mark.slow
def test_training_starts_from_an_imported_resnet(tmp_path, monkeypatch, capsys):
    config, backbone = small_resnet(seed=7)
    monkeypatch.setitem(RESNETS, "resnet18", config)
    zoo.write_safetensors(
        tmp_path / "published.safetensors", zoo.resnet_to_torchvision(backbone, config)
    )
    imported = tmp_path / "new" / "resnet18.safetensors"
    arguments = [
        "weights",
        "import",
        str(tmp_path / "published.safetensors"),
        "--model",
        "resnet18",
    ]
    assert cli.main([*arguments, "--out", str(imported)]) == 0
    assert cli.main([*arguments, "--out", str(imported)]) == 1
    assert "must be a new file" in capsys.readouterr().err

    source = Shapes(size=64, train_images=4, val_images=2)
    write_coco(source.open("train"), tmp_path / "shapes", "train")
    flags = [*FLAGS.split(), "--data.source.path", str(tmp_path / "shapes")]
    experiment = str(ROOT / "experiments" / "mask_rcnn_nuclei_r50.py")
    run = ["train", experiment, "--workdir", str(tmp_path / "run"), *flags]
    assert cli.main([*run, "--pretrained", str(tmp_path / "absent.npz")]) == 1
    assert "absent.npz: name one with --pretrained" in capsys.readouterr().err
    assert cli.main([*run, "--pretrained", str(imported)]) == 0
    trained = restore(tmp_path / "run")
    assert trained.experiment.pretrained == str(imported)
    imported.unlink()  # a resumed run does not need it
    assert cli.main([*run, "--pretrained", str(imported)]) == 0
    stem = trained.variables["frozen"]["backbone"]["stem_conv"]["kernel"]
    np.testing.assert_array_equal(stem, backbone["params"]["stem_conv"]["kernel"])

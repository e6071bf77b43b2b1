"""Test the protocol of `jaxseg.model` on every model. A new model is one more line in MODELS."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data.pipeline import space_to_depth
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.types import Batch, MaskFrame
from tests.tiny import (
    make_batch,
    tiny_cascade_config,
    tiny_config,
    tiny_htc_config,
    tiny_panoptic_fpn_config,
    tiny_point_rend_config,
    tiny_solov2_config,
)

MODELS = {
    "cascade_rcnn": tiny_cascade_config,
    "cascade_rcnn_boxes": functools.partial(tiny_cascade_config, mask=None),
    "cascade_rcnn_detectron2": functools.partial(tiny_cascade_config, variant="detectron2"),
    "htc": tiny_htc_config,
    "htc_without_semantic": functools.partial(tiny_htc_config, semantic=None),
    "mask_rcnn": tiny_config,
    "panoptic_fpn": tiny_panoptic_fpn_config,
    "point_rend": tiny_point_rend_config,
    "solov2": tiny_solov2_config,
}
ON_A_TRUNK = (
    *(name for name in MODELS if name[:3] in ("cas", "htc")),
    "panoptic_fpn",
    "point_rend",
)
"""Models that add to one which is tested here: they take as long, so they are slow tests, and
quick tests of their own have what they add."""
RESNET = ResNetConfig(depth=18, width=8, norm="group")
SIZES = [(64, 64), (40, 52)]
KEY = jax.random.key(7)


class ModelUnderTest:
    """A model with its jitted functions, compiled once for all tests."""

    def __init__(self, config):
        self.config, model = config, config.build()
        self.model = model
        self.variables = jax.jit(model.init, static_argnums=1)(jax.random.key(0), (1, 64, 64, 3))
        self.predict = jax.jit(model.predict)
        self.loss = jax.jit(lambda variables, batch: model.loss(variables, batch, KEY).terms)
        self.gradient = jax.jit(jax.grad(self._total, has_aux=True))

    def _total(self, params, variables, batch):
        terms = self.model.loss({**variables, "params": params}, batch, KEY).terms
        return sum(t.weight * t.total for t in terms.values()), terms

    def gradients_and_terms(self, batch):
        batch = jax.tree.map(jnp.asarray, batch)
        return self.gradient(self.variables["params"], self.variables, batch)

    def losses(self, batch):
        """The losses, from the one program that has the gradients too."""
        return totals(self.gradients_and_terms(batch)[1])

    def detect(self, batch):
        return self.predict(
            self.variables, jnp.asarray(batch.images), jnp.asarray(batch.image_size)
        )

    def batch(self, bucket=(64, 64), slots=6, objects=(4, 2)) -> Batch:
        return make_batch(SIZES, objects, bucket, slots, targets=self.model.targets)


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(name, marks=[pytest.mark.slow] * (name in ON_A_TRUNK)) for name in MODELS),
        *(pytest.param(f"{name}, ResNet", marks=pytest.mark.slow) for name in MODELS),
    ],
)
def subject(request):
    name, _, resnet = request.param.partition(", ")
    config = MODELS[name]()
    return ModelUnderTest(dataclasses.replace(config, backbone=RESNET) if resnet else config)


def totals(terms):
    return {name: (float(t.total), float(t.count)) for name, t in terms.items()}


def assert_same_losses(a, b, rtol=1e-4):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-4, err_msg=name)


def test_detections_have_static_shapes_and_obey_the_contract(subject):
    found = subject.detect(subject.batch())
    batch, slots = found.valid.shape
    assert batch == 2
    assert found.boxes.shape == (2, slots, 4)
    assert found.scores.shape == found.labels.shape == (2, slots)
    assert (found.masks is None) == (subject.model.targets.masks is None)
    if found.masks is not None:
        assert found.masks.shape[:2] == (2, slots)
        assert isinstance(found.mask_frame, MaskFrame)
        assert ((found.masks >= 0) & (found.masks <= 1)).all()
    if found.semantic is not None:
        assert found.semantic.shape[:3] == (2, 16, 16)
    if found.panoptic_merging is not None:
        assert found.semantic.shape[3] == subject.config.num_stuff_classes + 1
    assert found.valid.any()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    sizes = np.asarray(SIZES)[:, None, ::-1]
    assert (np.asarray(found.boxes[..., :2]) >= 0).all()
    assert (np.asarray(found.boxes[..., 2:]) <= sizes).all()
    unused = ~np.asarray(found.valid)
    for array in jax.tree.leaves((found.boxes, found.scores, found.masks)):
        assert not np.asarray(array)[unused].any()


def test_more_padding_changes_no_detection(subject):
    small, large = (
        subject.detect(subject.batch()),
        subject.detect(subject.batch(bucket=(96, 128))),
    )
    np.testing.assert_array_equal(small.valid, large.valid)
    np.testing.assert_array_equal(small.labels, large.labels)
    np.testing.assert_allclose(small.boxes, large.boxes, atol=1e-3)
    np.testing.assert_allclose(small.scores, large.scores, atol=1e-5)
    if small.masks is not None:
        height, width = small.masks.shape[2:]
        np.testing.assert_allclose(small.masks, large.masks[..., :height, :width], atol=1e-4)
    if small.semantic is not None:
        height, width = small.semantic.shape[1:3]
        semantic = large.semantic[:, :height, :width]
        np.testing.assert_allclose(small.semantic, semantic, atol=1e-4)


def test_more_padding_changes_no_loss(subject):
    few = subject.losses(subject.batch())
    padded = jax.tree.map(jnp.asarray, subject.batch(bucket=(96, 128), slots=9))
    assert_same_losses(few, totals(subject.loss(subject.variables, padded)))


def test_the_order_of_objects_changes_no_loss(subject):
    batch = subject.batch()
    order = np.asarray([5, 3, 0, 2, 1, 4])
    fields = ["boxes", "labels", "valid", "masks", "centers"]
    fields = [name for name in fields if getattr(batch, name) is not None]
    shuffled = batch._replace(**{name: getattr(batch, name)[:, order] for name in fields})
    assert_same_losses(subject.losses(batch), subject.losses(shuffled))


def test_an_image_is_treated_as_if_alone(subject):
    both = subject.detect(subject.batch())
    batch = subject.batch()
    twice = jax.tree.map(lambda x: np.repeat(x[1:], 2, axis=0), batch)
    alone = subject.detect(twice)
    np.testing.assert_allclose(both.scores[1], alone.scores[0], atol=1e-6)
    np.testing.assert_allclose(both.boxes[1], alone.boxes[0], atol=1e-3)


def test_images_without_objects(subject):
    batch = subject.batch(objects=(0, 0))
    grads, terms = subject.gradients_and_terms(batch)
    losses = totals(terms)
    assert all(np.isfinite(value).all() for value in losses.values())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert any(total > 0 for total, _ in losses.values())


def test_weights_add_up_over_images(subject):
    """The loss of a batch is the sum of its images' losses: nothing is averaged inside."""
    batch = subject.batch()
    whole = subject.losses(batch)
    parts = []
    for i in range(2):
        # The same image twice: half of its doubled sum is its own.
        doubled = jax.tree.map(lambda x, i=i: np.stack([x[i], x[i]]), batch)
        losses = subject.losses(doubled)
        parts.append({name: np.asarray(value) / 2 for name, value in losses.items()})
    total = {name: parts[0][name] + parts[1][name] for name in whole}
    assert_same_losses(whole, total)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_blocks_of_pixels_change_neither_loss_nor_gradient(name):
    subject = ModelUnderTest(dataclasses.replace(MODELS[name](), backbone=RESNET))
    batch = subject.batch()
    expected, terms = subject.gradients_and_terms(batch)
    blocks = batch._replace(images=space_to_depth(batch.images))
    found, terms_of_blocks = subject.gradients_and_terms(blocks)
    assert_same_losses(totals(terms), totals(terms_of_blocks))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(a - b).max() <= 1e-3 * np.abs(b).max()


def test_a_backbone_of_pixels_refuses_blocks():
    model = tiny_config().build()
    batch = make_batch([(64, 64)], [1], targets=model.targets)
    variables = jax.eval_shape(functools.partial(model.init, KEY, (1, 64, 64, 3)))
    blocks = batch._replace(images=space_to_depth(batch.images))
    with pytest.raises(ValueError, match=r"TinyBackboneConfig.* set data\.space_to_depth to False"):
        jax.eval_shape(model.loss, variables, blocks, KEY)


def test_images_of_mixed_sizes_compile_once(subject):
    def run(sizes, objects, seed):
        batch = make_batch(sizes, objects, seed=seed, targets=subject.model.targets)
        subject.gradients_and_terms(batch)
        subject.detect(batch)
        return [f._cache_size() for f in (subject.gradient, subject.predict)]

    compiled = run([(64, 64), (64, 64)], [1, 1], seed=0)
    rng = np.random.default_rng(0)
    for seed in range(4):
        sizes = [(int(h), int(w)) for h, w in rng.integers(8, 65, (2, 2))]
        assert run(sizes, rng.integers(0, 7, 2).tolist(), seed) == compiled


def test_bfloat16_computes_the_same_but_for_rounding(subject):
    """Layers compute in bfloat16; parameters, boxes, losses and gradients stay float32."""
    rounded = dataclasses.replace(subject.config, compute_dtype="bfloat16").build()
    batch = jax.tree.map(jnp.asarray, subject.batch())
    terms = jax.jit(lambda variables, batch: rounded.loss(variables, batch, KEY).terms)
    _, exact = subject.gradients_and_terms(batch)
    for name, term in terms(subject.variables, batch).items():
        assert term.total.dtype == jnp.float32
        means = [t.total / (t.count + t.offset) for t in (term, exact[name])]
        np.testing.assert_allclose(*means, rtol=0.05, atol=0.02, err_msg=name)

    def total(params):
        losses = terms({**subject.variables, "params": params}, batch)  # traced above
        return sum(t.weight * t.total for t in losses.values())

    # Compiling the gradient in bfloat16 takes a minute.
    grads = jax.eval_shape(jax.grad(total), subject.variables["params"])
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}

    arguments = subject.variables, batch.images, batch.image_size
    program, found = jax.make_jaxpr(rounded.predict, return_shape=True)(*arguments)
    floats = jax.tree.leaves((found.boxes, found.scores, found.masks, found.semantic))
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    kinds = [
        line.split(":")[1].split("[")[0]
        for line in str(program).splitlines()
        if "= conv_general_dilated" in line
    ]
    assert set(kinds) == {"bf16"}, kinds

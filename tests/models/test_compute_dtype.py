"""Layers compute in bfloat16; parameters, boxes and losses stay float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import make_batch, tiny_config, tiny_solov2_config

CONFIGS = {"mask_rcnn": tiny_config(), "solov2": tiny_solov2_config()}


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_computes_the_same_but_for_rounding(name):
    exact = CONFIGS[name].build()
    rounded = dataclasses.replace(CONFIGS[name], compute_dtype="bfloat16").build()
    variables = jax.jit(exact.init, static_argnums=1)(jax.random.key(0), (1, 64, 64, 3))
    batch = make_batch([(64, 64), (40, 52)], [4, 2], targets=exact.targets)
    batch = jax.tree.map(jnp.asarray, batch)

    def total(params, model):
        terms = model.loss({**variables, "params": params}, batch, jax.random.key(1)).terms
        means = {name: t.total / (t.count + t.offset) for name, t in terms.items()}
        return sum(t.weight * means[name] for name, t in terms.items()), means

    forward = jax.jit(total, static_argnums=1)
    _, losses = forward(variables["params"], rounded)
    _, expected = forward(variables["params"], exact)
    gradient = jax.grad(lambda params: total(params, rounded)[0])
    grads = jax.eval_shape(gradient, variables["params"])  # compiling it takes a minute
    for term, value in losses.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected[term], rtol=0.05, atol=0.02, err_msg=term)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}

    found = jax.eval_shape(rounded.predict, variables, batch.images, batch.image_size)
    assert {x.dtype for x in (found.boxes, found.scores, found.masks)} == {jnp.dtype("float32")}
    program = str(jax.make_jaxpr(rounded.predict)(variables, batch.images, batch.image_size))
    kinds = [
        line.split(":")[1].split("[")[0]
        for line in program.splitlines()
        if "= conv_general_dilated" in line
    ]
    assert set(kinds) == {"bf16"}, kinds

"""The semantic branch of HTC against MMDetection's."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import htc
from jaxseg.models.htc import FusedSemanticHead, FusedSemanticHeadConfig
from jaxseg.types import Batch
from tests.goldens import difference, nchw

LAYERS = {
    **{f"lateral_convs.{i}.conv": f"lateral{i + 2}" for i in range(3)},
    "convs.0.conv": "conv1",
    "conv_embedding.conv": "embedding",
    "conv_logits": "logit",
}


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "goldens" / "models" / "ops_later.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("fsem__")}


def test_the_semantic_branch_is_that_of_mmdetection(golden):
    params = {
        ours: {
            "kernel": golden[f"fsem__param_{theirs}.weight"].transpose(2, 3, 1, 0),
            "bias": golden[f"fsem__param_{theirs}.bias"],
        }
        for theirs, ours in LAYERS.items()
    }
    config = FusedSemanticHeadConfig(num_convs=1)
    maps = [golden[f"fsem__in{i}"].transpose(0, 2, 3, 1) for i in range(3)]
    pyramid = {4 * 2**i: jnp.asarray(x) for i, x in enumerate(maps)}
    labels = golden["fsem__labels"][:, 0]
    size = jnp.asarray([labels.shape[1:]])
    logits, embedding = FusedSemanticHead(config, num_classes=5).apply(
        {"params": params}, pyramid, size
    )
    assert difference(nchw(logits), golden["fsem__pred"]) < 1e-5
    assert difference(nchw(embedding), golden["fsem__embed"]) < 1e-5

    stride = htc.SEMANTIC_STRIDE
    batch = Batch(
        images=jnp.zeros((1, *labels.shape[1:], 3), jnp.uint8),
        image_size=size,
        boxes=jnp.zeros((1, 1, 4)),
        labels=jnp.zeros((1, 1), jnp.int32),
        valid=jnp.zeros((1, 1), bool),
        index=jnp.zeros(1, jnp.int32),
        masks=None,
        semantic=jnp.asarray(labels[:, ::stride, ::stride]),
    )
    term = htc._semantic_loss(config, logits, batch, size)
    loss = term.weight * term.total / term.count
    np.testing.assert_allclose(loss, golden["fsem__loss"], rtol=1e-5)

"""RoIAlign from a pyramid, forward and with its gradient.

What a program returns matters: a sum can be computed without keeping the pooled features, and their
gradient is a constant then.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import ops
from jaxseg.bench import inputs
from jaxseg.bench.context import Context
from jaxseg.bench.ops.sides import add_peer, device_case, largest_difference
from jaxseg.bench.results import Comparison, Prepared

POOL = (7, 7)


def _pool(pyramid: Mapping[int, jax.Array], boxes: jax.Array) -> jax.Array:
    """Pool as torchvision's Mask R-CNN does, in the pyramid's dtype as the models do."""
    dtype = next(iter(pyramid.values())).dtype
    pool = functools.partial(
        ops.multilevel_roi_align, output_size=POOL, sampling_ratio=2, aligned=False
    )
    return jax.vmap(pool)(pyramid, boxes).astype(dtype)


def _pool_inputs(context: Context) -> tuple[dict[int, np.ndarray], np.ndarray, np.ndarray]:
    """Return a pyramid, boxes and a random gradient of the output, float32."""
    settings, rng = context.settings, np.random.default_rng(0)
    pyramid = inputs.random_pyramid(rng, settings)
    boxes = inputs.random_boxes(rng, (settings.batch, settings.rois), settings.size)
    shape = (settings.batch, settings.rois, *POOL, settings.channels)
    return pyramid, boxes, rng.standard_normal(shape, np.float32)


def _cast(context: Context, tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, context.settings.dtype), tree)


def forward(context: Context) -> Prepared:
    pyramid, boxes, _ = _pool_inputs(context)
    prepared, result = device_case(context, _pool, _cast(context, pyramid), boxes)
    calls = add_peer(context, prepared, lambda peer: peer.roi_align(pyramid, boxes))

    def compare() -> Iterable[Comparison]:
        for call in calls:
            ours = result().reshape(-1, *POOL, pyramid[4].shape[-1]).transpose(0, 3, 1, 2)
            yield largest_difference(context, "output", ours, context.peer.array(call()))  # type: ignore[union-attr]

    prepared.compare = compare
    return prepared


def summed(context: Context) -> Prepared:
    pyramid, boxes, _ = _pool_inputs(context)

    def function(pyramid: Any, boxes: jax.Array) -> Any:
        return jax.value_and_grad(lambda p: _pool(p, boxes).astype(jnp.float32).sum())(pyramid)

    prepared, result = device_case(context, function, _cast(context, pyramid), boxes)
    calls = add_peer(
        context, prepared, lambda peer: peer.roi_align_gradient(pyramid, boxes), gradients=True
    )
    prepared.compare = functools.partial(_compare_gradients, context, result, calls)
    return prepared


def returned(context: Context) -> Prepared:
    pyramid, boxes, cotangent = _pool_inputs(context)

    def function(pyramid: Any, boxes: jax.Array, cotangent: jax.Array) -> Any:
        output, pull = jax.vjp(lambda p: _pool(p, boxes), pyramid)
        return output, pull(cotangent)[0]

    arguments = _cast(context, pyramid), boxes, _cast(context, cotangent)
    prepared, result = device_case(context, function, *arguments)
    calls = add_peer(
        context,
        prepared,
        lambda peer: peer.roi_align_gradient(pyramid, boxes, cotangent),
        gradients=True,
    )
    prepared.compare = functools.partial(_compare_gradients, context, result, calls)
    return prepared


def _compare_gradients(context: Context, result: Any, calls: list[Any]) -> Iterable[Comparison]:
    for call in calls:
        _, gradient = result()
        _, expected = call()
        for stride, theirs in zip(sorted(gradient), expected, strict=True):
            ours = gradient[stride].transpose(0, 3, 1, 2)
            theirs = context.peer.array(theirs)  # type: ignore[union-attr]
            yield largest_difference(context, f"gradient at stride {stride}", ours, theirs)

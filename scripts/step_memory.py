"""Memory of one compiled training step, as XLA states it for the device this runs on.

R50-FPN of both models, two images of 800x1344 pixels with room for 100 objects each.

    python scripts/step_memory.py
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxseg.model import BATCH_AXIS
from jaxseg.models.mask_head import MaskHeadConfig
from jaxseg.models.published import DETECTRON2_R50_FPN, MMDET_SOLOV2_R50
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer
from jaxseg.training.step import init_state, make_step
from jaxseg.types import Batch, MaskFrame

IMAGES, OBJECTS, CANVAS = 2, 100, (800, 1344)
MODELS = {
    "Mask R-CNN": dataclasses.replace(DETECTRON2_R50_FPN, mask=MaskHeadConfig()),
    "SOLOv2": MMDET_SOLOV2_R50,
}
GIB = 2**30


def main() -> None:
    print(f"device: {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    print("| model | compute | temporaries, GiB | state, GiB |")
    print("| --- | --- | --- | --- |")
    for name, config in MODELS.items():
        for dtype in ("float32", "bfloat16"):
            model = dataclasses.replace(config, compute_dtype=dtype).build()
            optimizer = make_optimizer(OptimizerConfig(), steps=1000)
            state = jax.eval_shape(lambda m=model, o=optimizer: init_state(m, o, (1, 64, 64, 3), 0))
            whole = model.needs.frame is MaskFrame.IMAGE
            side = [s // model.needs.size for s in CANVAS] if whole else [model.needs.size] * 2
            shapes = Batch(
                images=jax.ShapeDtypeStruct((1, IMAGES, *CANVAS, 3), jnp.uint8),
                image_size=jax.ShapeDtypeStruct((1, IMAGES, 2), jnp.int32),
                boxes=jax.ShapeDtypeStruct((1, IMAGES, OBJECTS, 4), jnp.float32),
                labels=jax.ShapeDtypeStruct((1, IMAGES, OBJECTS), jnp.int32),
                masks=jax.ShapeDtypeStruct((1, IMAGES, OBJECTS, *side), bool),
                valid=jax.ShapeDtypeStruct((1, IMAGES, OBJECTS), bool),
                place=jax.ShapeDtypeStruct((1, IMAGES), jnp.int32),
                centers=jax.ShapeDtypeStruct((1, IMAGES, OBJECTS, 2), jnp.float32),
            )
            step = jax.vmap(make_step(model, optimizer, 0), (None, 0), axis_name=BATCH_AXIS)
            memory = jax.jit(step).lower(state, shapes).compile().memory_analysis()
            held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
            temporary = memory.temp_size_in_bytes
            print(f"| {name} | {dtype} | {temporary / GIB:.2f} | {held / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()

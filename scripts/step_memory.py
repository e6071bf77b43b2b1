"""Print the memory of one compiled training step, as XLA reports it for the device in use.

R50-FPN of both models, two images of 800x1344 pixels with 100 object slots each.

    python scripts/step_memory.py
"""

import dataclasses
from typing import Any

import jax

from jaxseg.commands.dry_run import batch_shapes
from jaxseg.data import DataConfig, Shapes
from jaxseg.heads.mask_head import MaskHeadConfig
from jaxseg.parallel import lower_step
from jaxseg.training.optimizer import OptimizerConfig, make_optimizer
from jaxseg.training.step import init_state, make_step
from jaxseg.zoo.mask_rcnn import DETECTRON2_R50_FPN
from jaxseg.zoo.solov2 import MMDET_SOLOV2_R50

IMAGES, BUCKET = 2, (800, 1344)
DATA = DataConfig(Shapes(), buckets=(BUCKET,), max_objects=100)
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
            batch = batch_shapes(model, DATA, IMAGES, BUCKET)
            compiled = lower_step(make_step(model, optimizer, 0), 1, state, batch).compile()
            memory: Any = compiled.memory_analysis()
            held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
            temporary = memory.temp_size_in_bytes
            print(f"| {name} | {dtype} | {temporary / GIB:.2f} | {held / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()

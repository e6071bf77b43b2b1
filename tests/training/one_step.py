r"""Make one step of a tiny model from a fixed state on a fixed global batch of 8 images.

    python -m tests.training.one_step OUT.npz MODEL NORM TRANSFORM DEVICES MICROBATCHES \
        [ADDRESS NUM_PROCESSES PROCESS_ID]

Images hold 6, 0, 1, 0, 0, 3, 2 and 0 objects, so that devices have unequal numbers and some none.
Process 0 writes the new parameters and the metrics.
"""

import dataclasses
import sys

import jax
import numpy as np
import optax

from jaxseg.distributed import connect, process_count, process_index
from jaxseg.nn.resnet import ResNetConfig
from jaxseg.parallel import pmap_step, replicate, shard_map_step
from jaxseg.training.step import init_state, make_step
from tests.tiny import make_batch, tiny_config, tiny_solov2_config

MODELS = {"mask_rcnn": tiny_config, "solov2": tiny_solov2_config}
TRANSFORMS = {"pmap": pmap_step, "shard_map": shard_map_step}
OBJECTS = [6, 0, 1, 0, 0, 3, 2, 0]


def main(out, model_name, norm, transform, devices, microbatches, *processes):
    if processes:
        address, count, index = processes
        connect(address, int(count), int(index))
    config = MODELS[model_name](norm=norm)
    resnet = ResNetConfig(depth=18, width=8, norm=norm)
    model = dataclasses.replace(config, backbone=resnet).build()
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = make_step(model, optimizer, seed=0, grad_accum_steps=int(microbatches))
    step = TRANSFORMS[transform](step, int(devices))
    state = init_state(model, optimizer, (1, 64, 64, 3), seed=0)
    state = replicate(jax.tree.map(np.asarray, state), int(devices))
    sizes = [(64, 64), (50, 64), (64, 40), (64, 64)] * 2
    batch = make_batch(sizes, OBJECTS, targets=model.targets)
    share = len(sizes) // process_count()
    own = slice(process_index() * share, (process_index() + 1) * share)
    state, metrics = step(state, jax.tree.map(lambda x: x[own], batch))
    if process_index() == 0:
        leaves = jax.tree_util.tree_leaves_with_path((state.params, state.model_state, metrics))
        np.savez(out, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Programs that the tests of the commands share."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from jaxseg import predictor
from jaxseg.commands import initial
from jaxseg.models.mask_rcnn import MaskRCNNConfig
from jaxseg.training import loop


@pytest.fixture(autouse=True, scope="session")
def programs(initialisations: None) -> Iterator[None]:
    """Trace and compile a program once for all commands of this process that run it.

    Each command builds its own model, which JAX would trace and compile again, for seconds. Here
    equal configs give the same model, and equal settings the same step and prediction.
    """
    variables_of_seed = functools.cache(initial.init_variables)
    step_of_settings = functools.cache(loop._train_step)
    # One value for each setting that the compiled step does not depend on.
    same = {"log_every": 1, "eval_every": 0, "checkpoint_every": 1, "max_to_keep": 1}

    def train_step(model, config, devices):
        steps = 1 if config.optimizer.schedule == "constant" else config.steps
        config = dataclasses.replace(config, **same, steps=steps)
        return step_of_settings(model, config, devices)

    def init_variables(model, image_shape, seed):
        return jax.tree.map(jnp.copy, variables_of_seed(model, image_shape, seed))  # donated later

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MaskRCNNConfig, "build", functools.cache(MaskRCNNConfig.build))
        patch.setattr(predictor, "pmap_predict", functools.cache(predictor.pmap_predict))
        patch.setattr(initial, "init_variables", init_variables)
        patch.setattr(loop, "_train_step", train_step)
        yield

"""The zoo's records: their parameters, names of arrays and documentation."""

import importlib.util

import jax
import numpy as np
import pytest

from jaxseg.data import DataConfig, Shapes
from jaxseg.zoo import MODELS
from jaxseg.zoo.load import TABLES
from tests.conftest import ROOT


def shapes(record):
    init = record.config.build().init
    return jax.eval_shape(lambda: init(jax.random.key(0), (1, 64, 64, 3)))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_as_many_as_recorded(name):
    variables = shapes(MODELS[name])
    leaves = jax.tree.leaves([variables["params"], variables.get("frozen", {})])
    assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == MODELS[name].parameters


@pytest.mark.parametrize("name", MODELS)
def test_the_codebase_has_a_name_for_every_array(name):
    record = MODELS[name]
    entries = list(TABLES[type(record.config)][record.codebase].entries(record.config))
    assert len({entry.name for entry in entries}) == len(entries)
    assert any(
        entry.name.startswith(TABLES[type(record.config)][record.codebase].prefix)
        for entry in entries
    )
    arrays = jax.tree.leaves(shapes(record))
    assert len(entries) == len(arrays)


@pytest.mark.parametrize("name", MODELS)
def test_preprocessing_and_experiment_exist(name):
    record = MODELS[name]
    preprocessing = record.preprocessing
    DataConfig(
        Shapes(),
        preprocessing.buckets,
        preprocessing.min_size,
        preprocessing.max_size,
        preprocessing.resize_backend,
    )
    if record.experiment:
        file = record.experiment.partition(", ")[0]
        assert (ROOT / "experiments" / f"{file}.py").is_file()


def test_docs_models_is_up_to_date():
    spec = importlib.util.spec_from_file_location("model_table", ROOT / "scripts/model_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / "docs" / "models.md").read_text() == script.document()

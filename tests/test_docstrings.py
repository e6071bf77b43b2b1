"""Runs the examples in the docstrings of the public modules."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import jaxseg.losses
import jaxseg.models
import jaxseg.ops
from jaxseg.experiment import CONFIG_CLASSES

MODULES = ["jaxseg.losses"] + [
    module.name
    for package in (jaxseg.models, jaxseg.ops)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
]


@pytest.fixture(autouse=True)
def own_builds(monkeypatch):
    """Let configs build models as in their docstrings, which `initialisations` replaces."""
    for config_class in CONFIG_CLASSES:
        build = getattr(vars(config_class).get("build"), "__wrapped__", None)
        if build is not None:
            monkeypatch.setattr(config_class, "build", build)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_their_outputs(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted == inspect.getsource(module).count(">>> ")


@pytest.mark.parametrize("module", [jaxseg.ops, jaxseg.losses], ids=lambda m: m.__name__)
def test_every_public_function_has_an_example(module):
    functions = [
        function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
    ]
    assert len(functions) > 5
    for function in functions:
        assert ">>>" in function.__doc__, function.__name__

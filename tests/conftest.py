"""Strict numerics and checked shapes for every test, and the development data's folder."""

import functools
import gc
import os
import pathlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

# Before JAX starts. Tests of data parallelism need more than one device on any machine. Most of the
# tests' time is compilation. Without LLVM's optimisation it takes a third, without XLA's fusion
# emitters half of that, and not split into pieces, since a worker has one core, a sixth less.
# `scripts/test --slow` sets none of these flags, and runs the goldens again. JAX 0.11 has other
# flags, and an unknown flag ends the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
        " --xla_cpu_parallel_codegen_split_count=1"
    )
    * version("jaxlib").startswith("0.10."),
)
# The commands that tests start as processes, which may be killed, keep their programs apart.
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).resolve().parents[1] / ".cache")

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxseg", "beartype.beartype")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# A slow machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# Tracing makes millions of objects that stay alive. With Python's threshold of 700, the search for
# cycles among them takes a twelfth of the tests' time.
gc.set_threshold(20_000, 10, 10)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of development data and goldens, which only developers of jaxseg have."""
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def own_config_classes() -> Iterator[None]:
    """Let checkpoints name the tests' backbone, as `--allow-module tests.tiny` does."""
    from jaxseg import experiment
    from tests.tiny import TinyBackboneConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            experiment, "CONFIG_CLASSES", (*experiment.CONFIG_CLASSES, TinyBackboneConfig)
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def initialisations() -> Iterator[None]:
    """Trace the initialisation of a model once for all equal configs and image shapes.

    Tracing takes seconds, even where a test needs only the shapes.
    """
    from jaxseg.experiment import CONFIG_CLASSES
    from jaxseg.model import Model, image_shape

    def share(build: Callable[[Any], Model]) -> Callable[[Any], Model]:
        @functools.cache
        def traced_once(config: Any) -> Callable:
            return jax.jit(build(config).init, static_argnums=1)

        @functools.wraps(build)
        def build_model(config: Any) -> Model:
            init = traced_once(config)
            return build(config)._replace(init=lambda key, of: init(key, image_shape(of)))

        return build_model

    with pytest.MonkeyPatch.context() as patch:
        for config_class in CONFIG_CLASSES:
            if hasattr(config_class, "num_classes") and "build" in vars(config_class):
                patch.setattr(config_class, "build", share(vars(config_class)["build"]))
        yield


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The workdir of a short training at its end; tests must not change its checkpoints."""
    from jaxseg.commands import train as train_command
    from tests.commands.tiny_run import EXPERIMENT

    path = tmp_path_factory.mktemp("run")
    train_command.train(EXPERIMENT, path)
    return path


LONGEST = ("test_types.py", "training/test_step.py", "commands/", "zoo/", "models/")
"""The tests that take longest: they start first, so that no worker still runs when all others are
done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        module = item.path.relative_to(ROOT / "tests").as_posix()
        return [module.startswith(prefix) for prefix in (*LONGEST, "")].index(True)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole modules to the workers, and all modules of some packages to the same one.

    The tests of the commands share `workdir` and programs, those of the zoo the shapes of models.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            package = "/".join(nodeid.split("/")[:2])
            together = package in ("tests/commands", "tests/zoo")
            return package if together else super()._split_scope(nodeid)

    return ByModule(config, log) if config.getvalue("dist") == "loadscope" else None

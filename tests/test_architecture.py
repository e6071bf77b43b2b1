"""Check the imports: the layers of the packages, and the packages that device code leaves out."""

import ast
import sys

import pytest

from tests.conftest import ROOT

# The packages and modules of jaxseg that each one may import besides itself.
ALLOWED_IMPORTS = {
    "types": set(),
    "files": set(),
    "terminal": set(),
    "model": {"types"},
    "ops": {"types"},
    "losses": {"types", "ops"},
    "nn": {"types", "model", "ops", "losses"},
    "heads": {"types", "model", "ops", "losses", "nn"},
    "models": {"types", "model", "ops", "losses", "nn", "heads"},
    "zoo": {"types", "files", "model", "nn", "heads", "models"},
    "distributed": set(),
    "log": {"distributed"},
    "parallel": {"types", "model"},
    "data": {"types", "files", "model"},
    "training": {"types", "files", "model", "distributed", "log", "parallel"},
    "evaluation": {"types", "files", "model", "ops", "data"},
    "visualize": {"types", "files", "data", "evaluation"},
    "experiment": {"types", "model", "nn", "heads", "models", "data", "training"},
}


def modules():
    return sorted((ROOT / "jaxseg").rglob("*.py"))


def package(path):
    relative = path.relative_to(ROOT / "jaxseg")
    return relative.parts[0].removesuffix(".py")


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxseg":
            names = [f"jaxseg.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("jaxseg."))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_layers(path):
    allowed = ALLOWED_IMPORTS.get(package(path))
    if allowed is not None:
        stray = set(imported_packages(path)) - allowed - {package(path)}
        assert not stray, f"{package(path)} must not import {sorted(stray)}"


def test_the_rule_names_existing_packages():
    assert set(ALLOWED_IMPORTS) <= {package(path) for path in modules()}
    seen = set(imported_packages(ROOT / "jaxseg" / "heads" / "box_head.py"))
    assert {"ops", "nn", "losses"} <= seen


def test_only_one_file_names_a_parallel_transform():
    named = [
        path.name
        for path in modules()
        if any(word in path.read_text() for word in ("pmap(", "shard_map(", "NamedSharding("))
    ]
    assert named == ["parallel.py"]


DEVICE_PACKAGES = ("types", "model", "ops", "losses", "nn", "heads", "models")
DEVICE_FILES = ("distributed.py", "log.py", "parallel.py", "step.py")
HOST_ONLY = {"grain", "pycocotools", "cv2", "PIL", "tyro", "tensorboardX"}


def test_device_code_imports_no_host_only_package():
    for path in modules():
        if package(path) not in DEVICE_PACKAGES and path.name not in DEVICE_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not found & HOST_ONLY, path


BENCH_PACKAGES = {"jax", "flax", "optax", "numpy", "jaxtyping"}
"""What `jaxseg.bench` may import at the top of its modules, beside Python's own: a machine with a
GPU may have no more. jaxtyping is in every module of jaxseg."""
BENCH_MODULES = {*DEVICE_PACKAGES, "bench", "files", "parallel", "training"}


def imports_at_the_top(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_bench_imports_little_at_the_top_of_its_modules():
    paths = [path for path in modules() if package(path) == "bench"]
    assert len(paths) > 10
    for path in paths:
        for name in imports_at_the_top(path):
            first, _, rest = name.partition(".")
            if first == "jaxseg":
                assert rest == "__version__" or rest.split(".")[0] in {"", *BENCH_MODULES}, path
                assert not rest.startswith("training") or rest.startswith("training.step."), path
            else:
                assert first in BENCH_PACKAGES | sys.stdlib_module_names, path

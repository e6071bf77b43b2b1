"""Holds the rule of who may know whom, by reading the imports."""

import ast

import pytest

from tests.conftest import ROOT

# What each room may import of jaxseg, besides itself.
MAY_KNOW = {
    "types": set(),
    "files": set(),
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
    "training": {"types", "model", "distributed", "log", "parallel"},
    "evaluation": {"types", "files", "model", "ops", "data"},
    "visualize": {"types", "data", "evaluation"},
    "experiment": {"types", "model", "data", "training"},
}


def modules():
    return sorted((ROOT / "jaxseg").rglob("*.py"))


def room(path):
    relative = path.relative_to(ROOT / "jaxseg")
    return relative.parts[0].removesuffix(".py")


def imported_rooms(path):
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
def test_imports_follow_the_plan_of_the_house(path):
    allowed = MAY_KNOW.get(room(path))
    if allowed is not None:
        stray = set(imported_rooms(path)) - allowed - {room(path)}
        assert not stray, f"{room(path)} must not know {sorted(stray)}"


def test_the_rule_is_about_rooms_that_exist():
    assert set(MAY_KNOW) <= {room(path) for path in modules()}
    seen = set(imported_rooms(ROOT / "jaxseg" / "heads" / "box_head.py"))
    assert {"ops", "nn", "losses"} <= seen


def test_only_one_file_names_a_parallel_transform():
    named = [
        path.name
        for path in modules()
        if any(word in path.read_text() for word in ("pmap(", "shard_map(", "NamedSharding("))
    ]
    assert named == ["parallel.py"]


DEVICE_ROOMS = ("types", "model", "ops", "losses", "nn", "heads", "models")
DEVICE_FILES = ("distributed.py", "log.py", "parallel.py", "step.py")
HOST_ONLY = {"grain", "pycocotools", "cv2", "PIL", "tyro", "tensorboardX"}


def test_what_runs_on_devices_imports_without_the_host_packages():
    for path in modules():
        if room(path) not in DEVICE_ROOMS and path.name not in DEVICE_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not found & HOST_ONLY, path

"""Annotations with random values are imported, or refused with a message."""

import copy
import json
import random
from typing import Any

import pytest

from tests.data.importers import exports, formats
from tests.data.importers.imports import run

JUNK: list[Any] = [None, True, -1, 0, 3, 1e308, float("nan"), 10**400, "", "x", "\ud800", "a\0b"]
JUNK += ["../..", [], {}, [[1]], [None], {"a": 1}, [1, 2, 3], "9" * 300]


def places(value, path=()):
    """Yield the path of every value in nested JSON."""
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from places(item, (*path, key))


def mutate(content, rng):
    """Replace, or remove, up to three values."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([p for p in places(content) if p] or [()])
        if not path:
            break
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if rng.random() < 0.2:
            del parent[path[-1]]
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    return content


@pytest.mark.parametrize(
    "name", ["labelme", "labelme with embedded images", "via 2", "via 3", "cvat"]
)
def test_random_values_do_not_crash_an_import(tmp_path, name, capsys):
    write, form = formats.ALL[name]
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", 2)
    path = sorted((tmp_path / "a").rglob("*.json"))[0]
    content = json.loads(path.read_text())
    statuses = set()
    for seed in range(60):
        path.write_text(json.dumps(mutate(content, random.Random(seed))))
        statuses.add(run(tmp_path / "a", tmp_path / f"out{seed}", "--format", form))
    assert statuses <= {0, 1}
    assert 0 in statuses


def test_random_lines_do_not_crash_an_import_of_yolo(tmp_path, capsys):
    exports.write_yolo(tmp_path / "a", 2)
    path = tmp_path / "a" / "train" / "labels" / "0.txt"
    words = path.read_text().split(" ")
    for seed in range(60):
        rng = random.Random(seed)
        changed = list(words)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.choice(
                ["nan", "inf", "x", "", "-1", "1e400"]
            )
        path.write_text(" ".join(changed))
        assert run(tmp_path / "a", tmp_path / f"out{seed}") in (0, 1)

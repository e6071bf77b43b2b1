"""Fuzzing with mutated panoptic annotations and maps: each is read, or refused with its name.

    python -m tests.data.fuzz_panoptic 10000 [seed]

Case i is a pure function of (seed, i): half of the cases mutate the JSON, half the bytes of a map.
"""

import collections
import json
import logging
import pathlib
import random
import sys
import tempfile

import numpy as np

from jaxseg.data import CocoFolder
from jaxseg.data.issues import IGNORABLE, WARNINGS
from jaxseg.data.panoptic import PanopticSource
from jaxseg.types import IGNORED
from tests.data.coco.small_panoptic import content, write
from tests.data.fuzz import check_named, mutate


def check_split(folder: pathlib.Path) -> str:
    """Open and read a split; return `read` or `refused`, or raise if a result is wrong."""
    outcome = "refused"
    for ignored in ((), tuple(IGNORABLE.keys() - WARNINGS.keys())):
        try:
            source = CocoFolder(str(folder), ignore_issues=ignored).open("train")
        except ValueError as error:
            check_named("panoptic_train.json", error)
            continue
        assert isinstance(source, PanopticSource)
        for index in range(len(source)):
            try:
                example, panoptic = source[index], source.panoptic_map(index)
            except ValueError as error:
                check_named(f"image id {source.image_ids[index]}", error)
                check_named(str(folder), error)
                continue
            outcome = outcome if ignored else "read"
            assert example.semantic is not None
            assert set(np.unique(panoptic.ids)) - {0} == {s.id for s in panoptic.segments}
            for segment in panoptic.segments:
                assert 0 <= segment.label < len(source.categories)
                assert (example.semantic[panoptic.ids == segment.id] == segment.label).all()
            assert (example.semantic[panoptic.ids == 0] == IGNORED).all()
            assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()
            assert (example.labels < source.num_things).all()
    return outcome


def run(cases: int, seed: int = 0) -> collections.Counter:
    """Mutate and check `cases` splits; return how many were read and refused."""
    outcomes: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder, content())
        annotations, valid = folder / "annotations" / "panoptic_train.json", content()
        path = folder / "annotations" / "panoptic_train" / "a.png"
        valid_map = path.read_bytes()
        for case in range(cases):
            rng = random.Random(f"{seed} {case}")
            text, data = json.dumps(valid), bytearray(valid_map)
            if case % 2:
                text = mutate(valid, rng)
            else:
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                del data[len(data) - rng.choice((0, 0, 0, rng.randrange(len(data)))) :]
            annotations.write_text(text, errors="replace")
            path.write_bytes(data)
            try:
                outcomes[check_split(folder)] += 1
            except Exception as error:
                error.add_note(f"case {case} of seed {seed}")
                raise
    return outcomes


def main() -> None:
    logging.disable()  # of the skipped images
    print(dict(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)))


if __name__ == "__main__":
    main()

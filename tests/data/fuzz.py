"""Fuzzing with mutated COCO files and images: each must be read, or refused with its name.

    python -m tests.data.fuzz 10000 [seed]

mutates 10,000 COCO files and a tenth as many images of each encoding, and prints how many were
read and refused. The data are small parts of the development data, or synthetic scenes without it.
Case i is a pure function of (seed, i).
"""

import collections
import contextlib
import copy
import io
import json
import logging
import math
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from jaxseg.data import CocoFolder, Shapes, read_image, write_coco
from jaxseg.data.issues import IGNORABLE

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared"
BAD_VALUES: list[Any] = [
    None, True, False, 0, -0.0, 1, -1, 0.5, 1e-300, 1e300, -1e300, 1 << 31, -(1 << 31), 1 << 63,
    10**400, math.nan, math.inf, -math.inf, "", "0", "7", "NaN", "\0", "é\ud800", "../..",
    "x" * 999,
    [], {}, [[]], [[[]]], [None], [0, 0, 0, 0], [[0, 0, 0, 0]], [[1, 1, 2, 2, 3, 3]], {"size": []},
    {"size": [4, 4], "counts": "04"}, {"counts": None, "size": None}, [1e9] * 6, [[1e9] * 6],
    [[math.nan] * 6], [["1"] * 6], [[True] * 6],
]  # fmt: skip


def make_corpus(folder: pathlib.Path) -> list[dict]:
    """Return small COCO files, and write their images to `folder/images`."""
    if not SHARED.is_dir():
        write_coco(Shapes(size=48, train_images=3).open("train"), folder, "scenes")
        content = json.loads((folder / "scenes.json").read_text())
        (folder / "scenes.json").unlink()
        return [content]
    (folder / "images").mkdir()
    coco, nuclei = SHARED / "data" / "coco_mini", SHARED / "data" / "nuclei"
    photographs = json.loads((coco / "annotations" / "instances_val2017.json").read_text())
    cells = json.loads((nuclei / "mini_val.json").read_text())
    crowd_image_id = next(a["image_id"] for a in photographs["annotations"] if a["iscrowd"])
    parts = [
        (photographs, coco / "val2017", [crowd_image_id, photographs["images"][0]["id"]]),
        (cells, nuclei / "images", [cells["images"][0]["id"]]),
    ]
    corpus = []
    for content, images, ids in parts:
        part = {key: value for key, value in content.items() if key not in ("info", "licenses")}
        part["images"] = [i for i in content["images"] if i["id"] in ids]
        part["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        for image in part["images"]:
            shutil.copy(images / image["file_name"], folder / "images")
        corpus.append(copy.deepcopy(part))
    return corpus


def mutate(content: dict, rng: random.Random) -> str:
    """Return the JSON of the content with one to three mutations."""
    content = copy.deepcopy(content)
    mutations = (_replace, _replace, _replace, _delete, _duplicate, _swap, _change_counts)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(mutations)(content, rng)
    text = json.dumps(content)
    choice = rng.random()
    if choice < 0.03:
        return text[: rng.randrange(len(text))]
    if choice < 0.06:
        at = rng.randrange(len(text))
        inserted = rng.choice(("[", "}", ",", '"', "é", "\0", "1e999", "-"))
        return text[:at] + inserted + text[at:]
    return text


def _pick(content, rng: random.Random):
    """Return a random container in the content, and a random key in it, at any depth."""
    container, key = content, rng.choice(list(content) or ["images"])
    while rng.random() < 0.9:
        value = container[key] if key in range(len(container)) or isinstance(container, dict) else 0
        if isinstance(value, dict) and value:
            container, key = value, rng.choice(list(value))
        elif isinstance(value, list) and value:
            container, key = value, rng.randrange(len(value))
        else:
            break
    return container, key


def _replace(content, rng):
    container, key = _pick(content, rng)
    if isinstance(container, dict) and key not in container:
        return
    old = container[key]
    changes = [lambda: copy.deepcopy(rng.choice(BAD_VALUES))] * 4
    changes += [lambda: [old], lambda: str(old), lambda: {"value": old}]
    if type(old) in (int, float):
        changes += [
            lambda: -old,
            lambda: max(min(old, 1e300), -1e300) * 1e6,
            lambda: max(min(old, 1e300), -1e300) + rng.uniform(-3, 3),  # an int may be longer
            lambda: old + 1,
        ]
        changes += [lambda: float(max(min(old, 1e300), -1e300))]
    container[key] = rng.choice(changes)()


def _delete(content, rng):
    container, key = _pick(content, rng)
    with contextlib.suppress(KeyError):
        del container[key]


def _duplicate(content, rng):
    container, key = _pick(content, rng)
    if isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))


def _swap(content, rng):
    """Swap a field between two entries of a list."""
    entries = content.get(rng.choice(("images", "annotations", "categories")))
    if not isinstance(entries, list) or len(entries) < 2:
        return
    first, second = rng.sample(entries, 2)
    if isinstance(first, dict) and isinstance(second, dict) and first:
        key = rng.choice(list(first))
        if key in second:
            first[key], second[key] = second[key], first[key]


def _change_counts(content, rng):
    """Change, add or remove a character or number of an RLE's counts."""
    annotations = content.get("annotations")
    entries = annotations if isinstance(annotations, list) else []
    masks = [a.get("segmentation") for a in entries if isinstance(a, dict)]
    masks = [m for m in masks if isinstance(m, dict) and m.get("counts")]
    if not masks:
        return
    mask = rng.choice(masks)
    counts = mask["counts"]
    if not isinstance(counts, str | list):
        return
    at = rng.randrange(len(counts))
    if isinstance(counts, str):
        new = chr(rng.randrange(40, 120))
    else:
        new = [rng.choice([0, 1, -1, 1 << 40])]
    mask["counts"] = counts[:at] + new * rng.randrange(3) + counts[at + rng.randrange(2) :]


def check_named(file: str, error: Exception) -> None:
    assert file in str(error), f"the error does not name {file}: {error}"


def _check_entry(error: Exception) -> None:
    match = re.search(r"id -?\d|\[\d+\]|the file|no image is left", str(error))
    assert match, f"the error names no entry: {error}"


def check_split(folder: pathlib.Path) -> str:
    """Open and read a split; return `read` or `refused`, or raise if a result is wrong."""
    outcome = "refused"
    for ignored in ((), tuple(IGNORABLE)):
        try:
            source = CocoFolder(str(folder), ignore_issues=ignored).open("train")
        except (ValueError, FileNotFoundError) as error:
            check_named("train.json", error)
            _check_entry(error)
            continue
        outcome, examples = outcome if ignored else "read", {}
        for index in range(len(source)):
            try:
                example = source[index]
            except ValueError as error:  # an image of another size
                check_named("train.json", error)
                continue
            assert np.isfinite(example.boxes).all()
            assert (example.boxes[:, 2:] > example.boxes[:, :2]).all()
            assert (example.labels < len(source.categories)).all()
            for rle in example.rles:
                assert mask_api.decode(rle).shape == example.image.shape[:2]
            examples[example.image_id] = example
        truth = COCO()
        truth.dataset = source.ground_truth()
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
        for annotation in truth.dataset["annotations"]:
            assert annotation["area"] >= 0
            truth.annToMask(annotation)
        for image_id, example in examples.items():
            _check_read(example, truth, truth.imgToAnns[image_id])
    return outcome


def _check_read(example: Any, truth: COCO, annotations: list[dict]) -> None:
    """Compare the objects of an example with those of the file, as pycocotools rasterises them."""
    with_area = [a for a in annotations if a["bbox"][2] > 0 and a["bbox"][3] > 0]
    boxes = np.asarray([a["bbox"] for a in with_area], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    has_area = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1)).tolist()  # in float32 too
    np.testing.assert_array_equal(example.boxes, boxes[has_area])
    for rle, annotation in zip(example.rles, [with_area[i] for i in has_area], strict=True):
        np.testing.assert_array_equal(mask_api.decode(rle), truth.annToMask(annotation))


def run(cases: int, seed: int = 0) -> collections.Counter:
    """Mutate and check `cases` files; return how many were read and refused."""
    outcomes: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        corpus = make_corpus(folder)
        for case in range(cases):
            rng = random.Random(f"{seed} {case}")
            (folder / "train.json").write_text(mutate(rng.choice(corpus), rng), errors="replace")
            try:
                outcomes[check_split(folder)] += 1
            except Exception as error:
                error.add_note(f"case {case} of seed {seed}")
                raise
    return outcomes


def encodings(rng: np.random.Generator) -> dict[str, bytes]:
    """Return a small image in each supported format and mode, by file name."""
    pixels = rng.integers(0, 256, (9, 13, 4), np.uint8)
    colors, grey = Image.fromarray(pixels).convert("RGB"), Image.fromarray(pixels[..., 0])
    exif = Image.Exif()
    exif[274] = 6
    forms: list[tuple[Image.Image, str, dict]] = [
        (colors, "JPEG", {"exif": exif}),
        (colors.convert("CMYK"), "JPEG", {}),
        (grey, "JPEG", {}),
        (Image.fromarray(pixels), "PNG", {"exif": exif}),
        (grey.convert("1"), "PNG", {}),
        (colors.convert("P"), "PNG", {"transparency": b"\0\x7f"}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG", {}),
        (colors, "GIF", {"save_all": True, "append_images": [colors]}),
        (colors, "WEBP", {"save_all": True, "append_images": [colors.rotate(180)]}),
        (colors, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        (colors, "BMP", {}),
    ]
    encoded = {}
    for number, (image, form, options) in enumerate(forms):
        file = io.BytesIO()
        image.save(file, form, **options)
        encoded[f"{number}.{form.lower()}"] = file.getvalue()
    return encoded


def run_images(cases: int, folder: pathlib.Path, seed: int = 0) -> collections.Counter:
    """Do the same with image files: change bytes, and cut off the end."""
    outcomes: collections.Counter = collections.Counter()
    for name, valid in encodings(np.random.default_rng(seed)).items():
        for case in range(cases):
            rng = random.Random(f"{seed} {name} {case}")
            data = bytearray(valid)
            for _ in range(rng.randrange(1, 6)):
                # Half of the changes are in the first third, which holds the header.
                end = len(data) if rng.random() < 0.5 else len(data) // 3
                at = rng.randrange(end)
                data[at] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
            if rng.random() < 0.3:
                del data[rng.randrange(len(data)) :]
            path = folder / name
            path.write_bytes(data)
            try:
                pixels = read_image(path)
            except ValueError as error:
                check_named(name, error)
                outcomes["refused"] += 1
                continue
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            outcomes["read"] += 1
    return outcomes


def main() -> None:
    cases, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    logging.disable()  # of the skipped annotations
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    start = time.perf_counter()
    print(dict(run(cases, seed)), f"COCO files in {time.perf_counter() - start:.0f} s")
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        outcomes = run_images(cases // 10, pathlib.Path(name), seed)
        print(dict(outcomes), f"images in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

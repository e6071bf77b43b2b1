"""Measure the time and memory that opening annotations as large as COCO's train2017 takes.

It makes a file of 118,000 images and 860,000 annotations by repeating those of a COCO file, and
empty files instead of images, then opens the split in a new process and pickles it.

    python scripts/large_json.py shared/data/coco_mini/annotations/instances_train2017.json
"""

import argparse
import json
import pathlib
import pickle
import resource
import subprocess
import sys
import tempfile
import time

IMAGES, ANNOTATIONS = 118_000, 860_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("annotations", type=pathlib.Path, help="a COCO file to repeat")
    parser.add_argument("--open", action="store_true", help="open a folder that this script made")
    options = parser.parse_args()
    if options.open:
        measure(options.annotations)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        path = make_folder(json.loads(options.annotations.read_text()), folder)
        print(f"made {path.stat().st_size / 2**20:.0f} MiB of JSON", flush=True)
        subprocess.run([sys.executable, __file__, "--open", str(folder)], check=True)


def make_folder(content: dict, folder: pathlib.Path) -> pathlib.Path:
    """Write the folder and return its JSON, written by entry: at once it would take gigabytes."""
    images, annotations = content["images"], content["annotations"]
    by_image = {image["id"]: [] for image in images}
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    (folder / "annotations").mkdir()
    (folder / "train").mkdir()
    path = folder / "annotations" / "instances_train.json"
    copies = [dict(images[index % len(images)], id=index + 1) for index in range(IMAGES)]
    for copy in copies:
        copy["file_name"] = f"{copy['id']:012}.jpg"
        (folder / "train" / copy["file_name"]).touch()
    with path.open("w") as file:
        file.write('{"categories": ' + json.dumps(content["categories"]))
        file.write(', "images": ' + json.dumps(copies) + ', "annotations": [')
        for index, (image_id, annotation) in enumerate(repeat(images, by_image)):
            file.write(", " * (index > 0))
            file.write(json.dumps(annotation | {"id": index + 1, "image_id": image_id}))
        file.write("]}")
    return path


def repeat(images: list, by_image: dict):
    """Yield `ANNOTATIONS` pairs of the id of a copied image and an annotation of its original."""
    remaining = ANNOTATIONS
    for index in range(IMAGES):
        for annotation in by_image[images[index % len(images)]["id"]]:
            if remaining:
                yield index + 1, annotation
                remaining -= 1


def measure(folder: pathlib.Path) -> None:
    """Open and pickle the split of a folder, and print the time and memory."""
    from jaxseg.data import CocoFolder

    start = time.perf_counter()
    source = CocoFolder(str(folder)).open("train")
    opened = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = len(pickle.dumps(source))
    pickled = time.perf_counter()
    pickle.dumps(source)
    print(
        f"opened {len(source)} images in {opened - start:.1f} s, {peak:.2f} GiB at the peak; "
        f"first pickle {size / 2**20:.2f} MiB in {pickled - opened:.2f} s, "
        f"the next in {time.perf_counter() - pickled:.3f} s"
    )


if __name__ == "__main__":
    main()

"""Scenes with known masks, written as annotation tools export them."""

import base64
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

SIZE = (40, 64)
NAMES = ("cell", "dot")


class Thing(NamedTuple):
    """An object as outlines, each a list of points (x, y)."""

    category: str
    outers: list
    holes: Sequence = ()

    def bitmap(self):
        return fill(self.outers) & ~fill(self.holes)


def fill(polygons):
    if not polygons:
        return np.zeros(SIZE, bool)
    flat = [np.asarray(p, float).reshape(-1).tolist() for p in polygons]
    return mask_api.decode(mask_api.merge(mask_api.frPyObjects(flat, *SIZE))).astype(bool)


def box(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def scene(i):
    """Return an object with a hole, one of two parts, two that touch, and a slanted one."""
    return [
        Thing("cell", [box(2, 3 + i, 18, 19 + i)], [box(6, 7 + i, 12, 13 + i)]),
        Thing("dot", [box(22, 2, 29, 9 + i), box(34, 4, 41, 12)]),
        Thing("cell", [box(3, 28, 12, 38)]),
        Thing("cell", [box(12, 28, 21, 38)]),
        Thing("dot", [[(40, 20 + i), (58, 24), (50, 36)]]),
    ]


def pixels(i):
    return np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8)


def save_image(path, i):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(i)).save(path)


def bridged(thing):
    """Return one polygon for a thing: its outlines joined by lines without width."""
    outlines = [*thing.outers, *thing.holes]
    first, joined = outlines[0], list(outlines[0])
    for points in outlines[1:]:
        joined += [first[0], *points, points[0], first[0]]
    return joined


def png_base64(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- COCO ---


def coco_content(indices, file_name="{}.png"):
    images, annotations = [], []
    for i in indices:
        name = file_name.format(i)
        images.append({"id": i + 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for thing in scene(i):
            rle = mask_api.encode(np.asfortranarray(thing.bitmap(), np.uint8))
            flat = [np.asarray(p).reshape(-1).tolist() for p in thing.outers]
            text = {"size": list(SIZE), "counts": rle["counts"].decode()}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": NAMES.index(thing.category) + 1,
                    "bbox": mask_api.toBbox(rle).tolist(),
                    "area": int(mask_api.area(rle)),
                    "iscrowd": 0,
                    "segmentation": text if thing.holes else flat,
                }
            )
    categories = [{"id": i, "name": n, "supercategory": "things"} for i, n in enumerate(NAMES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_roboflow(folder, count):
    for split, indices in halves(count).items():
        split = {"val": "valid"}.get(split, split)
        content = coco_content(indices)
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        write_json(folder / split / "_annotations.coco.json", content)
        for i in indices:
            save_image(folder / split / f"{i}.png", i)


def write_cvat(folder, count):
    content = coco_content(range(count))
    for annotation in content["annotations"]:
        annotation["attributes"] = {"occluded": False}
    write_json(folder / "annotations" / "instances_default.json", content)
    for i in range(count):
        save_image(folder / "images" / "default" / f"{i}.png", i)


def write_label_studio(folder, count):
    write_json(folder / "result.json", coco_content(range(count), "images/{}.png"))
    for i in range(count):
        save_image(folder / "images" / f"{i}.png", i)


def halves(count):
    return {"train": range(count // 2), "val": range(count // 2, count)}


# --- YOLO ---


def yolo_line(thing):
    points = np.asarray(bridged(thing), float) / SIZE[::-1]
    return f"{NAMES.index(thing.category)} " + " ".join(f"{v:.6f}" for v in points.reshape(-1))


def write_yolo(folder, count):
    for split, indices in halves(count).items():
        (folder / split / "labels").mkdir(parents=True)
        for i in indices:
            save_image(folder / split / "images" / f"{i}.png", i)
            lines = [yolo_line(thing) for thing in scene(i)]
            (folder / split / "labels" / f"{i}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text(
        "train: ../train/images\nval: ../val/images\n\nnc: 2\nnames: ['cell', 'dot']\n"
    )


# --- LabelMe ---


def labelme_shapes(i):
    shapes = []
    for group, thing in enumerate(scene(i)):
        if thing.holes:
            bitmap = thing.bitmap()
            ys, xs = np.nonzero(bitmap)
            (x1, y1), (x2, y2) = (xs.min(), ys.min()), (xs.max(), ys.max())
            mask = png_base64(bitmap[y1 : y2 + 1, x1 : x2 + 1].astype(np.uint8))
            points = [[int(x1), int(y1)], [int(x2), int(y2)]]
            shapes.append(labelme_shape(thing.category, points, "mask", mask=mask))
            continue
        for part in thing.outers:
            group_id = group if len(thing.outers) > 1 else None
            points = [list(map(float, point)) for point in part]
            shapes.append(labelme_shape(thing.category, points, "polygon", group_id=group_id))
    return shapes


def labelme_shape(label, points, shape_type, **fields):
    fixed = {"label": label, "points": points, "shape_type": shape_type}
    return fixed | {"group_id": None, "description": "", "flags": {}, "mask": None} | fields


def labelme_content(i, **fields):
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": labelme_shapes(i),
        "imagePath": f"{i}.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    } | fields


def write_labelme(folder, count):
    for i in range(count):
        name = f"{'a' if i % 2 else 'b'}/{i}"
        save_image(folder / f"{name}.png", i)
        write_json(folder / f"{name}.json", labelme_content(i))


def write_labelme_embedded(folder, count):
    for i in range(count):
        data = png_base64(pixels(i))
        write_json(folder / f"{i}.json", labelme_content(i, imageData=data))


# --- VIA ---


def via2_entries(indices):
    entries = {}
    for i in indices:
        regions = []
        for thing in scene(i):
            xs, ys = map(list, zip(*bridged(thing), strict=True))
            regions.append(
                {
                    "shape_attributes": {"name": "polygon", "all_points_x": xs, "all_points_y": ys},
                    "region_attributes": {"type": thing.category},
                }
            )
        entry = {"filename": f"{i}.png", "size": 99, "regions": regions, "file_attributes": {}}
        entries[f"{i}.png99"] = entry
    return entries


def write_via2(folder, count):
    write_json(
        folder / "via_project.json",
        {
            "_via_settings": {"core": {"default_filepath": ""}},
            "_via_img_metadata": via2_entries(range(count)),
            "_via_attributes": {"region": {}, "file": {}},
        },
    )
    for i in range(count):
        save_image(folder / f"{i}.png", i)


def write_via2_by_split(folder, count):
    for split, indices in halves(count).items():
        write_json(folder / split / "via_region_data.json", via2_entries(indices))
        for i in indices:
            save_image(folder / split / f"{i}.png", i)


def write_via3(folder, count):
    content = {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "x"},
        "config": {},
        "attribute": {"1": {"aname": "kind", "type": 4, "options": {"0": "cell", "1": "dot"}}},
        "file": {str(i): {"fid": i, "fname": f"{i}.png", "src": f"{i}.png"} for i in range(count)},
        "view": {str(i): {"fid_list": [i]} for i in range(count)},
        "metadata": {
            f"{i}_{n}": {
                "vid": str(i),
                "flg": 0,
                "z": [],
                "xy": [7, *np.asarray(bridged(thing)).reshape(-1).tolist()],
                "av": {"1": str(NAMES.index(thing.category))},
            }
            for i in range(count)
            for n, thing in enumerate(scene(i))
        },
    }
    write_json(folder / "project.json", content)
    for i in range(count):
        save_image(folder / f"{i}.png", i)


def save_mask(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def near(bitmap, other):
    """Return whether two masks differ only within a pixel of the first one's boundary."""
    kernel = np.ones((3, 3), np.uint8)
    inner, outer = (f(bitmap.astype(np.uint8), kernel) for f in (cv2.erode, cv2.dilate))
    return bool(((inner <= other) & (other <= outer)).all())

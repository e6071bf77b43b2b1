"""TFDS's panoptic COCO, on a tiny dataset with the features of the real one."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from pycocotools import mask as mask_api

from jaxseg.data import Source, TfdsFolder
from jaxseg.data.coco.categories import COCO_CATEGORIES, COCO_STUFF
from jaxseg.data.panoptic import PanopticSource, thing_categories
from jaxseg.evaluation import Prediction, coco_results, evaluate

THINGS, STUFF = ([category.name for category in c] for c in (COCO_CATEGORIES, COCO_STUFF))
NAMES = STUFF[:20] + THINGS + STUFF[20:]
HEIGHT, WIDTH = 30, 50


def scene(image_id):
    """Return segments by id: label, iscrowd and mask. The ids need one, two and three bytes."""
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    disc = (yy - 12) ** 2 + (xx - 14 - image_id % 5) ** 2 < 60
    parts = (yy > 20) & ((xx < 10) | (xx > 30))
    group = (yy < 8) & (xx > 35)
    return {
        7: ("sky-other-merged", False, ~(disc | parts | group)),
        300: ("zebra", False, disc),
        70_000 + image_id: ("toothbrush", False, parts),
        16_000_000: ("person", True, group),
    }


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return io.BytesIO(file.getvalue())


def draw(image_id, segments):
    image = np.random.default_rng(image_id).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    ids = sum(segment_id * mask.astype(np.int64) for segment_id, (_, _, mask) in segments.items())
    return image, np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


class TinyPanoptic(tfds.core.GeneratorBasedBuilder):
    """The features of `coco/2017_panoptic`, as TFDS 4.9.10 writes them."""

    VERSION = tfds.core.Version("1.1.0")
    url_infos = None
    images = (1, 2, 139)
    names = NAMES
    missing_segment_id = None

    def _info(self):
        kinds = tfds.features
        objects = {
            "id": np.int64,
            "area": np.int64,
            "bbox": kinds.BBoxFeature(),
            "label": kinds.ClassLabel(num_classes=133),
            "is_crowd": np.bool_,
        }
        features = {
            "image": kinds.Image(encoding_format="jpeg"),
            "image/filename": kinds.Text(),
            "image/id": np.int64,
            "panoptic_image": kinds.Image(encoding_format="png"),
            "panoptic_image/filename": kinds.Text(),
            "panoptic_objects": kinds.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        self.info.features["panoptic_objects"]["label"].names = self.names
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        for image_id in self.images:
            segments = scene(image_id)
            image, panoptic = draw(image_id, segments)
            objects = [
                {
                    "id": segment_id,
                    "area": int(mask.sum()),
                    # Wrong on purpose: it must not be read.
                    "bbox": tfds.features.BBox(ymin=0.0, xmin=0.0, ymax=1 / 3, xmax=1 / 3),
                    "label": name,
                    "is_crowd": iscrowd,
                }
                for segment_id, (name, iscrowd, mask) in segments.items()
            ]
            if self.missing_segment_id:
                objects.append({**objects[1], "id": self.missing_segment_id})
            yield (
                image_id,
                {
                    "image": png(image),
                    "image/filename": f"{image_id:012}.jpg",
                    "image/id": image_id,
                    "panoptic_image": png(panoptic),
                    "panoptic_image/filename": f"{image_id:012}.png",
                    "panoptic_objects": objects,
                },
            )


def prepare(path, cls=TinyPanoptic):
    builder = cls(data_dir=path)
    builder.download_and_prepare(file_format="array_record")
    return TfdsFolder(str(builder.data_dir))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("panoptic")).open("val")


def test_things_are_instances_and_all_segments_are_in_the_map(source):
    assert isinstance(source, Source)
    assert isinstance(source, PanopticSource)
    assert source.split == "validation"
    assert source.categories == [*COCO_CATEGORIES, *COCO_STUFF]
    assert thing_categories(source) == list(COCO_CATEGORIES)
    assert sorted(source.image_ids) == [1, 2, 139]
    assert source.image_sizes.tolist() == [[HEIGHT, WIDTH]] * 3
    for index, image_id in enumerate(source.image_ids):
        example = source[index]
        assert example.image_id == image_id
        segments = scene(image_id)
        np.testing.assert_array_equal(example.image, draw(image_id, segments)[0])
        things = [segment for segment in segments.values() if segment[0] not in STUFF]
        labels = [source.categories[label].name for label in example.labels]
        assert labels == [name for name, _, _ in things] == ["zebra", "toothbrush", "person"]
        assert example.iscrowd.tolist() == [False, False, True]
        for rle, box, (_, _, mask) in zip(example.rles, example.boxes, things, strict=True):
            np.testing.assert_array_equal(mask_api.decode(rle).astype(bool), mask)
            rows, columns = np.nonzero(mask)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == tight
        panoptic, names = source.panoptic_map(index), [c.name for c in source.categories]
        assert [s.id for s in panoptic.segments] == list(segments)
        for segment in panoptic.segments:
            name, iscrowd, mask = segments[segment.id]
            assert (names[segment.label], segment.iscrowd) == (name, iscrowd)
            np.testing.assert_array_equal(panoptic.ids == segment.id, mask)
            assert (example.semantic[mask] == segment.label).all()


def test_ground_truth_has_ap_1(source):
    truth = source.ground_truth()
    ids = {category.name: category.id for category in COCO_CATEGORIES}
    assert {a["category_id"] for a in truth["annotations"]} == {
        ids[name] for name in ("zebra", "toothbrush", "person")
    }
    assert {a["segment_id"] for a in truth["annotations"]} >= {300, 70_139, 16_000_000}
    assert len({a["id"] for a in truth["annotations"]}) == len(truth["annotations"]) == 9
    predictions = [
        Prediction(e.image_id, e.boxes[:2], np.ones(2, np.float32), e.labels[:2], e.rles[:2])
        for e in (source[index] for index in range(3))
    ]
    metrics = evaluate(truth, coco_results(predictions, [c.id for c in source.categories]))
    for kind in ("bbox", "segm"):
        for name in ("zebra", "toothbrush"):
            assert metrics[f"{kind}/AP/{name}"] == pytest.approx(1)
        assert metrics[f"{kind}/AP/person"] is None  # only crowds
    for annotation in truth["annotations"]:
        assert annotation["area"] == mask_api.area(annotation["segmentation"])


def test_a_segment_without_pixels_is_an_error(tmp_path):
    class MissingSegment(TinyPanoptic):
        images = (5,)
        missing_segment_id = 12345

    source = prepare(tmp_path, MissingSegment).open("train")
    message = (
        r"split train: 000000000005.png: image id 5, segment id 12345 \(id\): the segment has no "
        r"pixel in the map \[segment-empty\]. Skip the image .*--data.source.ignore-image-ids 5"
    )
    for read in (lambda: source[0], lambda: source.panoptic_map(0), source.ground_truth):
        with pytest.raises(ValueError, match=message):
            read()


def test_labels_other_than_coco_are_refused(tmp_path):
    class Renamed(TinyPanoptic):
        names = tuple("lights" if name == "light" else name for name in NAMES)

    with pytest.raises(ValueError, match=r"not COCO's 80 things .* 2 differ, the first is 'light'"):
        prepare(tmp_path, Renamed).open("train")

"""COCO's categories: 80 of things, ids 1 to 90 with ten gaps, and 53 of stuff.

https://cocodataset.org; the stuff is that of the panoptic annotations.
"""

from collections.abc import Sequence

from jaxseg.data.source import Category
from jaxseg.model import ModelConfig, num_labels

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
-, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,
giraffe, -, backpack, umbrella, -, -, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, -,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, dining table, -, -, toilet, -,
tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, -,
book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""

COCO_IDS = tuple(
    Category(category_id, name.strip())
    for category_id, name in enumerate(_NAMES.split(","), start=1)
)
"""All 90 ids, with the name "-" for the gaps; torchvision's models have these classes."""

COCO_CATEGORIES = tuple(category for category in COCO_IDS if category.name != "-")
"""The 80 categories without the gaps."""

_STUFF_NAMES = """
banner, blanket, -, bridge, -, -, -, -, cardboard, -, -, -, -, -, -, counter, -, curtain, -, -,
door-stuff, -, -, -, -, -, floor-wood, flower, -, -, fruit, -, -, gravel, -, -, house, -, light, -,
-, mirror-stuff, -, -, -, -, net, -, -, pillow, -, -, platform, playingfield, -, railroad, river,
road, -, roof, -, -, sand, sea, shelf, -, -, snow, -, stairs, -, -, -, -, tent, -, towel, -, -,
wall-brick, -, -, -, wall-stone, wall-tile, wall-wood, water-other, -, window-blind, window-other,
-, -, tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged,
floor-other-merged, pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged,
food-other-merged, building-other-merged, rock-merged, wall-other-merged, rug-merged
"""

COCO_STUFF = tuple(
    Category(category_id, name.strip())
    for category_id, name in enumerate(_STUFF_NAMES.split(","), start=92)
    if name.strip() != "-"
)
"""The 53 categories of stuff, ids 92 to 200."""


def coco_categories(model: ModelConfig) -> Sequence[Category]:
    """Return COCO's categories if their number fits, since a checkpoint does not name its own."""
    number = num_labels(model)
    if number > model.num_classes:
        known: tuple[Sequence[Category], ...] = ((*COCO_CATEGORIES, *COCO_STUFF),)
    else:
        known = COCO_IDS, COCO_CATEGORIES
    for categories in known:
        if number == len(categories):
            return categories
    return [Category(label, f"class {label}") for label in range(1, number + 1)]

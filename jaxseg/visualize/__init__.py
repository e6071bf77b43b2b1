"""Pictures of instances and panoptic maps: masks, outlines, boxes and labels over an image."""

from jaxseg.visualize.comparison import draw_comparison, match_instances
from jaxseg.visualize.draw import (
    draw_instances,
    draw_prediction,
    save_picture,
    side_by_side,
    with_title,
)
from jaxseg.visualize.labels import place_labels
from jaxseg.visualize.panoptic import draw_panoptic, draw_panoptic_comparison

__all__ = [
    "draw_comparison",
    "draw_instances",
    "draw_panoptic",
    "draw_panoptic_comparison",
    "draw_prediction",
    "match_instances",
    "place_labels",
    "save_picture",
    "side_by_side",
    "with_title",
]

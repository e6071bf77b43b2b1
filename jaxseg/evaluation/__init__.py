"""Evaluation: instances and panoptic maps on the original images, COCO results, metrics, and the
report."""

from jaxseg.evaluation.coco import Metrics, coco_results, evaluate, from_coco_results
from jaxseg.evaluation.panoptic_quality import panoptic_quality
from jaxseg.evaluation.panoptic_results import (
    from_panoptic_result,
    panoptic_result,
    read_panoptic_results,
    write_panoptic_json,
    write_panoptic_png,
    write_panoptic_results,
)
from jaxseg.evaluation.predictions import Prediction, image_prediction, to_predictions
from jaxseg.evaluation.report import format_table, write_metrics

__all__ = [
    "Metrics",
    "Prediction",
    "coco_results",
    "evaluate",
    "format_table",
    "from_coco_results",
    "from_panoptic_result",
    "image_prediction",
    "panoptic_quality",
    "panoptic_result",
    "read_panoptic_results",
    "to_predictions",
    "write_metrics",
    "write_panoptic_json",
    "write_panoptic_png",
    "write_panoptic_results",
]

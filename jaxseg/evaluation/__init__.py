"""Evaluation: instances and panoptic maps on the original images, COCO results, metrics, and the
report."""

from jaxseg.evaluation.coco import Metrics, coco_results, evaluate, from_coco_results
from jaxseg.evaluation.panoptic_quality import panoptic_quality
from jaxseg.evaluation.predictions import Prediction, to_predictions
from jaxseg.evaluation.report import format_table, write_metrics

__all__ = [
    "Metrics",
    "Prediction",
    "coco_results",
    "evaluate",
    "format_table",
    "from_coco_results",
    "panoptic_quality",
    "to_predictions",
    "write_metrics",
]

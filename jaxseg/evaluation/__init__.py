"""Evaluation: predictions on the original images, COCO results and metrics, and the report."""

from jaxseg.evaluation.coco import Metrics, coco_results, evaluate, from_coco_results
from jaxseg.evaluation.predictions import Prediction, to_predictions
from jaxseg.evaluation.report import format_table, write_metrics

__all__ = [
    "Metrics",
    "Prediction",
    "coco_results",
    "evaluate",
    "format_table",
    "from_coco_results",
    "to_predictions",
    "write_metrics",
]

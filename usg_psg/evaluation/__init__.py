"""SGDet evaluation: metrics on arrays, a Detectron2 evaluator around them, prediction files."""

from .formats import EXPORT_FORMATS, open_writer, read_predictions
from .frequency_baseline import TrainingTriplets
from .inputs import GroundTruth, Prediction
from .novel_names import NovelNames
from .protocols import PROTOCOLS, Protocol
from .sgdet_evaluator import SGDetEvaluator
from .sgdet_metrics import SGDetMetrics, SGDetResults

__all__ = [
    "EXPORT_FORMATS",
    "PROTOCOLS",
    "GroundTruth",
    "NovelNames",
    "Prediction",
    "Protocol",
    "SGDetEvaluator",
    "SGDetMetrics",
    "SGDetResults",
    "TrainingTriplets",
    "open_writer",
    "read_predictions",
]

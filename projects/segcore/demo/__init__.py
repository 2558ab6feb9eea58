"""Prediction on photos: the parts of ``demo.py``."""

from segcore.demo.batch import collect_photos, exit_on_termination, predict_photos
from segcore.demo.output import check_output, has_results
from segcore.demo.photos import find_photos
from segcore.demo.predictor import DemoError, PhotoPredictor
from segcore.demo.results import ResultWriter
from segcore.demo.videos import predict_videos

__all__ = [
    "DemoError",
    "PhotoPredictor",
    "ResultWriter",
    "check_output",
    "collect_photos",
    "exit_on_termination",
    "find_photos",
    "has_results",
    "predict_photos",
    "predict_videos",
]

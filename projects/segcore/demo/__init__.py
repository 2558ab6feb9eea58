"""Prediction on photos: what ``demo.py`` is made of."""

from segcore.demo.photos import find_photos, read_photo
from segcore.demo.predictor import DemoError, PhotoPredictor
from segcore.demo.results import ResultWriter

__all__ = ["DemoError", "PhotoPredictor", "ResultWriter", "find_photos", "read_photo"]

"""Prediction on photos and videos: the parts of ``segcore predict``."""

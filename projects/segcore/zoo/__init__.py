"""Published weights by name: what there is, and the download of a file into the cache.

A system offers its own as ``zoo.json`` in its package. Imports neither PyTorch nor Detectron2.
"""

from segcore.zoo.cache import PREFIX, cached_file, fetch
from segcore.zoo.models import PublishedModel, find_model, list_models, published_models

__all__ = [
    "PREFIX",
    "PublishedModel",
    "cached_file",
    "fetch",
    "find_model",
    "list_models",
    "published_models",
]

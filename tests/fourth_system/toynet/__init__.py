"""A segmentation system in a package of its own, as small as one can be."""

from pathlib import Path

from segcore.quickstart import register_quickstart
from toynet import backbone, mapper, meta_arch  # noqa: F401 registers them

register_quickstart("toynet", Path(__file__).with_name("quickstart.yaml"))

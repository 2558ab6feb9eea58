"""What the segmentation projects share: operators, layers, backbones, data, training, evaluation.

Importing this package, or ``segcore.ops``, needs nothing but PyTorch.
"""

__version__ = "0.1.0"

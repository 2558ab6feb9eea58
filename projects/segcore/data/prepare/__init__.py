"""Preparation of published data sets: what the configurations need besides the downloads.

    python -m segcore.data.prepare coco|ade20k|cityscapes|mapillary --root DIR

What is there stays, so that the command can be repeated. The page is ``docs/datasets.md``.
"""

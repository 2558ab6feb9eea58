"""Conversion of annotations of other formats into COCO panoptic format.

    python -m segcore.data.convert SOURCE... --from FORMAT --images DIR --output DIR

A reader of :mod:`segcore.data.convert.formats` lists the photos of a format and reads the
annotation of each; :mod:`~segcore.data.convert.painting` makes a panoptic map of it, in which every
pixel has one segment; :mod:`~segcore.data.convert.writer` writes PNGs, JSON and a config. The page
is ``docs/convert.md``.
"""

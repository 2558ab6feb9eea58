"""The readers, one module a format; importing this package registers them."""

from segcore.data.convert.formats import (  # noqa: F401
    ade20k,
    cityscapes,
    coco,
    labelme,
    mapillary,
    semantic,
    voc,
    yolo,
)

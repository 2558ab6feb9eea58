"""The formats. A module here reads each; it is imported when a source of its format is read."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from segcore.data.convert.source import Request, Source


class Format(NamedTuple):
    """A format of annotations.

    Attributes:
        reader: "module:function" that lists a source.
        description: of the sources, for ``--help``.
    """

    reader: str
    description: str

    def read(self, request: "Request") -> "Source":
        """List a source.

        Raises:
            DataError: there is nothing to list.
        """
        return resolve_name(self.reader)(request)


FORMATS = {
    name: Format(f"{__name__}.{name}:read_{name}", description)
    for name, description in {
        "ade20k": "ADEChallengeData2016, with annotations (and annotations_instance)",
        "cityscapes": "folder with gtFine (and leftImg8bit)",
        "coco": "instances JSONs, or a folder of <split>/_annotations.coco.json",
        "labelme": "JSONs of LabelMe, or folders of them",
        "mapillary": "folder with training, validation and config.json",
        "semantic": "folders of PNGs with the names of the photos; needs --classes",
        "voc": "folder with SegmentationClass (and SegmentationObject, ImageSets)",
        "yolo": "data.yaml, or its folder",
    }.items()
}

"""Arguments of ``segcore predict`` and ``demo.py``."""

import argparse
import re
import sys
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from segcore.cli.values import positive
from segcore.text import printable

# A section and a key; photos are not called so, and those that are can be written ./NAME.
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
WHOLE = (1, 1)  # shard
NUMBER = re.compile(r"-?\d+")


class PredictionParser(argparse.ArgumentParser):
    """Parser of the arguments; photos may stand before, between and after all options."""

    def __init__(self):
        super().__init__(
            description="Segment photos: overlays, COCO panoptic PNG and JSON, a table of "
            "segments for every photo.",
            epilog="A line on standard error names each photo that failed. Exit code: 0 if all "
            "photos are done, 1 if one failed, 2 for wrong arguments or configurations.",
            allow_abbrev=False,
        )
        self.add_argument(
            "photos",
            nargs="*",
            help="photos, patterns such as 'a/**/*.jpg', or folders of photos; video files and "
            "webcam:0, whose segments are tracked; for a model of videos: video files, or a "
            "folder of frames for each video",
        )
        self.add_argument(
            "--config-file",
            metavar="FILE",
            help="YAML file, or the name of one that comes with this package; weights that our "
            "training wrote carry theirs",
        )
        self.add_argument(
            "--weights",
            metavar="FILE",
            help="file, zoo:// name, URL, or folder of a training; default: MODEL.WEIGHTS",
        )
        self.add_argument("--output", required=True, metavar="DIR")
        self.add_argument(
            "--score-threshold",
            type=share,
            default=0.5,
            metavar="SCORE",
            help="of instances; default %(default)s",
        )
        self.add_argument(
            "--show-focus",
            action="store_true",
            help="draw where the tokens stay (backbones that choose tokens)",
        )
        self.add_argument(
            "--show-attention",
            nargs="*",
            action="append",
            metavar="QUERY",
            help="draw what these queries, or those of the best segments, look at "
            "(models that show the attention of their mask decoders)",
        )
        self.add_argument(
            "--tile",
            type=positive,
            metavar="PIXELS",
            help="predict larger photos in tiles of this side, and join their segments",
        )
        self.add_argument(
            "--overlap",
            type=positive,
            default=128,
            metavar="PIXELS",
            help="that neighboring tiles share at least; default %(default)s",
        )
        self.add_argument(
            "--batch",
            type=positive,
            default=1,
            metavar="N",
            help="photos that the model takes at once; smaller ones are padded to the largest",
        )
        self.add_argument(
            "--shard",
            type=shard,
            default=WHOLE,
            metavar="I/N",
            help="predict every Nth photo only, from the Ith on; each shard has its own --output, "
            "which segcore merge joins",
        )
        self.add_argument(
            "--resume",
            action="store_true",
            help="go on with an interrupted run: skip photos and videos that are done",
        )
        self.add_argument(
            "--every",
            type=positive,
            default=1,
            metavar="N",
            help="videos: predict each Nth frame only; the overlay shows these",
        )
        self.add_argument(
            "--save-png",
            action="store_true",
            help="videos: write a panoptic PNG of each frame",
        )
        self.add_argument("--device", help="cpu, cuda, cuda:1; default: MODEL.DEVICE, or the CPU")
        self.add_argument(
            "--opts",
            nargs="*",
            action="append",
            default=[],
            metavar="KEY VALUE",
            help="settings of the config; what follows the last pair is photos",
        )

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """Parse; take what follows the values of ``--opts`` and ``--show-attention`` for photos."""
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        parsed = self.parse_intermixed_args(args[:end], namespace)
        parsed.photos += args[end + 1 :]
        settings = []
        for values in parsed.opts:
            end = 0
            while end < len(values) and is_config_key(values[end]):
                end += 2
            if end > len(values):
                self.error(f"--opts: the value of {printable(values[-1])} is missing")
            settings += values[:end]
            parsed.photos += values[end:]
        parsed.opts = settings
        if parsed.show_attention is not None:
            queries = []
            for values in parsed.show_attention:
                indices = list(takewhile(NUMBER.fullmatch, values))
                queries += map(int, indices)
                parsed.photos += values[len(indices) :]
            parsed.show_attention = queries
        if parsed.tile is not None and parsed.overlap > parsed.tile // 2:
            self.error(
                f"--overlap: expected at most half of --tile {parsed.tile}, got {parsed.overlap}"
            )
        if not parsed.output:
            self.error("--output: expected a folder, got ''")
        if not all(parsed.photos):
            self.error("photos: expected names, got ''")
        if not parsed.photos:
            self.error("photos: expected at least one photo or folder")
        return parsed


def share(text: str) -> float:
    """Parse a number in [0, 1]."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"expected a number in [0, 1], got {printable(text)}")


def shard(text: str) -> tuple[int, int]:
    """Parse I/N with 1 <= I <= N."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"expected such as 1/8 to 8/8, got {printable(text)}")
    return number, count


def is_config_key(text: str) -> bool:
    return CONFIG_KEY.fullmatch(text) is not None and not Path(text).exists()

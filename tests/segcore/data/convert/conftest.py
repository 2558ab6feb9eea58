"""Photos drawn for the converters, and the command with a check of what it writes."""

from pathlib import Path

import numpy as np
import pytest

from convert_inputs import PHOTOS, Converted, save
from segcore.cli.convert import build_parser
from segcore.data.convert.program import main


@pytest.fixture
def images(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in PHOTOS.items():
        save(rng.integers(0, 256, (*size, 3), dtype=np.uint8), tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.fixture
def convert(tmp_path, capsys):
    """A function that runs the command and checks its output; returns a :class:`Converted`."""

    def convert(*arguments: object, images: Path, expected_code: int = 0) -> Converted:
        output = tmp_path / "output"
        arguments = [*map(str, arguments), "--images", str(images), "--output", str(output)]
        code = main(build_parser().parse_args(arguments))
        printed = capsys.readouterr().out
        assert code == expected_code, printed
        converted = Converted(output, images, code, printed)
        converted.assert_sound()
        return converted

    return convert

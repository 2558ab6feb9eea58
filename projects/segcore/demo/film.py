"""Results of a video in parts, each of them complete, so that an interrupted run can go on."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segcore.data.json_file import read_json
from segcore.errors import ConfigError, DataError
from segcore.files import atomic_file, write_bytes, write_json
from segcore.text import printable, short_repr
from segcore.video import VideoWriter, join_videos

STATE_FILE = "state.json"


class FilmPart:
    """A part that is being written.

    Attributes:
        start: time of its first frame in seconds, None without frames.
        lines: a JSON object of each frame.
        state: what the next part needs, as JSON has it; to be set.
    """

    def __init__(self, writer: VideoWriter):
        self.start: float | None = None
        self.lines: list[str] = []
        self.state: Any = None
        self._writer = writer

    def add(self, time: float, drawing: np.ndarray, record: Mapping[str, Any]) -> None:
        """Append a frame: its time in the video, (H, W, 3) uint8 RGB, and what is known of it."""
        if self.start is None:
            self.start = time
        self._writer.write(drawing, time - self.start)
        self.lines.append(json.dumps(record) + "\n")


class PartialFilm:
    """Overlay and records of a video until they are complete, in a folder of their own.

    It holds ``0.mp4``, ``0.jsonl``, ``1.mp4``, ... and ``state.json``, which names the settings,
    tells how many parts are complete, and what the next part needs. Each file is written
    atomically, the state last, so that nothing incomplete is ever taken for a part.

    Args:
        folder: made with the first part.
        settings: of the run, as JSON has them; one with other settings cannot go on.

    Attributes:
        state: of the last complete part, None without.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.settings = dict(settings)
        self.state: Any = None
        self._starts: list[float] = []

    @property
    def exists(self) -> bool:
        """Whether there are complete parts, of this run or an interrupted one."""
        return (self.folder / STATE_FILE).exists()

    def restore(self) -> None:
        """Read what is known of the parts of an interrupted run.

        Raises:
            ConfigError: the parts were made with other settings.
            DataError: the folder is damaged.
        """
        path = self.folder / STATE_FILE
        content = read_json(path)
        try:
            settings, starts, state = (content[key] for key in ("settings", "starts", "state"))
            starts, settings = [float(start) for start in starts], dict(settings)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"{printable(path)}: is damaged, remove the folder: {short_repr(error)}"
            ) from error
        for name in sorted(self.settings.keys() | settings.keys()):
            before, now = settings.get(name), self.settings.get(name)
            if before != now:
                raise ConfigError(
                    f"--resume: {printable(self.folder)} was made with {printable(name)} "
                    f"{short_repr(before)}, expected the same, got {short_repr(now)}"
                )
        self._starts, self.state = starts, state

    @contextmanager
    def part(self, rate: float) -> Iterator[FilmPart]:
        """Yield the next part to fill; it is complete when the context is left without an error."""
        index = len(self._starts)
        with VideoWriter(self._overlay(index), rate) as writer:
            part = FilmPart(writer)
            yield part
        if part.start is None:
            return
        write_bytes("".join(part.lines).encode(), self._records(index))
        self._starts.append(part.start)
        self.state = part.state
        content = {"settings": self.settings, "starts": self._starts, "state": self.state}
        write_json(content, self.folder / STATE_FILE)

    def finish(self, overlay: Path, records: Path) -> None:
        """Join the parts into a film and a file of JSON lines, and remove them."""
        indices = range(len(self._starts))
        with atomic_file(records) as file:
            for index in indices:
                with open(self._records(index), "rb") as part:
                    shutil.copyfileobj(part, file)
        join_videos(list(zip(self._starts, map(self._overlay, indices), strict=True)), overlay)
        shutil.rmtree(self.folder)

    def _overlay(self, index: int) -> Path:
        return self.folder / f"{index}.mp4"

    def _records(self, index: int) -> Path:
        return self.folder / f"{index}.jsonl"

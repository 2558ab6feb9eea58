"""Published weights in the cache, downloaded once; ``zoo://`` in paths of checkpoints."""

import sys
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from iopath.common.file_io import PathHandler, get_cache_dir

from segcore.errors import CheckpointError
from segcore.zoo.download import DownloadError, download
from segcore.zoo.models import PublishedModel, find_model

PREFIX = "zoo://"


def cached_file(model: PublishedModel) -> Path:
    """Return the place of a model's file, where Detectron2 puts downloads of its address, too.

    It lies in ``$FVCORE_CACHE``, by default ``~/.torch/iopath_cache``.
    """
    return Path(get_cache_dir(), unquote(urlsplit(model.url).path).lstrip("/"))


def fetch(model: PublishedModel) -> Path:
    """Return the file of a model; download it first if it is not in the cache.

    The licence of the weights is printed with the download.

    Raises:
        CheckpointError: it cannot be downloaded; names the address and where to put the file.
        OutputError: the cache cannot be written.
    """
    path = cached_file(model)
    if path.is_file():
        return path
    print(f"{model.name}: licence of the weights: {model.licence}", file=sys.stderr)
    try:
        download(model.url, path)
    except DownloadError as error:
        raise CheckpointError(
            f"{model.name}: {model.url} cannot be downloaded: {error}\n"
            f"Get the file by other means and put it at {path}"
        ) from error
    return path


class ZooPathHandler(PathHandler):
    """Paths such as ``zoo://mask2former/coco/panoptic/r50``, for Detectron2's ``PathManager``."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        return str(fetch(find_model(path.removeprefix(PREFIX))))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> IO:
        return open(self._get_local_path(path), mode, buffering)

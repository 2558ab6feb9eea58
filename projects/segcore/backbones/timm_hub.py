"""Published weights of timm by name: ``MODEL.WEIGHTS: "timm://convnext_tiny.in12k_ft_in1k"``."""

from typing import Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from segcore.errors import CheckpointError
from segcore.requirements import require_timm
from segcore.text import printable

PREFIX = "timm://"
FILES = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has


class TimmWeights(PathHandler):
    """The file of a model of timm in the cache of the Hugging Face hub; fetched if it is missing.

    A model without a tag means the tag that is the default in timm.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        """Return the local file.

        Raises:
            CheckpointError: there are no such weights, or they can neither be found nor fetched.
        """
        repository, files = _location(path.removeprefix(PREFIX))
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        cached = (try_to_load_from_cache(repository, file) for file in files)
        if found := next((file for file in cached if isinstance(file, str)), None):
            return found
        for file in files:
            try:
                return hf_hub_download(repository, file)
            except LocalEntryNotFoundError as error:
                reason = error
                break
            except EntryNotFoundError as error:
                reason = error
            except Exception as error:  # of the network, in any of its layers
                reason = error
                break
        raise CheckpointError(
            f"{printable(path)}: not in the cache of the Hugging Face hub, and cannot be fetched "
            f"({type(reason).__name__}). Download {files[0]} of its repository {repository} on a "
            "machine with network, and give the file as MODEL.WEIGHTS"
        ) from reason


def _location(name: str) -> tuple[str, tuple[str, ...]]:
    """Return repository and possible files of a model's weights on the hub."""
    require_timm()
    import timm

    if not timm.is_model(name):
        raise CheckpointError(f"{PREFIX}{printable(name)}: timm has no model of this name")
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.hf_hub_id:
        tags = ", ".join(timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)[:5])
        raise CheckpointError(
            f"{PREFIX}{printable(name)}: timm names no weights on the Hugging Face hub"
            + (f"; there are {tags}" if tags else "")
        )
    return published.hf_hub_id, (
        (published.hf_hub_filename,) if published.hf_hub_filename else FILES
    )


PathManager.register_handler(TimmWeights(), allow_override=True)

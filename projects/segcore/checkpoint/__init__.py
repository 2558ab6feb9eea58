"""Checkpoints: safe reading of every usual format, a report of every entry, class names."""

from segcore.checkpoint.checkpointer import CONFIG_KEY, SafeCheckpointer
from segcore.checkpoint.files import local_file, read_checkpoint, write_checkpoint
from segcore.checkpoint.folder import last_checkpoint
from segcore.checkpoint.metadata import class_metadata, plain_metadata, use_class_metadata
from segcore.checkpoint.names import Renaming, rename_on_load
from segcore.checkpoint.report import LoadReport
from segcore.errors import UnsafeCheckpointError

__all__ = [
    "CONFIG_KEY",
    "LoadReport",
    "Renaming",
    "SafeCheckpointer",
    "UnsafeCheckpointError",
    "class_metadata",
    "last_checkpoint",
    "local_file",
    "plain_metadata",
    "read_checkpoint",
    "rename_on_load",
    "use_class_metadata",
    "write_checkpoint",
]

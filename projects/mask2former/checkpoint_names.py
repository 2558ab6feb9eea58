"""Names of older official checkpoints, and how they are read as ours.

Everything else has its official name here too, so this is the one place that renames.
"""

from collections.abc import Iterable

HEAD = "sem_seg_head."


def rename_official(names: Iterable[str], head: str = HEAD) -> dict[str, str]:
    """Old name -> our name, of those state-dict ``names`` that differ.

    - ``static_query`` of the published files is ``query_feat``, whatever version they carry.
    - MaskFormer (version 1) had the pixel decoder's entries in ``sem_seg_head`` itself. Names in
      ``sem_seg_head.pixel_decoder`` are left alone, so that files without version metadata load.

    Args:
        head: what the names of the head's entries start with.
    """
    renamed = ((name, _current_name(name, head)) for name in names)
    return {old: new for old, new in renamed if old != new}


def _current_name(name: str, head: str) -> str:
    name = name.replace("static_query", "query_feat")
    pixel_decoder, predictor = f"{head}pixel_decoder.", f"{head}predictor."
    if name.startswith(head) and not name.startswith((pixel_decoder, predictor)):
        name = pixel_decoder + name.removeprefix(head)
    return name

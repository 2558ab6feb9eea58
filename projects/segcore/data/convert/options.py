"""What the user decides: which classes are things, and which photos are of which split."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from segcore.data.convert.source import AnnotatedPhoto, SourceClass
from segcore.data.panoptic_format import Category
from segcore.errors import ConfigError, DataError
from segcore.text import did_you_mean, printable, short_repr

DEFAULT_SPLIT = "train"


def to_categories(
    classes: Sequence[SourceClass],
    *,
    things: Sequence[str] | None = None,
    stuff: Sequence[str] | None = None,
    things_by_default: bool = True,
) -> list[Category]:
    """Return the categories of the panoptic JSON.

    Args:
        things: names of the things; all others are stuff.
        stuff: names of the stuff; all others are things.
        things_by_default: for classes of which neither these nor the format say what they are.

    Raises:
        ConfigError: a name is no class.
        DataError: two classes have one name.
    """
    names = [class_.name for class_ in classes]
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{count} classes are named {short_repr(name)}: rename one")
    for option, listed in (("--things", things), ("--stuff", stuff)):
        for name in listed or ():
            if name not in names:
                raise ConfigError(
                    f"{option}: no class is named {short_repr(name)}{did_you_mean(name, names)}"
                )
    categories: list[Category] = []
    for class_ in classes:
        if things is not None:
            is_thing = class_.name in things
        elif stuff is not None:
            is_thing = class_.name not in stuff
        else:
            is_thing = things_by_default if class_.is_thing is None else class_.is_thing
        category: Category = {"id": class_.id, "name": class_.name, "isthing": int(is_thing)}
        if class_.color:
            category["color"] = list(class_.color)
        categories.append(category)
    return categories


@dataclass(frozen=True)
class SplitShare:
    """A split and its share of the photos, 0 to 1."""

    name: str
    share: float


def parse_splits(texts: Sequence[str]) -> list[SplitShare]:
    """Parse texts such as "val=0.2".

    Raises:
        ConfigError: a text is of another form, or the shares are more than all photos.
    """
    splits = []
    for text in texts:
        name, _, share = text.partition("=")
        try:
            splits.append(SplitShare(name, float(share)))
        except ValueError as error:
            raise _split_error(text) from error
        if not (name.isidentifier() and 0 < splits[-1].share < 1) or name == DEFAULT_SPLIT:
            raise _split_error(text)
    if len({split.name for split in splits}) < len(splits):
        raise ConfigError(f"--split: a name is given twice: {printable(' '.join(texts))}")
    if sum(split.share for split in splits) >= 1:
        raise ConfigError(f"--split: nothing is left for {DEFAULT_SPLIT}: lower the shares")
    return splits


def _split_error(text: str) -> ConfigError:
    return ConfigError(
        f"--split: expected a name and its share of the photos between 0 and 1, such as val=0.2, "
        f"got {short_repr(text)}"
    )


def assign_splits(
    photos: Sequence[AnnotatedPhoto], shares: Sequence[SplitShare]
) -> dict[str, list[AnnotatedPhoto]]:
    """Return split -> photos, in the order of their names.

    Photos are dealt out in the order of a hash of their names, so that the same photos give the
    same splits everywhere; those without share are "train".

    Raises:
        ConfigError: the source has splits of its own, and shares are given too.
    """
    own_splits = sorted({photo.split for photo in photos if photo.split})
    if own_splits and shares:
        raise ConfigError(
            f"--split: the source has the splits {printable(', '.join(own_splits))}: leave it out"
        )
    shuffled = sorted(photos, key=lambda photo: hashlib.sha256(photo.file_name.encode()).digest())
    assigned: dict[str, list[AnnotatedPhoto]] = {DEFAULT_SPLIT: []}
    start = 0
    for split in shares:
        end = start + max(1, round(split.share * len(photos)))
        assigned[split.name] = shuffled[start:end]
        start = end
    for photo in shuffled[start:]:
        assigned.setdefault(photo.split or DEFAULT_SPLIT, []).append(photo)
    return {
        name: sorted(members, key=lambda photo: photo.file_name)
        for name, members in assigned.items()
        if members
    }

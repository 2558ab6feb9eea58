"""Going on with an interrupted run of ``segcore predict``."""

from collections.abc import Sequence
from pathlib import Path

from segcore.data.panoptic_format import Category
from segcore.demo.names import utf8
from segcore.demo.result_files import PHOTOS_FILE, Results, Run, read_results
from segcore.errors import ConfigError
from segcore.text import printable


def earlier_results(folder: str | Path, run: Run, categories: Sequence[Category]) -> Results | None:
    """Return the results of an earlier run in ``folder``, to which ``run`` adds; None of none.

    A photo whose panoptic PNG is gone is left out.

    Raises:
        ConfigError: the earlier run was another shard, or had other settings or classes.
        DataError: its files are damaged.
    """
    if not Path(folder, PHOTOS_FILE).exists():
        return None
    results = read_results(folder)
    where = f"--resume: {printable(folder)}"
    if results.run.shard != run.shard:
        raise ConfigError(f"{where}: expected {results.run.name}, as before, got {run.name}")
    for name, value in run.settings.items():
        before = results.run.settings.get(name)
        if before != value:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{where}: expected {option} {printable(before)}, as before, got {printable(value)}"
            )
    if results.categories != list(categories):
        raise ConfigError(f"{where}: expected a model of the same classes as before")
    gone = {
        annotation["image_id"]
        for annotation in results.annotations
        if not Path(folder, "panoptic", str(annotation.get("file_name"))).exists()
    }
    for records, key in (
        (results.images, "id"),
        (results.annotations, "image_id"),
        (results.instances or [], "image_id"),
    ):
        records[:] = [record for record in records if record[key] not in gone]
    return results


def photos_to_do(photos: Sequence[Path], earlier: Results | None) -> list[Path]:
    """Return the photos that ``earlier`` does not have, by the names that were given."""
    done = {image["file_name"] for image in earlier.images} if earlier else set()
    return [photo for photo in photos if utf8(photo) not in done]

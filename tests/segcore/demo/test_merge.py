"""Results of shards: what is joined, what is refused, what is done again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segcore.cli import run_command
from segcore.demo.merge import merge
from segcore.demo.result_files import Run, read_results
from segcore.demo.results import ResultWriter
from segcore.demo.resume import earlier_results, photos_to_do
from segcore.errors import ConfigError, DataError

CATEGORIES = [{"id": 187, "name": "sky", "isthing": 0, "color": [0, 0, 255]}]
PHOTO = np.full((8, 12, 3), 100, np.uint8)
SKY = (torch.ones(8, 12, dtype=torch.int32), [{"id": 1, "isthing": False, "category_id": 0}])


def predict(
    folder: Path, shard=(1, 2), names=("a.jpg",), *, listed=2, finished=True, **settings
) -> Path:
    """Write the results of a shard."""
    run = Run(shard, listed, {"weights": "x.pth", **settings})
    writer = ResultWriter(folder, CATEGORIES, 0.5, run)
    for name in names:
        writer.add(Path(name), PHOTO, {"panoptic_seg": SKY})
    writer.finish(finished=finished)
    return folder


def test_photos_are_in_the_order_of_the_list(tmp_path):
    odd = predict(tmp_path / "1", (1, 2), ["x/a.jpg", "x/c.jpg"], listed=4)
    even = predict(tmp_path / "2", (2, 2), ["y/a.jpg"], listed=4)
    run, done = merge([even, odd], tmp_path / "all")
    assert (run.listed, run.finished, done) == (4, True, 3)  # one photo has failed
    merged = read_results(tmp_path / "all")
    images = [(image["id"], image["file_name"], image["name"]) for image in merged.images]
    assert images == [(1, "x/a.jpg", "a"), (2, "y/a.jpg", "a_2"), (3, "x/c.jpg", "c")]
    pictures = [path.name for path in sorted((tmp_path / "all/panoptic").iterdir())]
    assert pictures == sorted(annotation["file_name"] for annotation in merged.annotations)
    assert merged.instances is None


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([{}], "expected all 2 shards, missing 2/2"),
        ([{"listed": 3, "finished": False}], r"not finished: shard 1/2 in .*1 \(1 of 2\); run"),
        ([{}, {}], "shard 1/2 twice, in .*1 and .*2"),
        ([{}, {"shard": (2, 2)}], "file_name a.jpg: in .*1 and again in .*2"),
        ([{}, {"shard": (2, 4), "names": ()}], "number of shards: expected 2, as .* has, got 4"),
        ([{}, {"shard": (2, 2), "listed": 3}], "number of listed photos: expected 2, .* got 3"),
        ([{}, {"shard": (2, 2), "weights": "y.pth"}], "weights: expected x.pth, .* got y.pth"),
    ],
)
def test_shards_that_do_not_make_a_whole(tmp_path, shards, message):
    folders = [predict(tmp_path / str(n), **shard) for n, shard in enumerate(shards, start=1)]
    with pytest.raises(DataError, match=message):
        merge(folders, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_what_is_there_can_be_joined(tmp_path):
    folder = predict(tmp_path / "1", finished=False)
    run, done = merge([folder], tmp_path / "all", partial=True)
    assert (run.finished, done) == (False, 1)


def test_a_picture_that_is_gone_is_named_and_predicted_again(tmp_path):
    folder = predict(tmp_path / "1", (1, 1), ["a.jpg", "b.jpg"])
    (folder / "panoptic/a.png").unlink()
    with pytest.raises(DataError, match=r"the PNG of a\.jpg is missing; run shard 1/1 again"):
        merge([folder], tmp_path / "all")
    earlier = earlier_results(folder, Run((1, 1), 2, {"weights": "x.pth"}), CATEGORIES)
    assert photos_to_do([Path("a.jpg"), Path("b.jpg")], earlier) == [Path("a.jpg")]


def test_json_files_of_a_killed_run_agree(tmp_path):
    """The others may be newer than the list of photos that are done, which is the last one."""
    folder = predict(tmp_path / "1", (1, 1), ["a.jpg"])
    before = (folder / "photos.json").read_text()
    predict(folder, (1, 1), ["a.jpg", "b.jpg"])
    (folder / "photos.json").write_text(before)
    run = Run((1, 1), 2, {"weights": "x.pth"})
    earlier = earlier_results(folder, run, CATEGORIES)
    assert [annotation["image_id"] for annotation in earlier.annotations] == [1]
    writer = ResultWriter(folder, CATEGORIES, 0.5, run, earlier)
    writer.add(Path("b.jpg"), PHOTO, {"panoptic_seg": SKY})
    assert [image["id"] for image in read_results(folder).images] == [1, 2]


@pytest.mark.parametrize(
    ("run", "categories", "message"),
    [
        (Run((2, 2)), CATEGORIES, "expected shard 1/2, as before, got shard 2/2"),
        (Run((1, 2), 2, {"weights": 7}), CATEGORIES, "expected --weights x.pth, as before, got 7"),
        (Run((1, 2)), [], "a model of the same classes as before"),
    ],
)
def test_another_run_is_not_resumed(tmp_path, run, categories, message):
    folder = predict(tmp_path / "1")
    with pytest.raises(ConfigError, match=message):
        earlier_results(folder, run, categories)
    assert earlier_results(tmp_path, run, categories) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "photos.json: cannot be read: No such file"),
        ({"shard": [0]}, r"photos.json: shard: expected \[i, n\], got \[0\]"),
        ({"listed": "2"}, "photos.json: listed: expected int, got '2'"),
        ({"images": [{"id": 1}]}, "photos.json: file_name: expected str, got None"),
    ],
)
def test_damaged_files(tmp_path, capsys, changes, message):
    folder = predict(tmp_path / "1")
    path = folder / "photos.json"
    if changes is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=message):
        merge([folder], tmp_path / "all")
    assert run_command("merge", [str(folder), "--output", str(folder)]) == 2
    assert "expected a new folder" in capsys.readouterr().err

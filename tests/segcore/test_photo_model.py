"""segcore.load: names, folders and files; results of the predictor; threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import segcore
from segcore.errors import CheckpointError, ConfigError, ImageError
from segcore.zoo import cached_file, find_model
from segcore.zoo.download import DownloadError
from trained_folder import train

NAME = "mask2former/coco/panoptic/r50"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def model(trained):
    return segcore.load(trained, device="cpu")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (45, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_every_kind_of_photo_gives_the_results_of_the_predictor(model, photo):
    expected = model.predictor.predict_compact(photo)
    rgb = np.asarray(Image.open(photo))
    kinds = [photo, str(photo), rgb[:, :, ::-1], Image.open(photo)]
    results = [*model(kinds), model(torch.from_numpy(rgb.copy()).permute(2, 0, 1))]
    for result in results:
        assert np.array_equal(result.photo, rgb)
        assert np.array_equal(result.panoptic, expected["panoptic_seg"][0])
        assert np.array_equal(result.semantic, expected["semantic_map"])
        assert [i.score for i in result.instances] == expected["instances"].scores.tolist()
    assert results[0].path == photo


def test_list_of_mixed_sizes_in_threads(model):
    photos = [np.full((30 + i, 60, 3), 40 * i, np.uint8) for i in range(4)]
    expected = model(photos)
    assert [result.panoptic.shape for result in expected] == [(30 + i, 60) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for result, other in zip(pool.map(model, photos), expected, strict=True):
            assert np.array_equal(result.panoptic, other.panoptic)
    assert model([]) == []


def test_tiles(model):
    large, small = np.zeros((40, 90, 3), np.uint8), np.full((30, 40, 3), 80, np.uint8)
    tiled, same = model([large, small], tile=60, overlap=20)
    assert tiled.panoptic.shape == (40, 90)
    assert {s.id: s.area for s in tiled.segments} == {
        number: (tiled.panoptic == number).sum() for number in np.unique(tiled.panoptic) if number
    }
    assert np.array_equal(same.panoptic, model(small).panoptic)


def test_settings(trained, photo):
    made = segcore.load(
        trained / "config.yaml",
        trained,
        batch_size=3,
        precision="bfloat16",
        options=["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"],
    )
    test = made.predictor.cfg.TEST
    assert (test.IMS_PER_BATCH, test.PRECISION) == (3, "bfloat16")
    assert made(photo).panoptic is None
    assert repr(made) == "PhotoModel(MaskFormer, 3 classes, on cpu)"


def test_name_of_a_published_model(monkeypatch, tmp_path):
    """The weights are those of the cache, and the configuration that of the name."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    asked = []

    def download(url, path):
        asked.append((url, path))
        raise DownloadError("no network")

    monkeypatch.setattr("segcore.zoo.cache.download", download)
    with pytest.raises(CheckpointError, match="cannot be downloaded: no network"):
        segcore.load(NAME)
    assert asked == [(find_model(NAME).url, cached_file(find_model(NAME)))]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mask2former/coco/panoptic/r5O", "did you mean mask2former/coco/panoptic/r50"),
        ("output/run1", r"output/run1: there is no such file or folder, nor a published model"),
    ],
)
def test_what_there_is_not(source, message):
    with pytest.raises(ConfigError, match=message):
        segcore.load(source)


@pytest.mark.parametrize("images", [3, [3], None])
def test_what_is_no_photo(model, images):
    with pytest.raises(ImageError, match="image: expected a file"):
        model(images)

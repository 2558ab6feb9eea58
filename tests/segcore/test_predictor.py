"""segcore.Predictor: what it is made from, the pixels of evaluation, the results, its errors."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

import segcore
from segcore.checkpoint import read_checkpoint, write_checkpoint
from segcore.data.mappers import build_test_mapper
from segcore.errors import CheckpointError, ConfigError, ImageError, UnsafeCheckpointError
from trained_folder import CLASSES, SYSTEMS, configuration, train

THREE_CLASSES = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]


def with_data_set(cfg):
    """The config with a registered data set, whose classes count where a checkpoint has none."""
    MetadataCatalog.get("three_classes").set(**CLASSES)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("three_classes",)
    return cfg


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def predictor(trained):
    return segcore.Predictor(trained)


def pixels(height: int = 45, width: int = 90) -> np.ndarray:
    generator = np.random.default_rng(height)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def without(trained: Path, path: Path, *keys: str) -> Path:
    """The checkpoint without these entries, as other programs write them."""
    checkpoint = read_checkpoint(trained / "model_final.pth")
    write_checkpoint({k: v for k, v in checkpoint.items() if k not in keys}, path)
    return path


def assert_equal(results: dict, expected: dict) -> None:
    assert results.keys() == expected.keys()
    assert torch.equal(results["sem_seg"], expected["sem_seg"])
    assert torch.equal(results["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert results["panoptic_seg"][1] == expected["panoptic_seg"][1]
    assert torch.equal(results["instances"].pred_masks, expected["instances"].pred_masks)


def test_import_is_lazy():
    code = (
        "import sys, segcore; assert 'Predictor' in {*dir(segcore)} & {*segcore.__all__};"
        "assert not {'torch', 'detectron2', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="Prediktor"):
        segcore.Prediktor  # noqa: B018


@pytest.mark.parametrize("system", SYSTEMS)
def test_pixels_and_results_are_those_of_evaluation(tmp_path, system):
    predictor = segcore.Predictor(train(tmp_path / "output", system))
    seen = []
    predictor.model.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    for number, size in enumerate([(45, 90), (61, 33), (17, 17)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels(*size)).save(path)
        evaluated = build_test_mapper(configuration(system))({"file_name": str(path)})
        bgr = pixels(*size)[:, :, ::-1]
        tensor = torch.from_numpy(pixels(*size)).permute(2, 0, 1)
        results = predictor([path, str(path), bgr, Image.open(path), tensor])
        for inputs in seen:
            assert inputs["image"].dtype == torch.uint8
            assert torch.equal(inputs["image"], evaluated["image"])
            assert (inputs["height"], inputs["width"]) == size
        assert len(seen) == 5
        seen.clear()
        with torch.no_grad():
            (expected,) = predictor.model([evaluated])
        for result in results:
            assert_equal(result, expected)
        seen.clear()


def test_made_from_folder_checkpoint_or_config(trained, predictor, tmp_path):
    photo = pixels()
    expected = predictor(photo)
    for arguments in (
        (trained / "model_final.pth",),
        (None, str(trained)),
        (configuration(), trained / "model_final.pth"),
        (trained / "config.yaml", trained),
    ):
        made = segcore.Predictor(*arguments)
        assert_equal(made(photo), expected)
        assert [category["name"] for category in made.categories] == ["cat", "dog", "sky"]
        assert made.metadata.thing_classes == ["cat", "dog", "sky"]
        assert not made.model.training


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_conversions_carry_the_config(trained, predictor, tmp_path, suffix):
    made = segcore.Predictor(without(trained, tmp_path / f"model{suffix}"))
    assert_equal(made(pixels()), predictor(pixels()))


def test_the_last_checkpoint_of_a_folder_counts(trained, tmp_path):
    without(trained, tmp_path / "model_0000009.pth")
    with pytest.raises(CheckpointError, match=r"expected the output folder of a training"):
        segcore.Predictor(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert segcore.Predictor(tmp_path).cfg.MODEL.WEIGHTS.endswith("model_0000009.pth")


def test_checkpoint_without_config_asks_for_one(trained, tmp_path):
    path = without(trained, tmp_path / "official.pkl", "config")
    with pytest.raises(ConfigError, match=r"official\.pkl carries no config.*give the config"):
        segcore.Predictor(path)


def test_classes_must_come_from_somewhere(trained, tmp_path):
    path = without(trained, tmp_path / "official.pkl", "metadata")
    with pytest.raises(ConfigError, match=r"official\.pkl has no class names.*DATASETS\.TRAIN"):
        segcore.Predictor(configuration(), path)
    made = segcore.Predictor(with_data_set(configuration()), path, options=THREE_CLASSES)
    assert made.metadata.name == "three_classes"


def test_options_change_the_config_that_a_checkpoint_carries(trained):
    options = ["INPUT.MIN_SIZE_TEST", "24", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
    made = segcore.Predictor(trained, options=options)
    assert made.inputs(pixels())["image"].shape == (3, 24, 48)
    assert "panoptic_seg" not in made(pixels())


def test_many_photos_threads_and_gradients(predictor):
    photos = [pixels(40 + i, 60) for i in range(4)]
    expected = predictor(photos)
    with ThreadPoolExecutor(4) as pool:
        for result, other in zip(pool.map(predictor, photos), expected, strict=True):
            assert_equal(result, other)
    assert not expected[0]["sem_seg"].requires_grad
    assert len(predictor(photo for photo in photos[:2])) == 2
    assert predictor([]) == []


def test_batches_are_those_of_evaluation(trained):
    """Photos of a batch are padded to one size, as with TEST.IMS_PER_BATCH in evaluation."""
    made = segcore.Predictor(trained, options=["TEST.IMS_PER_BATCH", "2"])
    photos = [pixels(40 + 20 * i, 60) for i in range(3)]
    inputs = [made.inputs(photo) for photo in photos]
    with torch.no_grad():
        expected = made.model(inputs[:2]) + made.model(inputs[2:])
    for result, other in zip(made(photo for photo in photos), expected, strict=True):
        assert_equal(result, other)


@pytest.mark.parametrize(
    "image",
    [
        3,
        None,
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        [torch.zeros(3, 8, 8)],
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        Image.new("I;16", (8, 8)),
    ],
)
def test_what_is_no_photo_is_refused(predictor, image):
    with pytest.raises(ImageError, match=r"^images?: expected"):
        predictor(image)


def test_photo_that_resizing_makes_nothing_of(predictor):
    with pytest.raises(ImageError, match="20000x3 pixels is too narrow"):
        predictor(np.zeros((3, 20000, 3), np.uint8))


def test_wrong_arguments(trained, tmp_path):
    with pytest.raises(ConfigError, match="no weights: give a checkpoint"):
        segcore.Predictor()
    with pytest.raises(ConfigError, match="no weights: give a checkpoint"):
        segcore.Predictor(configuration())
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        segcore.Predictor(tmp_path / "none.pth")
    with pytest.raises(ConfigError, match="device: expected such as cpu"):
        segcore.Predictor(trained, device="banana")


def test_malicious_weights_are_not_executed(trained, tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Touch(tmp_path / "executed")}))
    with pytest.raises(UnsafeCheckpointError, match=r"evil\.pkl is refused"):
        segcore.Predictor(configuration(), path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("system", ["mask2former", "panoptic_segformer"])
class TestFilesOfMMDetection:
    """``{"meta", "state_dict"}``; official files of Panoptic SegFormer are in this form."""

    META = {"mmdet_version": "2.18.0", "CLASSES": ("cat", "dog", "sky"), "epoch": 24}  # noqa: RUF012

    def test_known_names(self, system, tmp_path):
        state = read_checkpoint(train(tmp_path, system) / "model_final.pth")["model"]
        torch.save({"meta": self.META, "state_dict": state}, tmp_path / "epoch_24.pth")
        cfg = with_data_set(configuration(system))
        made = segcore.Predictor(cfg, tmp_path / "epoch_24.pth", options=THREE_CLASSES)
        expected = segcore.Predictor(tmp_path)
        assert_equal(made(pixels()), expected(pixels()))

    @pytest.mark.parametrize("name", ["panoptic_head.cls_embed.weight", "backbone.norm3.weight"])
    def test_names_of_its_own_models(self, system, tmp_path, name):
        path = tmp_path / "mmdet.pth"
        torch.save({"meta": self.META, "state_dict": {name: torch.ones(8)}}, path)
        with pytest.raises(CheckpointError) as caught:
            segcore.Predictor(with_data_set(configuration(system)), path)
        assert "mmdet.pth: nothing in this checkpoint fits" in str(caught.value)
        assert "written by MMDetection" in str(caught.value)
        assert "take the file that the official code of the paper offers" in str(caught.value)

    def test_executable_meta(self, system, tmp_path):
        path = tmp_path / "mmdet.pth"
        meta = {**self.META, "config": Touch(tmp_path / "executed")}
        torch.save({"meta": meta, "state_dict": {"a": torch.ones(1)}}, path)
        with pytest.raises(UnsafeCheckpointError, match="save the weights alone with the program"):
            segcore.Predictor(configuration(system), path)
        assert not (tmp_path / "executed").exists()


def test_weights_of_another_model_are_refused(trained):
    options = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "5"]
    with pytest.raises(CheckpointError, match=r"2 entries of the model .*query_embed"):
        segcore.Predictor(trained, options=options)
    assert segcore.Predictor(trained, options=[*options, "TEST.ALLOW_MISSING_WEIGHTS", "True"])

"""demo.py from end to end, with tiny models of random weights."""

import errno
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from mask2former.meta_arch import MaskFormer
from segcore.checkpoint import SafeCheckpointer, use_class_metadata
from segcore.cli import run_command
from segcore.cli.predict import PredictionParser
from segcore.config import get_cfg
from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png
from segcore.demo import program
from segcore.demo.predictor import PhotoPredictor
from segcore.errors import OutputError
from segcore.video import VideoWriter

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {
    "thing_classes": ["cat", "dog", "sky"],
    "stuff_classes": ["cat", "dog", "sky"],
    "thing_dataset_id_to_contiguous_id": {17: 0, 18: 1},
    "stuff_dataset_id_to_contiguous_id": {17: 0, 18: 1, 187: 2},
}
CONFIG = """
_BASE_: {base}
DATASETS:
  PANOPTIC:
    TRAIN: {{IMAGES: /nowhere/images, JSON: /nowhere/panoptic.json, PNGS: /nowhere/panoptic}}
MODEL:
  DEVICE: cpu
  SEM_SEG_HEAD: {{CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1}}
  MASK_FORMER:
    HIDDEN_DIM: 32
    DIM_FEEDFORWARD: 32
    DEC_LAYERS: 2
    NUM_OBJECT_QUERIES: 8
    TEST: {{OBJECT_MASK_THRESHOLD: 0.0, OVERLAP_THRESHOLD: 0.0}}
INPUT: {{MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}}
"""


ON_TOKENS = """
  BACKBONE: {NAME: AutoFocusFormer}
  AFF: {EMBED_DIM: [8, 8, 8, 8], DEPTHS: [1, 1, 1, 1], NUM_HEADS: [2, 2, 2, 2]}
"""


BY_ATTENTION = """
  META_ARCHITECTURE: PanopticSegFormer
  RESNETS: {OUT_FEATURES: [res3, res4, res5]}
  PANOPTIC_SEGFORMER:
    {HIDDEN_DIM: 32, DIM_FEEDFORWARD: 32, ENC_LAYERS: 1, LOCATION_LAYERS: 1, NUM_THING_QUERIES: 8}
  PANOPTIC_MERGING: {QUALITY_THRESHOLD_THINGS: 0.0, QUALITY_THRESHOLD_STUFF: 0.0}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with config.yaml and model.pth, as training on custom data leaves them."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def trained_on_tokens(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained_on_tokens"), ON_TOKENS)


@pytest.fixture(scope="module")
def trained_by_attention(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained_by_attention"), BY_ATTENTION)


def train(folder, model=""):
    base = ROOT / "configs/_base_/mask2former_small.yaml"
    config = CONFIG.format(base=base).replace("MODEL:\n", f"MODEL:{model or chr(10)}")
    (folder / "config.yaml").write_text(config)
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    metadata = Metadata(name="own").set(**CLASSES)
    use_class_metadata(cfg, metadata, "test_demo_own")
    torch.manual_seed(0)
    model = build_model(cfg)
    if isinstance(model, MaskFormer):
        # Every query finds something.
        model.sem_seg_head.predictor.class_embed.bias.data[-1] = -10
    SafeCheckpointer(model, str(folder), metadata=metadata).save("model")
    return folder


def configuration(folder, *opts):
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.merge_from_list(list(opts))
    return cfg


def photo(path, height=48, width=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(folder, *arguments):
    arguments = [*map(str, arguments), "--config-file", str(folder / "config.yaml")]
    return run_command("predict", [*arguments, "--device", "cpu"])


def test_photos_to_files_and_table(trained, tmp_path, capsys):
    photo(tmp_path / "photos/a.png")
    photo(tmp_path / "photos/b.jpg", 70, 50)
    (tmp_path / "photos/broken.jpg").write_text("no picture")
    output = tmp_path / "out"
    weights = ("--weights", trained / "model.pth")
    code = run(
        *(trained, tmp_path / "photos", tmp_path / "none.jpg", *weights),
        *("--output", output, "--score-threshold", "0.1", "--batch", "2"),
    )
    printed, errors = capsys.readouterr()
    assert code == 1
    assert "2 of 4 photos done" in printed
    failures = [line for line in errors.splitlines() if line.startswith("failed: ")]
    assert [Path(line.split(":")[1]).name for line in failures] == ["broken.jpg", "none.jpg"]
    assert "photos:" not in errors  # no progress bar where no terminal is

    data = read_panoptic_json(output / "panoptic.json")
    assert [(i["height"], i["width"]) for i in data["images"]] == [(48, 80), (70, 50)]
    assert [c["name"] for c in data["categories"]] == ["cat", "dog", "sky"]
    for image, annotation in zip(data["images"], data["annotations"], strict=True):
        ids = read_panoptic_png(output / "panoptic" / annotation["file_name"])
        assert ids.shape == (image["height"], image["width"])
        segments = annotation["segments_info"]
        assert segments
        assert {s["id"]: s["area"] for s in segments} == {
            s["id"]: (ids == s["id"]).sum() for s in segments
        }
        assert {s["category_id"] for s in segments} <= {17, 18, 187}
        overlay = Image.open(output / "overlay" / annotation["file_name"].replace("png", "jpg"))
        assert overlay.size == (image["width"], image["height"])
    assert "class    kind" in printed
    assert all(r["score"] >= 0.1 for r in json.loads((output / "instances.json").read_text()))


def test_the_folder_of_a_training_is_enough(trained, tmp_path):
    given = (photo(tmp_path / "a.png"), "--weights", trained, "--output", tmp_path / "out")
    assert run_command("predict", [*map(str, given), "--device", "cpu"]) == 0
    assert (tmp_path / "out/overlay/a.jpg").exists()


def test_a_video_is_tracked_frame_by_frame(trained, tmp_path, capsys):
    pytest.importorskip("av")
    film = tmp_path / "film.mp4"
    with VideoWriter(film, 4) as writer:
        for _ in range(3):
            writer.write(np.asarray(Image.open(photo(tmp_path / "a.png")).convert("RGB")))
    output = tmp_path / "out"
    given = ("--weights", trained / "model.pth", "--output", output, "--every", 2, "--save-png")
    assert run(trained, film, tmp_path / "a.png", "webcam:99", *given) == 1
    printed, errors = capsys.readouterr()
    assert "1 of 1 photos done" in printed and "1 of 2 videos done" in printed
    assert "failed: webcam:99: this camera cannot be opened" in errors
    rows = [json.loads(line) for line in (output / "frames/film.jsonl").open()]
    assert [row["frame"] for row in rows] == [0, 2]
    names = [[(s["id"], s["category"]) for s in row["segments"]] for row in rows]
    assert names[0] and names[0] == names[1]
    ids = read_panoptic_png(output / "panoptic/film/000002.png")
    areas = {segment["id"]: segment["area"] for segment in rows[1]["segments"]}
    assert areas == {number: (ids == number).sum() for number in np.unique(ids) if number}
    assert (output / "overlay/film.mp4").exists() and (output / "overlay/a.jpg").exists()

    assert run(trained, film, *given, "--resume") == 0
    assert "was done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("a.png --every 2", "--every: expected videos, got photos"),
        ("a.png --save-png", "--save-png: expected videos, got photos"),
        ("a.png b.mp4 --show-attention", "--show-attention: expected photos, got videos"),
        ("webcam:0 --show-focus", "--show-focus: expected photos, got videos"),
    ],
)
def test_options_of_photos_and_of_videos(capsys, given, problem):
    assert run_command("predict", [*given.split(), "--output", "out"]) == 1
    assert problem in one_error(capsys)


def test_tiles_of_a_large_photo(trained, tmp_path):
    given = (photo(tmp_path / "a.png"), "--weights", trained / "model.pth")
    assert run(trained, *given, "--output", tmp_path / "out", "--tile", 40, "--overlap", 8) == 0
    data = read_panoptic_json(tmp_path / "out/panoptic.json")
    ids = read_panoptic_png(tmp_path / "out/panoptic/a.png")
    assert ids.shape == (48, 80)
    areas = {s["id"]: s["area"] for s in data["annotations"][0]["segments_info"]}
    assert areas == {number: (ids == number).sum() for number in np.unique(ids) if number}
    assert (tmp_path / "out/instances.json").exists()


def contents(folder):
    """Content by name of all files that a run has written."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_shards_interrupted_and_resumed_are_the_whole(trained, tmp_path, capsys, monkeypatch):
    for name in ("x/a.png", "y/a.png", "z/c.png"):
        photo(tmp_path / "photos" / name)
    photos = (trained, tmp_path / "photos/*/*.png", "--weights", trained / "model.pth")
    predictor = PhotoPredictor(configuration(trained), str(trained / "model.pth"))
    monkeypatch.setattr(program, "PhotoPredictor", lambda *_, **__: predictor)
    assert run(*photos, "--output", tmp_path / "whole") == 0
    real = program.read_image

    def read(path, *args):
        if path.name == "c.png":
            raise KeyboardInterrupt
        return real(path, *args)

    monkeypatch.setattr(program, "read_image", read)
    shards = [(*photos, "--shard", f"{i}/2", "--output", tmp_path / f"out{i}") for i in (1, 2)]
    assert [run(*shard, "--resume") for shard in shards] == [130, 0]
    merging = [*(str(tmp_path / name) for name in ("out1", "out2")), "--output"]
    merging.append(str(tmp_path / "all"))
    assert run_command("merge", merging) == 1
    assert "not finished: shard 1/2 in" in capsys.readouterr().err
    monkeypatch.setattr(program, "read_image", real)
    assert run(*shards[0], "--resume") == 0
    assert "1 of 1 photos done, 1 before" in capsys.readouterr().out
    assert run_command("merge", merging) == 0
    assert "3 of 3 photos of 2 shards" in capsys.readouterr().out
    assert contents(tmp_path / "all") == contents(tmp_path / "whole")
    assert "overlay/a_2.jpg" in contents(tmp_path / "all")
    assert run(*photos, "--output", tmp_path / "all", "--resume", "--score-threshold", "0.3") == 2
    assert "expected --score-threshold 0.5, as before, got 0.3" in one_error(capsys)


def arguments(*given):
    parsed = PredictionParser().parse_args(["--config-file", "c", "--output", "o", *given])
    return parsed.photos, parsed.opts, parsed.show_attention


@pytest.mark.parametrize(
    ("given", "photos", "opts", "queries"),
    [
        ("--opts MODEL.DEVICE cpu a.jpg b.jpg", "a.jpg b.jpg", "MODEL.DEVICE cpu", None),
        ("a.jpg --opts A.B 1 C 2 b/ --opts D 3 c", "a.jpg b/ c", "A.B 1 C 2 D 3", None),
        ("--opts --show-focus a.jpg", "a.jpg", "", None),
        ("--show-attention a.jpg", "a.jpg", "", []),
        ("--show-attention 3 -4 a.jpg", "a.jpg", "", [3, -4]),
        ("a.jpg --show-attention", "a.jpg", "", []),
        ("--show-attention 3 -- 4 -a.jpg", "4 -a.jpg", "", [3]),
        ("--opts MODEL.DEVICE cpu -- A", "A", "MODEL.DEVICE cpu", None),
        ("a.jpg --device cpu b.jpg", "a.jpg b.jpg", "", None),
    ],
)
def test_photos_between_options(given, photos, opts, queries):
    assert arguments(*given.split()) == (photos.split(), opts.split(), queries)


def test_a_photo_that_is_called_like_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("DSC_1.JPG").touch()
    assert arguments("--opts", "A", "1", "DSC_1.JPG")[:2] == (["DSC_1.JPG"], ["A", "1"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--opts", "MODEL.DEVICE"], "--opts: the value of MODEL.DEVICE is missing"),
        ([], "photos: expected at least one"),
        (["a.jpg", ""], "photos: expected names, got ''"),
        (["a.jpg", "--output", ""], "--output: expected a folder"),
        (["a.jpg", "--score-threshold", "nan"], r"expected a number in \[0, 1\], got nan"),
        (["a.jpg", "--shard", "9/8"], "argument --shard: expected such as 1/8 to 8/8, got 9/8"),
        (["a.jpg", "--shard", "0/8"], "argument --shard: expected such as 1/8 to 8/8, got 0/8"),
        (["a.jpg", "--tile", "0"], "argument --tile: expected an integer above 0, got '0'"),
        (["a.jpg", "--tile", "200"], "--overlap: expected at most half of --tile 200, got 128"),
        (["a.jpg", "--score-threshold", "x"], r"expected a number in \[0, 1\], got x"),
    ],
)
def test_wrong_arguments(capsys, given, problem):
    with pytest.raises(SystemExit) as stop:
        arguments(*given)
    assert stop.value.code == 2
    assert re.search(problem, capsys.readouterr().err)


def test_no_photos_and_no_output_are_said_before_the_model_is_built(tmp_path, capsys):
    arguments = ["--config-file", "missing.yaml", "--output"]
    (tmp_path / "empty").mkdir()
    assert run_command("predict", [str(tmp_path / "empty"), *arguments, str(tmp_path / "out")]) == 1
    assert "no photos in" in one_error(capsys)
    path = str(photo(tmp_path / "a.png"))
    assert run_command("predict", [path, *arguments, path]) == 1
    assert "expected a folder" in one_error(capsys)
    assert not (tmp_path / "out").exists()


def test_json_of_what_was_done_after_an_interrupt_or_error(trained, tmp_path, capsys, monkeypatch):
    photos = [photo(tmp_path / f"{name}.png") for name in "abc"]
    photo(tmp_path / "a_narrow.png", 3, 2000)
    real = program.read_image
    for error, code in ((KeyboardInterrupt(), 130), (full_disk(), 1)):

        def read(path, *args, error=error):
            if path == photos[1]:
                raise error
            return real(path, *args)

        monkeypatch.setattr(program, "read_image", read)
        weights = ("--weights", trained / "model.pth", "--output", tmp_path / "out")
        assert run(trained, tmp_path, *weights) == code
        printed, errors = capsys.readouterr()
        assert "1 of 4 photos done" in printed
        assert "a_narrow.png: a photo of 2000x3 pixels is too narrow" in errors
        (image,) = read_panoptic_json(tmp_path / "out/panoptic.json")["images"]
        assert image["file_name"] == str(photos[0])
        assert not (tmp_path / "out/overlay/b.jpg").exists()


def full_disk():
    error = OutputError("out/a.jpg: cannot be written: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


def test_no_readable_photo(trained, tmp_path, capsys):
    weights = ("--weights", trained / "model.pth")
    assert run(trained, tmp_path / "x.jpg", *weights, "--output", tmp_path / "out") == 1
    assert "0 of 1 photos done" in capsys.readouterr().out


def test_missing_weights(trained, tmp_path, capsys):
    weights = ("--weights", tmp_path / "other.pth")
    assert run(trained, photo(tmp_path / "a.png"), *weights, "--output", tmp_path) == 1
    assert "other.pth" in one_error(capsys)


def one_error(capsys):
    """Return the error of the program, one line."""
    lines = capsys.readouterr().err.splitlines()
    (error,) = (line for line in lines if line.startswith("error: "))
    return error


def test_predictor_gives_detectron2_results(trained):
    cfg = configuration(trained)
    predictor = PhotoPredictor(cfg, str(trained / "model.pth"))
    result = predictor(np.zeros((48, 80, 3), np.uint8))
    assert result["sem_seg"].shape == (3, 48, 80)
    assert result["panoptic_seg"][0].shape == (48, 80)
    assert result["instances"].image_size == (48, 80)
    assert (
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == configuration(trained).MODEL.SEM_SEG_HEAD.NUM_CLASSES
    )


def test_classes_of_the_data_set_where_the_checkpoint_has_none(trained, tmp_path):
    checkpoint = torch.load(trained / "model.pth", weights_only=True)
    torch.save({"model": checkpoint["model"]}, tmp_path / "bare.pth")
    name = "test_demo_registered"
    MetadataCatalog.get(name).set(**{**CLASSES, "stuff_classes": ["x", "y", "z"]})
    opts = [f"DATASETS.PANOPTIC.TRAIN.{key}" for key in ("IMAGES", "JSON", "PNGS")]
    cfg = configuration(trained, *(text for key in opts for text in (key, "")))
    cfg.DATASETS.TRAIN = (name,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    categories = PhotoPredictor(cfg, str(tmp_path / "bare.pth")).categories
    assert [c["name"] for c in categories] == ["x", "y", "z"]
    MetadataCatalog.remove(name)


def test_checkpoint_of_another_model_is_refused(trained, caplog):
    cfg = configuration(trained, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "9")
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(ValueError, match=r"query_feat.*\nResults would be random"),
    ):
        PhotoPredictor(cfg, str(trained / "model.pth"))


def test_no_weights_at_all(trained):
    with pytest.raises(ValueError, match="no weights: give a checkpoint"):
        PhotoPredictor(configuration(trained))


def test_focus_of_a_model_on_tokens(trained_on_tokens, tmp_path):
    path = photo(tmp_path / "a.png", 45, 90)
    weights = ("--weights", trained_on_tokens / "model.pth")
    output = tmp_path / "out"
    assert run(trained_on_tokens, path, *weights, "--output", output, "--show-focus") == 0
    picture = Image.open(output / "focus/a.png")
    assert picture.width > 4 * picture.height  # stage by stage

    predictor = PhotoPredictor(configuration(trained_on_tokens), str(weights[1]))
    stages = predictor.focus(np.zeros((45, 90, 3), np.uint8))
    assert len(stages) == 4
    positions, _ = stages[0]
    # The photo is made 48 x 96, padded to 64 x 96: a token a 4 x 4 pixels.
    assert len(positions) == 16 * 24
    assert positions.min(0).values.tolist() == [1.875, 1.875]
    inside = positions[positions[:, 1] < 45]
    assert len(inside) == 12 * 24
    assert inside.max(0).values.tolist() == [90 - 1.875, 45 - 1.875]


@pytest.mark.parametrize(("queries", "rows"), [([], range(1, 7)), ([3, 8], [2]), ([3], [1])])
def test_attention_of_segments_or_named_queries(trained_by_attention, tmp_path, queries, rows):
    weights = ("--weights", trained_by_attention / "model.pth", "--output", tmp_path / "out")
    path = photo(tmp_path / "a.png", 40, 80)
    assert run(trained_by_attention, path, *weights, "--show-attention", *queries) == 0
    picture = Image.open(tmp_path / "out/attention/a.png")
    assert picture.height // 160 in rows  # pictures are 260 x 130 pixels, and have captions
    if queries:
        layers = 6 if 8 in queries else 4  # stuff has two layers more
        assert picture.width == 12 + (2 + layers) * (260 + 12)


def test_attention_of_a_query_that_is_not_there(trained_by_attention, tmp_path, capsys):
    weights = ("--weights", trained_by_attention / "model.pth", "--output", tmp_path / "out")
    path = photo(tmp_path / "a.png")
    assert run(trained_by_attention, path, *weights, "--show-attention", "3", "9") == 1
    assert "indices of queries in [0, 9), got [9]" in one_error(capsys)


def test_attention_that_a_model_does_not_tell_is_refused(trained, tmp_path, capsys):
    weights = ("--weights", trained / "model.pth")
    arguments = (*weights, "--output", tmp_path / "out", "--show-attention", "3")
    assert run(trained, photo(tmp_path / "a.png"), *arguments) == 1
    assert "(with a method attention), got MaskFormer" in one_error(capsys)
    assert not (tmp_path / "out").exists()


def test_focus_of_a_model_on_maps_is_refused_before_any_photo(trained, tmp_path, capsys):
    arguments = ("--weights", trained / "model.pth", "--output", tmp_path / "out", "--show-focus")
    assert run(trained, photo(tmp_path / "a.png"), *arguments) == 1
    assert "backbone chooses tokens (with a method focus), got ResNet" in one_error(capsys)
    assert not (tmp_path / "out").exists()

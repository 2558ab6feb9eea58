"""Drawn videos: train, evaluate, predict video files and folders of frames."""

import json
from pathlib import Path

import numpy as np
import pytest

from mask2former_video import quickstart
from segcore.cli import run_command
from segcore.data.custom_data import setup_custom_data
from segcore.data.images import read_image
from segcore.engine import Trainer
from segcore.evaluation import check_evaluation
from segcore.video import VideoReader, VideoWriter

pytest.importorskip("av")


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory, build_cfg):
    """Config of a training of two iterations, and the results of its evaluation."""
    cfg = build_cfg(
        DATASETS__VIDEO__TRAIN__FRAMES=drawn / "train/frames",
        DATASETS__VIDEO__TRAIN__JSON=drawn / "train/videos.json",
        DATASETS__VIDEO__TEST__FRAMES=drawn / "val/frames",
        DATASETS__VIDEO__TEST__JSON=drawn / "val/videos.json",
        OUTPUT_DIR=tmp_path_factory.mktemp("output"),
        SOLVER__MAX_ITER=2,
        SOLVER__STEPS="[]",
        DATALOADER__NUM_WORKERS=0,
        INPUT__AUGMENTATIONS="['brightness', 'rotation']",
        MODEL__MASK_FORMER__TEST__VIDEO__CLIP_LENGTH=3,
    )
    setup_custom_data(cfg)
    check_evaluation(cfg, cfg.DATASETS.TEST[0])
    cfg.freeze()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return cfg, trainer._last_eval_results


def test_trains_and_evaluates(trained):
    cfg, results = trained
    assert {"AP", "AP50", "AR10", "AP-ring"} <= results["segm"].keys()
    entries = json.loads(Path(cfg.OUTPUT_DIR, "inference/results.json").read_text())
    assert {entry["video_id"] for entry in entries} == {0, 1} and len(entries) == 20
    assert all(len(entry["segmentations"]) == 5 for entry in entries)
    assert all(1 <= entry["category_id"] <= 5 for entry in entries)


def test_predicts_video_files_and_folders_of_frames(trained, drawn, tmp_path, capsys):
    weights = f"{trained[0].OUTPUT_DIR}/model_final.pth"
    folder, film = drawn / "val/frames/0000", tmp_path / "film.mp4"
    frames = [read_image(path, "RGB") for path in sorted(folder.iterdir())]
    with VideoWriter(film, 7) as writer:
        for frame in frames:
            writer.write(frame)
    output = tmp_path / "output"
    arguments = [folder, film, "--weights", weights, "--output", output, "--score-threshold", 0]
    assert run_command("predict", [str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 videos done" in printed and "frames" in printed
    drawing = VideoReader(output / "overlay/film.mp4")
    assert drawing.rate == 7 and np.array(list(drawing)).shape == np.array(frames).shape
    videos = json.loads((output / "tracks.json").read_text())
    assert [len(video["tracks"]) for video in videos] == [10, 10]
    assert all(len(track["segmentations"]) == 5 for track in videos[0]["tracks"])

    (tmp_path / "broken.mp4").write_text("no video")
    arguments[:2] = [tmp_path / "broken.mp4"]
    assert run_command("predict", [str(argument) for argument in arguments]) == 1
    assert "failed: " in capsys.readouterr().err


def test_quickstart_shows_a_film(trained, capsys):
    cfg, results = trained
    quickstart.show(cfg, f"{cfg.OUTPUT_DIR}/model_final.pth", results)
    assert "AP50" in capsys.readouterr().out
    frames = list(VideoReader(f"{cfg.OUTPUT_DIR}/predictions.mp4"))
    assert len(frames) == 2 * 5 and frames[0].shape == (120, 168, 3)

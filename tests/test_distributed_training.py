"""Two processes of a job, as of two machines, do what one process does with the same batch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

import distributed_training
from distributed_training import SYSTEMS, evaluate, launch_machine, only_training, run
from drawn_data import draw_data
from segcore.checkpoint import read_checkpoint
from segcore.engine.job_arguments import free_port


class Outputs(NamedTuple):
    alone: Path
    together: Path
    data: dict[str, str]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outputs]:
    """Output folders of the systems, trained by one process and by two."""
    root = tmp_path_factory.mktemp("distributed")
    data = draw_data(root / "data")
    before = set(DatasetCatalog)
    for system in SYSTEMS:
        run(system, root / "alone" / system, only_training(data))
    resume_from(root / "alone/mask2former", root / "together/resumed")
    url = f"tcp://127.0.0.1:{free_port()}"
    arguments = [url, str(root / "together"), data, str(root / "alone")]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    machine = subprocess.Popen(
        [sys.executable, distributed_training.__file__, json.dumps(arguments)],
        env={**os.environ, **paths, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    launch_machine(0, *arguments)
    assert machine.wait() == 0
    yield Outputs(root / "alone", root / "together", data)
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def resume_from(source: Path, target: Path) -> None:
    """Give ``target`` the checkpoint that ``source`` had after two iterations."""
    target.mkdir(parents=True)
    (target / "model_0000001.pth").write_bytes((source / "model_0000001.pth").read_bytes())
    (target / "last_checkpoint").write_text("model_0000001.pth")


def curves(output: Path) -> dict[str, list[float]]:
    """Every loss in each iteration, from the last checkpoint."""
    checkpoint = read_checkpoint(output / "model_final.pth")
    scalars = checkpoint["trainer"]["hooks"]["MetricsFile"]["scalars"]
    return {
        name: [value for value, _ in scalar["values"]]
        for name, scalar in scalars.items()
        if "loss" in name or name in ("lr", "grad_norm")
    }


def assert_same_curves(first: Path, second: Path) -> None:
    expected = curves(first)
    assert len(set(expected["total_loss"])) == 3
    assert curves(second) == {
        name: pytest.approx(values, rel=1e-4, abs=1e-5) for name, values in expected.items()
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_are_those_of_one_process(outputs: Outputs, system: str):
    assert_same_curves(outputs.alone / system, outputs.together / system)


def test_two_processes_go_on_with_the_training_of_one(outputs: Outputs):
    assert_same_curves(outputs.alone / "mask2former", outputs.together / "resumed")


def test_one_process_goes_on_with_a_sharded_training(outputs: Outputs, tmp_path: Path):
    resume_from(outputs.together / "mask2former", tmp_path / "resumed")
    run("mask2former", tmp_path / "resumed", only_training(outputs.data), "--resume")
    assert_same_curves(outputs.alone / "mask2former", tmp_path / "resumed")


def test_evaluation_is_that_of_one_process(outputs: Outputs, tmp_path: Path):
    weights = outputs.alone / "mask2former/model_final.pth"
    results = evaluate(tmp_path, weights, outputs.data)
    assert results["panoptic_seg"]["PQ"] >= 0
    together = json.loads((outputs.together / "results.json").read_text())
    assert results.keys() == together.keys()
    for task, values in results.items():
        assert values == pytest.approx(together[task], rel=0, abs=0, nan_ok=True)
    # Each image was evaluated once, though three do not divide by two.
    predictions = outputs.together / "evaluated/inference/predictions.json"
    assert len(json.loads(predictions.read_text())["annotations"]) == 3


def test_messages_come_once(outputs: Outputs):
    log = (outputs.together / "eomt/log.txt").read_text()
    assert "Process 0 of 2" in log
    assert log.count("SyncBN exists on GPUs only") == 1

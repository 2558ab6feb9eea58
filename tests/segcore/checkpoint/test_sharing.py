"""Checkpoints of which only the main process of a job has the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import json, sys
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import segcore.checkpoint.sharing
from segcore.checkpoint import SafeCheckpointer
from segcore.engine.launch import launch
from segcore.errors import UserError

segcore.checkpoint.sharing.PIECE_BYTES = 1000

class Schedule:
    step = 0
    def state_dict(self):
        return {"step": self.step}
    def load_state_dict(self, state):
        self.step = state["step"]

def load(root, case):
    folder = Path(root, str(comm.get_rank()), case)  # as on machines without a common file system
    path = folder / "model_0000007.pth"
    saved = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
    if comm.is_main_process():
        schedule = Schedule()
        schedule.step = 7
        SafeCheckpointer(saved, str(folder), schedule=schedule).save(path.stem)
        if case == "damaged":
            path.write_bytes(b"PK\\3\\4 no checkpoint")
        if case == "absent":
            path.unlink()
    comm.synchronize()
    expected = comm.all_gather(saved.state_dict())[0]
    model = nn.Sequential(nn.Linear(20, 20), nn.BatchNorm1d(20))
    schedule = Schedule()
    if case == "evaluated":
        checkpointer = SafeCheckpointer(model, str(folder), complete=True, collective=True)
        checkpointer.load(str(path))
    else:
        ddp = DistributedDataParallel(model)
        checkpointer = SafeCheckpointer(ddp, str(folder), schedule=schedule)
        assert checkpointer.has_checkpoint()
        checkpointer.resume_or_load("", resume=True)
    state = model.state_dict()
    return {
        "equal": all(torch.equal(state[name], tensor) for name, tensor in expected.items()),
        "step": schedule.step,
        "source": checkpointer.report.source,
        "files": [path.name for path in folder.glob("*")],
    }

def main(root, *cases):
    reports = {}
    for case in cases:
        try:
            reports[case] = load(root, case)
        except UserError as error:
            reports[case] = f"{type(error).__name__}: {error}"
    Path(root, f"{comm.get_rank()}.json").write_text(json.dumps(reports))

if __name__ == "__main__":
    launch(main, 2, args=sys.argv[1:])
"""
CASES = ("resumed", "evaluated", "damaged", "absent")


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> list[dict]:
    """Reports of all cases, from each of two processes."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.py").write_text(JOB)
    subprocess.run([sys.executable, folder / "job.py", folder, *CASES], check=True, timeout=300)
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(("case", "step"), [("resumed", 7), ("evaluated", 0)])
def test_all_processes_get_the_state_of_the_main_process(reports, case, step):
    main, other = (report[case] for report in reports)
    assert main["equal"] and other["equal"]
    assert (main["step"], other["step"]) == (step, step)
    assert main["source"] == other["source"]
    assert sorted(main["files"]) == ["last_checkpoint", "model_0000007.pth"]
    assert other["files"] == []


@pytest.mark.parametrize(
    ("case", "said"), [("damaged", "is damaged or no checkpoint"), ("absent", "no such file")]
)
def test_all_processes_fail_as_the_main_process(reports, case, said):
    for report in reports:
        assert report[case].startswith("CheckpointError: ")
        assert "model_0000007.pth" in report[case]
        assert said in report[case]

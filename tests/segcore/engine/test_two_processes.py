"""A loss that is not finite in one of two processes stops both, at the same step."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from segcore.engine.launch import launch
from segcore.engine.train_loop import TrainLoop

class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss": (self.weight * batch[0]["value"]).square().sum()}

def main(folder):
    rank = comm.get_rank()
    model = DistributedDataParallel(Square())
    values = [1.0, float("nan") if rank == 1 else 2.0]
    batches = [[{"file_name": f"{i}_of_rank_{rank}.jpg", "value": v}] for i, v in enumerate(values)]
    loop = TrainLoop(model, torch.optim.SGD(model.parameters(), lr=0.1), data_loader=batches)
    try:
        loop.train(0, 2)
    except FloatingPointError as error:
        weight = model.module.weight.item()
        open(f"{folder}/{rank}.txt", "w").write(f"{weight:.3f} {error}")

if __name__ == "__main__":
    launch(main, 2, args=(sys.argv[1],))
"""


def test_both_stop_and_name_the_image_of_the_one(tmp_path: Path):
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert message.startswith("0.800 training stopped at iteration 1: the loss is not finite")
        assert "1_of_rank_1.jpg: loss nan" in message
        assert "1_of_rank_0.jpg" not in message

"""CPU time of the commands of ``segcore`` on next to nothing, in turns with another checkout.

    python -m benchmarks.start [--before ../before] [--repeats 3]

Each run is a new process with one thread. The data are three photos of 80x60 pixels, the model is a
tiny one, trained for one iteration.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
CONFIG = f"""
_BASE_: [{ROOT}/configs/quickstart/mask2former_R18.yaml, data/data.yaml]
DATALOADER: {{NUM_WORKERS: 0}}
INPUT: {{MIN_SIZE_TEST: 64, IMAGE_SIZE: 64}}
MODEL:
  DEVICE: cpu
  WEIGHTS: ""
  SEM_SEG_HEAD: {{CONVS_DIM: 32, MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1}}
  MASK_FORMER: {{HIDDEN_DIM: 32, DIM_FEEDFORWARD: 32, DEC_LAYERS: 2, NUM_OBJECT_QUERIES: 8}}
OUTPUT_DIR: trained
SOLVER: {{MAX_ITER: 1, IMS_PER_BATCH: 1}}
"""
CONVERT = (
    "convert maps --from semantic --images photos --classes classes.txt --things ball "
    "--split val=0.4 --output"
)
PREDICT = "predict photos --weights trained/model_final.pth --device cpu --output"
PREPARATION = (
    f"{CONVERT} data",
    "train --config-file config.yaml",
    f"{PREDICT} shard1 --shard 1/2",
    f"{PREDICT} shard2 --shard 2/2",
)
IMPORTS = (
    "import torch",
    "import detectron2.data, detectron2.modeling",
    "import segcore; segcore.Predictor",
)
# NEW is a new name.
COMMANDS = (
    f"{CONVERT} NEW",
    "merge shard1 shard2 --output NEW",
    "compare trained trained --output NEW.html",
    "models",
    "doctor",
    "train --config-file nowhere.yaml",
    "train --config-file config.yaml --check-data OUTPUT_DIR NEW",
    "evaluate --config-file config.yaml --weights trained/model_final.pth OUTPUT_DIR NEW",
    f"{PREDICT} NEW",
    "analyze --config-file config.yaml --size 64x64",
    "export --weights trained/model_final.pth --format torch_export --size 64x64 --output NEW.pt2",
)
RUN = "import sys; from segcore.cli import run; sys.exit(run(sys.argv[1:]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, metavar="DIR", help="another checkout")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    args = parser.parse_args()
    checkouts = {"before": args.before} if args.before else {}
    checkouts["now"] = ROOT
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        rows = []
        for line in (*IMPORTS, *COMMANDS):
            seconds = {name: [] for name in checkouts}
            for turn in range(args.repeats):
                for name, checkout in checkouts.items():
                    output = f" out/{len(rows)}-{turn}-{name}"
                    words = [RUN, *line.replace(" NEW", output).split()]
                    seconds[name].append(
                        cpu_seconds(checkout, [line] if line in IMPORTS else words, folder)
                    )
            rows.append([line, *(min(values) for values in seconds.values())])
    print(tabulate(rows, ["", *(f"{name} CPU s" for name in checkouts)], floatfmt=".2f"))


def prepare(folder: Path) -> None:
    """Draw the data, train the model and predict two shards."""
    generator = np.random.default_rng(0)
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 20:50] = 1
    for kind in ("photos", "maps", "out"):
        (folder / kind).mkdir()
    for name in "abc":
        noise = generator.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"photos/{name}.jpg")
        Image.fromarray(labels).save(folder / f"maps/{name}.png")
    (folder / "classes.txt").write_text("ground\nball\n")
    (folder / "config.yaml").write_text(CONFIG)
    for line in PREPARATION:
        cpu_seconds(ROOT, [RUN, *line.split()], folder)


def cpu_seconds(checkout: Path, words: list[str], folder: str | Path) -> float:
    """Run Python's code ``words[0]`` with its arguments; return user and system time."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "projects"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", *words]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode != (2 if "nowhere.yaml" in words else 0):
        sys.exit(f"{' '.join(words)}: exit code {run.returncode}\n{run.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()

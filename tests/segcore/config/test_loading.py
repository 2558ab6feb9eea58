"""Configuration files: nothing in them runs, they are bounded, and faults are named."""

import copy
import os
import pickle
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from segcore.config import SafeCfgNode, config_from_yaml, get_cfg, load_config
from segcore.errors import ConfigError

RUNS = [
    '!!python/object/apply:os.system ["touch {}"]',
    '!!python/object/new:os.system ["touch {}"]',
    "!!python/object/apply:eval [\"__import__('os').system('touch {}')\"]",
    "!!python/object/apply:eval {{args: [\"open('{}', 'w')\"]}}",
    "!!python/object/apply:exec [\"open('{}', 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {}']",
    "!custom [1]",
    "!!binary aGVsbG8=",
    "!!set {{a, b}}",
]
OFFICIAL = (
    'INPUT: {MIN_SIZE_TRAIN: !!python/object/apply:eval ["[int(x * 0.1 * 640) for x in '
    'range(5, 21)]"]}\n'
)


@pytest.fixture(scope="module")
def defaults() -> SafeCfgNode:
    return get_cfg()


@pytest.fixture
def cfg(defaults) -> SafeCfgNode:
    return defaults.clone()


LOADERS = {
    "merge_from_file": lambda cfg, path: cfg.merge_from_file(path),
    "allow_unsafe": lambda cfg, path: cfg.merge_from_file(path, allow_unsafe=True),
    "load_yaml_with_base": lambda cfg, path: cfg.load_yaml_with_base(path, allow_unsafe=True),
    "section": lambda cfg, path: cfg.MODEL.merge_from_file(path, allow_unsafe=True),
    "clone": lambda cfg, path: cfg.clone().INPUT.CROP.merge_from_file(path, allow_unsafe=True),
    "deepcopy": lambda cfg, path: copy.deepcopy(cfg.MODEL.AFF).load_yaml_with_base(path, True),
    "pickle": lambda cfg, path: pickle.loads(pickle.dumps(cfg)).merge_from_file(path, True),
    "text": lambda cfg, path: cfg.load_cfg(Path(path).read_text()),
    "file": lambda cfg, path: load_opened(cfg, path),
}


def load_opened(cfg: SafeCfgNode, path: str) -> SafeCfgNode:
    with open(path) as file:
        return cfg.load_cfg(file)


@pytest.mark.parametrize("value", RUNS)
@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_runs(write, cfg, tmp_path, value, loader):
    proof = tmp_path / "proof"
    path = write("a.yaml", f"SEED: 1\nOUTPUT_DIR: {value.format(proof)}\n")
    with pytest.raises(ConfigError, match=r"line 2: .*"):
        LOADERS[loader](cfg, path)
    assert not proof.exists()


def test_nothing_runs_in_a_base(write, cfg, tmp_path):
    proof = tmp_path / "proof"
    write("parts/base.yaml", "OUTPUT_DIR: " + RUNS[0].format(proof))
    write("parts/middle.yaml", "_BASE_: [base.yaml]")
    path = write("a.yaml", "_BASE_: parts/middle.yaml\nSEED: 1\n")
    message = r"base\.yaml, line 1: the tag !!python/object/apply:os\.system is not allowed"
    with pytest.raises(ConfigError, match=message):
        cfg.merge_from_file(path, allow_unsafe=True)
    assert not proof.exists()


def test_python_files_are_not_loaded(write, cfg, tmp_path):
    proof = tmp_path / "proof"
    path = write("a.py", f"open({str(proof)!r}, 'w')\ncfg = {{}}\n")
    with pytest.raises(ConfigError), open(path) as file:
        cfg.load_cfg(file)
    assert not proof.exists()


@pytest.mark.parametrize("loader", ["merge_from_file", "allow_unsafe"])
def test_the_expression_of_official_files(write, cfg, loader):
    LOADERS[loader](cfg, write("a.yaml", OFFICIAL))
    assert cfg.INPUT.MIN_SIZE_TRAIN == tuple(range(320, 1281, 64))


def test_all_nodes_are_safe(cfg):
    def nodes(node):
        yield node
        for value in node.values():
            if isinstance(value, CfgNode):
                yield from nodes(value)

    cfg.merge_from_other_cfg(CfgNode({"MODEL": {"AFF": {"ALPHA": 3.0}}}))
    for version in (cfg, cfg.clone(), pickle.loads(pickle.dumps(cfg))):
        assert {type(node) for node in nodes(version)} == {SafeCfgNode}
        assert version == cfg


def test_bases_are_relative_and_the_last_is_strongest(write, cfg, monkeypatch, tmp_path):
    write("parts/deep.yaml", "SEED: 1\nVIS_PERIOD: 1\nOUTPUT_DIR: deep\n")
    write("parts/first.yaml", "_BASE_: deep.yaml\nVIS_PERIOD: 2\n")
    write("second.yaml", "VIS_PERIOD: 3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write("a.yaml", "_BASE_: [parts/first.yaml, '~/second.yaml']\nOUTPUT_DIR: a\n")
    cfg.merge_from_file(path)
    assert (cfg.SEED, cfg.VIS_PERIOD, cfg.OUTPUT_DIR) == (1, 3, "a")
    assert cfg.load_yaml_with_base(path) == {"SEED": 1, "VIS_PERIOD": 3, "OUTPUT_DIR": "a"}


def laughs() -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got nothing"),
        ("# only a comment", "got nothing"),
        ("just words", "expected KEY: VALUE lines"),
        ("[1, 2]", "expected KEY: VALUE lines, got a sequence"),
        ("A: [1\n", r"line 2, column 1: no valid YAML"),
        ("A: 1\n---\nB: 2\n", "line 2, column 1: no valid YAML"),
        ("SEED: 1\nA: \0", "line 2: no valid YAML"),
        ("A: *unknown", "no valid YAML: found undefined alias"),
        ("SEED: 1\nSEED: 2", "line 2: SEED: this key is set twice"),
        ("MODEL: {DEVICE: a, DEVICE: b}", "DEVICE: this key is set twice"),
        ("1: a", "expected a name as key"),
        ("[a]: b", "expected a name as key"),
        ("null: b", "expected a name as key"),
        ("OUTPUT_DIR: 2020-01-01", "is a date in YAML: write it in quotes"),
        ("SEED: !!int abc", "expected a value of type int, got 'abc'"),
        ("SEED: " + "9" * 100, "expected a value of type int"),
        ("SEED: " + ":".join(["1"] * 90), "expected a value of type int"),
        (laughs(), "more than 10000 values"),
        ("a: &a [*a]", "nested more than"),
        ("a: &a {b: *a}", "nested more than"),
        ("A: " + "[" * 100_000, "nested too deep"),
        ("A: " + "[" * 30 + "]" * 30, "nested more than"),
        ("A: [" + "1," * 11_000 + "]", "more than 10000 values"),
        ("A: " + "x" * 140_000, "larger than 128 KiB"),
        ("<<: 3", "<<: expected a mapping"),
        ("_BASE_: 3", "_BASE_: expected a path or a list of paths, got 3"),
        ("_BASE_: {}", "_BASE_: expected a path"),
        ("_BASE_: [[a]]", "_BASE_: expected a path"),
        ("_BASE_: ''", "_BASE_: expected a path"),
        ("_BASE_: null", "_BASE_: expected a path"),
        ("_BASE_: a.yaml", r"goes round in a loop: a\.yaml -> a\.yaml"),
        ("_BASE_: http://127.0.0.1:9/a.yaml", "is remote"),
        ("_BASE_: [s3://bucket/a.yaml]", "is remote"),
        ("_BASE_: detectron2://a.yaml", "is remote"),
        ("_BASE_: file:///a.yaml", "is remote"),
        (
            "_BASE_: missing.yaml",
            r"missing\.yaml \(_BASE_ of .*a\.yaml\) does not exist: it is rel",
        ),
        ("_BASE_: .", "is no regular file"),
        ("_BASE_: /dev/zero", "is no regular file"),
        ('_BASE_: "a\\0b"', "cannot be read"),
        ("_BASE_: " + "x" * 300, "cannot be read"),
        ("MODEL: {_BASE_: a.yaml}", "_BASE_ stands in files only, at their top"),
        ("VERSION: 1", "line 1: VERSION: expected 2, got 1"),
    ],
)
def test_unusable_files(write, cfg, text, message):
    before = cfg.clone()
    path = write("a.yaml", text)
    with pytest.raises(ConfigError, match=message) as error:
        cfg.merge_from_file(path)
    assert "a.yaml" in str(error.value)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 900
    assert cfg == before


def test_other_files_that_cannot_be_read(tmp_path, cfg):
    fifo, latin, folder = tmp_path / "fifo.yaml", tmp_path / "latin.yaml", tmp_path / "d.yaml"
    os.mkfifo(fifo)
    latin.write_bytes(b"OUTPUT_DIR: caf\xe9\n")
    folder.mkdir()
    for path, message in (
        (fifo, "no regular file"),
        (folder, "no regular file"),
        (latin, "byte 15 is not UTF-8"),
        (tmp_path / "nowhere.yaml", "does not exist"),
        ("https://127.0.0.1:9/a.yaml", "is remote"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            cfg.merge_from_file(path)


def test_bases_are_bounded(write, cfg):
    for number in range(20):
        write(f"{number}.yaml", f"_BASE_: {number + 1}.yaml")
    with pytest.raises(ConfigError, match="more than 16 deep"):
        cfg.merge_from_file(write("a.yaml", "_BASE_: 0.yaml"))
    write("0.yaml", "SEED: 1")
    for number in range(1, 8):
        write(f"{number}.yaml", f"_BASE_: [{number - 1}.yaml, {number - 1}.yaml]")
    with pytest.raises(ConfigError, match="more than 64 files"):
        cfg.merge_from_file(write("a.yaml", "_BASE_: 7.yaml"))


def test_anchors_and_merge_keys(write, cfg):
    text = """
        INPUT: &input {CROP: &crop {ENABLED: true, SIZE: [1.0, 1.0]}}
        TEST: {AUG: {MIN_SIZES: &sizes [1, 2]}}
        DATALOADER: {<<: [{NUM_WORKERS: 3}, {NUM_WORKERS: 5, REPEAT_THRESHOLD: 0.5}]}
    """
    cfg.merge_from_file(write("a.yaml", text))
    assert cfg.INPUT.CROP.ENABLED and cfg.TEST.AUG.MIN_SIZES == (1, 2)
    assert (cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.REPEAT_THRESHOLD) == (3, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: 1\nMODEL:\n  WEIGTHS: a", "line 3: MODEL.WEIGTHS: there is no such key"),
        ("MODEL: {WEIGTHS: a}", "; did you mean MODEL.WEIGHTS"),
        ("MODEL:", "line 1: MODEL: expected a section with keys such as"),
        ("MODEL: 3", "MODEL: expected a section"),
        ("SEED: {A: 1}", "SEED: expected an integer, got {'A': 1}"),
        ("SEED: abc", "SEED: expected an integer, got 'abc'"),
        ("SEED: 1.5", "SEED: expected an integer, got 1.5"),
        ("SEED: true", "SEED: expected an integer, got True"),
        ("SOLVER: {BASE_LR: fast}", "SOLVER.BASE_LR: expected a number, got 'fast'"),
        ("SOLVER: {STEPS: 3}", "SOLVER.STEPS: expected a list in brackets"),
        ("SOLVER: {STEPS: [{a: 1}]}", "SOLVER.STEPS: expected text, numbers and lists"),
        ("OUTPUT_DIR: [a]", "OUTPUT_DIR: expected a text"),
        ('OUTPUT_DIR: "\\ud800"', "without control characters and surrogates"),
        ('OUTPUT_DIR: "a\\e[31m"', "without control characters"),
        ("CUDNN_BENCHMARK: 1", "expected True or False"),
        ('"MODEL.WEIGHTS": a', "there is no such key"),
    ],
)
def test_settings_that_there_are_not(write, cfg, text, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")) as error:
        cfg.merge_from_file(write("a.yaml", text))
    assert str(error.value).isprintable()


def test_three_faults_are_shown(write, cfg):
    with pytest.raises(ConfigError) as error:
        cfg.merge_from_file(write("a.yaml", "A: 1\nB: 2\nC: 3\nD: 4\nE: 5\nSEED: 7\n"))
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and lines[2].endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SEED"], "odd number of arguments, the last of which is SEED"),
        (["SEED", "1", "--resume"], "options such as --resume come before"),
        (["SEED=1"], "write KEY VALUE, without '='"),
        (["SOLVER.MAX_ITR", "1"], "did you mean SOLVER.MAX_ITER"),
        (["solver.max_iter", "1"], "did you mean SOLVER.MAX_ITER"),
        (["SOLVER", "1"], "SOLVER: expected a section"),
        (["SEED.A", "1"], "SEED: expected an integer"),
        (["", "1"], "there is no such key"),
        (["_BASE_", "a.yaml"], "_BASE_ stands in files only"),
        (["SEED", "(" * 100_000], "SEED: expected an integer"),
        (["SEED", "[" * 9_000], "SEED: expected an integer"),
        (["SEED", "9" * 9_000], "SEED: expected an integer"),
        (["SEED", "{[]: 1}"], "SEED: expected an integer"),
        (["SEED", "1j"], "SEED: expected an integer"),
        (["SOLVER.STEPS", "({1},)"], "expected text, numbers and lists"),
        (["SOLVER.BASE_LR", "9" * 400], "SOLVER.BASE_LR: expected a number"),
        (["\x1b[31m", "1"], r"\\x1b"),
    ],
)
def test_pairs_that_cannot_be(cfg, opts, message):
    with pytest.raises(ConfigError, match=message) as error:
        cfg.merge_from_list(opts)
    assert str(error.value).isprintable()


def test_pairs(cfg):
    cfg.merge_from_list(
        [
            *("SOLVER.BASE_LR", "1", "OUTPUT_DIR", "2024", "SOLVER.STEPS", "[1, 2]", "SEED", 3),
            *("DATASETS.TRAIN", "('a',)", "MODEL.WEIGHTS", "'quoted'", "SOLVER.GAMMA", "1e-4"),
        ]
    )
    assert (cfg.SOLVER.BASE_LR, type(cfg.SOLVER.BASE_LR)) == (1.0, float)
    assert (cfg.OUTPUT_DIR, cfg.SOLVER.STEPS, cfg.SEED) == ("2024", (1, 2), 3)
    assert (cfg.DATASETS.TRAIN, cfg.MODEL.WEIGHTS) == (("a",), "quoted")
    assert cfg.SOLVER.GAMMA == 1e-4


def test_sections_that_allow_new_keys(defaults):
    node = SafeCfgNode({"A": {}}, new_allowed=True)
    node.A.set_new_allowed(True)
    node.merge_from_list(["A.B", "3", "C", "[1]"])
    node.merge_from_other_cfg(CfgNode({"D": {"E": 1}}))
    assert node == {"A": {"B": 3}, "C": [1], "D": {"E": 1}}
    assert type(SafeCfgNode.from_node(node).D) is SafeCfgNode
    assert SafeCfgNode.from_node(node).is_new_allowed()


def test_config_as_text(cfg):
    cfg.merge_from_list(["SOLVER.BASE_LR", "0.5", "OUTPUT_DIR", "2024"])
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    cfg.MODEL.SEM_SEG_HEAD.NAME = "MaskFormerHead"
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    again = config_from_yaml(cfg.dump(), "model.pth")
    # Lists in lists are tuples in some defaults, which YAML does not know.
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert type(again) is SafeCfgNode
    with pytest.raises(ConfigError, match=r"model\.pth, line 1: ODD: there is no such key"):
        config_from_yaml("ODD: 1", "model.pth")
    with pytest.raises(ConfigError, match=r"model\.pth: _BASE_ is for files only"):
        config_from_yaml("_BASE_: a.yaml", "model.pth")


def test_loading_says_nothing(caplog, recwarn):
    path = Path(__file__).resolve().parents[3] / "configs/quickstart/mask2former_R18.yaml"
    load_config(str(path))
    assert not caplog.records and not recwarn.list

"""Systems come in by the entry point alone: nothing that they share imports or names one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SYSTEMS = {"autofocusformer", "eomt", "mask2former", "mask2former_video", "panoptic_segformer"}
NAMES = re.compile(
    r"mask_?2?_?former|seg_?former|auto_?focus_?former|\baff\b|_aff_|eomt"
    r"|image_?folder|image_classification|accuracy",  # what only AutoFocusFormer has
    re.IGNORECASE,
)
SHARED = [
    *sorted((ROOT / "projects/segcore").rglob("*.py")),
    ROOT / "train_net.py",
    ROOT / "demo.py",
    *sorted((ROOT / "tools").glob("*.py")),
]
# Config values of the official files, which every system can be run with.
OFFICIAL_VALUES = {
    "mask_former_semantic",
    "mask_former_panoptic",
    "mask_former_instance",
    "mask2former",  # a merging strategy
}


def docstrings(tree: ast.AST) -> set[ast.AST]:
    """The expressions of a module that only say something."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def words(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of identifiers, modules and strings, without comments and docstrings."""
    tree = ast.parse(source)
    silent = docstrings(tree)
    for node in ast.walk(tree):
        if node in silent:
            continue
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield getattr(node, "lineno", 0), text


def named_systems(source: str) -> list[tuple[int, str]]:
    return [
        (line, text)
        for line, text in words(source)
        if NAMES.search(text) and text not in OFFICIAL_VALUES
    ]


def imported(source: str) -> set[str]:
    """Top-level names of the imports, wherever they stand."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    return modules


@pytest.mark.parametrize("path", SHARED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shared_code_imports_and_names_no_system(path):
    source = path.read_text(encoding="utf-8")
    assert not imported(source) & SYSTEMS
    assert named_systems(source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import mask2former.config",
        "def f():\n    from panoptic_segformer import x",
        "cfg.MODEL.MASK_FORMER",
        "cfg.MODEL['AFF']",
        "if name == 'panoptic_segformer': pass",
        "f'such as AutoFocusFormer {x}'",
        "class MaskFormerMapper: pass",
        "register_mapper('eomt_panoptic')",
        "def segformer(x): pass",
        "f(aff=1)",
    ],
)
def test_a_named_system_is_found(source):
    assert named_systems(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Attention of AutoFocusFormer."""',
        "x = 1  # as in Mask2Former",
        'def f():\n    """See Mask2Former."""',
        "strategy == 'mask2former'",
        "affine(difference)",
    ],
)
def test_what_says_nothing_is_free(source):
    assert named_systems(source) == []

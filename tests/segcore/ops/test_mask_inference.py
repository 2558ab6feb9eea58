import pytest
import torch
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import mask_inference_inputs as make_inputs
from segcore.ops import MaskInference, mask_inference, mask_inference_reference

needs_binary = checks.needs_binary("mask_inference")
VALUES = {"sigmoid": False, "of_logits": False, "measured_threshold": 0.4}
STEPS = {
    "none": [],
    "enlarged": [((20, 34), (160, 272))],
    "cut": [((20, 34), (80, 135)), ((79, 131), (79, 131))],
    "enlarged twice": [((20, 34), (80, 135)), ((79, 131), (150, 301))],
    "reduced": [((20, 34), (80, 135)), ((79, 131), (61, 90))],
    "rows only": [((19, 34), (300, 34))],
    "columns only": [((20, 33), (20, 300))],
    "one row": [((20, 34), (1, 300))],
}


def assert_equals_twin(arguments, **options):
    actual = MaskInference(*mask_inference(**arguments, **options))
    expected = mask_inference_reference(**arguments, **options)
    for name, result in expected._asdict().items():
        torch.testing.assert_close(getattr(actual, name), result, msg=lambda m, n=name: f"{n}: {m}")
    return actual


@pytest.mark.parametrize("options", [{}, VALUES], ids=["logits", "values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", STEPS)
def test_matches_twin(steps, dtype, options):
    arguments = make_inputs(steps=STEPS[steps], dtype=dtype)
    actual = assert_equals_twin(arguments, **options)
    assert actual.class_scores.dtype == actual.sums.dtype == dtype
    assert actual.best.dtype == torch.int32 and actual.binary.dtype == torch.bool


@pytest.mark.parametrize(
    "sizes",
    [{"classes": 0, "measured": 0}, {"candidates": 0}, {"measured": 0}, {"classes": 0},
     {"masks": 0, "candidates": 0, "measured": 0}, {"masks": 300}],
    ids=str,
)  # fmt: skip
def test_matches_twin_without_some_results(sizes):
    assert_equals_twin(make_inputs(**sizes, dtype=torch.float32))


@pytest.mark.parametrize("operator", [mask_inference, mask_inference_reference])
def test_by_hand(operator):
    """Candidates tie at the first pixel; the second wins outside of its mask, then inside."""
    masks = torch.tensor([[[0.9, 0.1, 0.0]], [[0.9, 0.4, 2.0]]])
    results = MaskInference(
        *operator(
            masks, [], torch.tensor([[1.0, 0.5]]), torch.tensor([0, 1]), torch.ones(2),
            torch.tensor([1, 0]), **VALUES | {"measured_threshold": 0.5},
        )
    )  # fmt: skip
    torch.testing.assert_close(results.class_scores, torch.tensor([[[1.35, 0.3, 0.5]]]))
    assert results.best.tolist() == [[1, 0, 2]]
    assert results.won.tolist() == [[0, 1, 1], [1, 1, 2]]
    assert results.binary.tolist() == [[[True, False, True]], [[True, False, False]]]
    torch.testing.assert_close(results.sums, torch.tensor([2.9, 0.9]))
    assert results.areas.tolist() == [2, 1]
    assert results.boxes.tolist() == [[0, 0, 3, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("operator", [mask_inference, mask_inference_reference])
def test_wild_values(operator):
    """Empty masks have empty boxes, large logits the values 0 and 1, and the first NaN wins."""
    masks = torch.tensor([-1e9, torch.nan, torch.nan, 1e9, -torch.inf])
    masks = masks[:, None, None].expand(-1, 3, 50)
    chosen = torch.arange(5)
    results = MaskInference(*operator(masks, [], torch.eye(5), chosen, torch.ones(5), chosen))
    assert results.won[:, 0].tolist() == [0, 150, 0, 0, 0]
    assert results.areas.tolist() == [0, 0, 0, 150, 0]
    assert results.boxes[[0, 3]].tolist() == [[0, 0, 0, 0], [0, 0, 50, 3]]
    assert results.class_scores[[0, 3, 4], 0, 0].isnan().all()  # 0 times NaN


@needs_binary
def test_result_does_not_depend_on_threads():
    arguments = make_inputs(steps=[((20, 34), (300, 401))], dtype=torch.float32)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(mask_inference(**arguments))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


def test_types_and_strides():
    arguments = make_inputs(dtype=torch.float32)
    changes = {
        "masks": lambda m: m.permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_(),
        "class_weights": lambda w: w.T.contiguous().T.double(),
        "candidates": torch.Tensor.int,
    }
    changed = mask_inference(**checks.changed(arguments, changes))
    assert all(map(torch.equal, changed, mask_inference(**arguments)))
    assert not changed[0].requires_grad


@needs_binary
@pytest.mark.parametrize("sizes", [{}, {"masks": 0, "candidates": 0, "measured": 0}], ids=str)
def test_opcheck(sizes):
    masks, steps, *others, measured = make_inputs(**sizes).values()
    sizes = [side for step in steps for part in step for side in part]
    arguments = (masks, sizes, True, *others, 0.5, measured, 0.0, True)
    opcheck(torch.ops.segcore.mask_inference.default, arguments)


def test_compiles_without_graph_break():
    compiled = torch.compile(mask_inference, fullgraph=True, backend="aot_eager")
    arguments = make_inputs()
    assert all(map(torch.equal, compiled(**arguments), mask_inference(**arguments)))


@pytest.mark.parametrize("operator", [mask_inference, mask_inference_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"masks": lambda m: m.half()}, TypeError, "masks: expected float32 or float64"),
        ({"masks": lambda m: m[0]}, ValueError, r"masks: expected shape \(N, h, w\)"),
        ({"steps": lambda s: [((21, 34), (5, 5))]}, ValueError, "steps: expected a part of"),
        ({"steps": lambda s: [((20, 34), (0, 5))]}, ValueError, "steps: expected sizes"),
        ({"class_weights": lambda w: w[:, 1:]}, ValueError, "class_weights: expected shape"),
        ({"candidates": lambda c: c.float()}, TypeError, "candidates: expected int64 or int32"),
        ({"candidate_scores": lambda s: s[1:]}, ValueError, "candidate_scores: expected shape"),
        ({"measured": lambda m: m[:, None]}, ValueError, "measured: expected shape"),
        ({"measured": lambda m: m.to("meta")}, ValueError, "measured: expected the device of"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message):
        operator(**checks.changed(make_inputs(), change))


@needs_binary
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": lambda c: c + 7}, "candidates: expected indices from 0 to 6"),
        ({"measured": lambda m: m - 7}, "measured: expected indices from 0 to 6"),
        ({"measured": lambda m: m * 0}, "measured: expected each mask once, got 0 twice"),
    ],
)
def test_bad_indices_are_named(change, message):
    with pytest.raises(RuntimeError, match=message):
        mask_inference(**checks.changed(make_inputs(), change))

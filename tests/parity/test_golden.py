"""The golden folder itself: cases are there, and the comparison can fail."""

import numpy as np
import pytest
import torch

from parity.golden import (
    GOLDEN_ROOT,
    SYSTEMS,
    Comparison,
    cases_root,
    fill_model,
    find_cases,
    first_number,
    generated,
    parse_slice,
    z,
)

needs_golden = pytest.mark.skipif(not GOLDEN_ROOT.is_dir(), reason=f"{GOLDEN_ROOT} is absent")


@needs_golden
def test_there_are_cases():
    assert any(find_cases(system, "") for system in SYSTEMS), f"no case at all in {cases_root()}"


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (2e-6, 2e-6),
        ("float64: 2e-5; float32: 10x float32_vs_float64_max_abs", 2e-5),
        ("float64 re-run: |diff| <= 2e-5*max(1,max_abs)", 2e-5),
        ("sem_seg/scores 1e-5; maps, classes and segments exact in float64", 1e-5),
    ],
)
def test_tolerance_in_words(words, number):
    assert first_number(words) == number


def test_generated_input_is_a_function_of_its_name():
    assert torch.equal(generated("2*z('a', (2, 3))"), 2 * torch.from_numpy(z("a", (2, 3))))
    assert not np.array_equal(z("a", (2, 3)), z("b", (2, 3)))
    with pytest.raises(ValueError, match="not an input description"):
        generated("ones((2, 3))")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::", slice(None)),
        ("::6", slice(None, None, 6)),
        ("2:9:3", slice(2, 9, 3)),
        (":5", slice(None, 5)),
        ("-4:", slice(-4, None)),
    ],
)
def test_slices_of_stored_arrays(text, expected):
    assert parse_slice(text) == expected


@pytest.mark.parametrize("text", ["", "4", "1:2:3:4", "a:b"])
def test_other_texts_are_no_slices(text):
    with pytest.raises(ValueError):
        parse_slice(text)


def test_unknown_systems_have_no_cases():
    with pytest.raises(ValueError, match=r"expected one of mask2former.*got 'mask3former'"):
        find_cases("mask3former", "full_")


@needs_golden
def test_fill_applies_overrides_in_order():
    plain, changed = torch.nn.Linear(4, 3).double(), torch.nn.Linear(4, 3).double()
    fill_model(plain, prefix="head.")
    fill_model(
        changed,
        prefix="head.",
        overrides=[("weight", "multiply", 2.0), ("head.w", "subtract_row_mean", None)],
    )
    expected = 2 * plain.weight - (2 * plain.weight).mean(dim=1, keepdim=True)
    torch.testing.assert_close(changed.weight, expected)
    assert torch.equal(changed.bias, plain.bias)


def test_comparison_lists_what_differs():
    comparison = Comparison()
    comparison.close("near", [1.0], [1.0 + 1e-9], 1e-6)
    comparison.close("far", [1.0], [2.0], 1e-6)
    comparison.close("nan", [float("nan")], [2.0], 1e-6)
    comparison.equal("ids", [1, 2], [1, 3])
    with pytest.raises(AssertionError, match="3 of 4 arrays differ") as error:
        comparison.check()
    assert "near" not in str(error.value)
    with pytest.raises(AssertionError, match="shape"):
        comparison.close("shape", [1.0], [1.0, 2.0], 1.0)
    with pytest.raises(AssertionError, match="nothing was compared"):
        Comparison().check()


def test_results_must_be_compared_and_inner_tensors_are_listed():
    comparison = Comparison()
    comparison.close("res2_feat", [1.0], [1.0], 1e-6)
    names = {"image_rgb", "res2_feat", "patch_embed", "downsample0"}
    patterns = {"results": r"res\d_feat", "inputs": ".*_rgb"}
    comparison.require_results(names, **patterns)
    assert comparison.not_compared == ["downsample0", "patch_embed"]
    with pytest.raises(AssertionError, match="not compared: res3_feat"):
        comparison.require_results(names | {"res3_feat"}, **patterns)
    comparison.require_results(names | {"res3_feat"}, **patterns, compared=["res3_feat"])

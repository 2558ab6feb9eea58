"""The official gather operators, and ours with the same meaning, on given lists."""

import pytest

from parity.autofocusformer.operators import check_operator, types
from parity.golden import parametrize_cases
from segcore.ops import point_gather, point_gather_reference
from segcore.ops.gather_reference import (
    deformable_gather_points,
    neighborhood_weighted_feature,
    weighted_gather,
)


@types
@parametrize_cases("autofocusformer", "op_neighbourhood_weighted_feature")
def test_weighted_feature(case, dtype, comparison):
    def operator(members, weights, features):
        return neighborhood_weighted_feature(weights, features, members)

    check_operator(case, operator, ("weights", "feat"), dtype, comparison)


@types
@parametrize_cases("autofocusformer", "op_weighted_gather")
def test_weighted_gather(case, dtype, comparison):
    check_operator(case, weighted_gather, ("weights", "feat"), dtype, comparison)


@types
@pytest.mark.parametrize("public", [point_gather, point_gather_reference])
@parametrize_cases("autofocusformer", "op_weighted_gather")
def test_point_gather(case, public, dtype, comparison):
    def operator(members, weights, features):
        return public(features, members, weights)

    check_operator(case, operator, ("weights", "feat"), dtype, comparison)


@types
@parametrize_cases("autofocusformer", "op_deformable_gather_points")
def test_deformable_gather(case, dtype, comparison):
    names = ("weights", "attn", "value")
    check_operator(case, deformable_gather_points, names, dtype, comparison)

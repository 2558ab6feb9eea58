"""The official attention operators on given member lists, values and gradients."""

from parity.autofocusformer.operators import check_operator, types
from parity.golden import parametrize_cases
from segcore.ops.gather_reference import neighborhood_av, neighborhood_qk


@types
@parametrize_cases("autofocusformer", "op_neighbourhood_qk")
def test_qk(case, dtype, comparison):
    def operator(members, query, key):
        return neighborhood_qk(query, key, members)

    check_operator(case, operator, ("query", "key"), dtype, comparison)


@types
@parametrize_cases("autofocusformer", "op_neighbourhood_av")
def test_av(case, dtype, comparison):
    def operator(members, attention, value):
        return neighborhood_av(attention, value, members)

    check_operator(case, operator, ("attn", "value"), dtype, comparison)

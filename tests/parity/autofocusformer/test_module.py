"""Single modules: outputs and gradients."""

import re

import torch
from torch import Tensor, nn

from autofocusformer.block import NeighborhoodAttention
from autofocusformer.deformable_attention import PointDeformAttn, TokenLevels
from autofocusformer.downsampling import AdaptiveDownsampling
from autofocusformer.pixel_decoder import PointConvolution
from autofocusformer.position_encoding import TokenPositionEncoding
from autofocusformer.tokens import Tokens
from parity.golden import Case, Comparison, fill_model, parametrize_cases
from segcore.ops import (
    ClusterNeighborhood,
    inverse_distance_weights,
    knn,
    neighborhood_attention_reference,
    point_gather,
    take,
)


class GivenNeighborhood:
    """Arbitrary members of each token, with some left out."""

    def __init__(self, members: Tensor, valid: Tensor) -> None:
        self._members, self._valid = members, valid

    def members(self, of: Tensor) -> tuple[Tensor, Tensor]:
        return take(self._members, of), take(self._valid, of)


def array(case: Case, name: str) -> Tensor:
    """Of a case, floats as float64 and integers as int64."""
    tensor = torch.from_numpy(case.arrays[name])
    return tensor.double() if tensor.is_floating_point() else tensor.long()


def leaf(case: Case, name: str) -> Tensor:
    return array(case, name).requires_grad_()


def filled(case: Case, module: nn.Module) -> nn.Module:
    fill_model(module.double(), prefix=case.info["parameter_prefix"])
    return module


def tokens_of(case: Case, features: Tensor, canvas: tuple[int, int] = (1, 1)) -> Tokens:
    return Tokens(features, array(case, "pos").float(), canvas)


def compare(comparison: Comparison, case: Case, results: dict[str, Tensor]) -> None:
    """Compare all results, and see that no output of the case is left."""
    atol, rtol = case.info["atol"], case.info["rtol"]
    for name, actual in results.items():
        comparison.close(name, actual, case.arrays[name], atol[name], relative=rtol)
    inputs = {"grad_out"} if "grad_out" in case.arrays else set()
    assert set(atol) - set(results) <= inputs
    comparison.check()


def gradients(case: Case, module: nn.Module) -> dict[str, Tensor]:
    """Those of the parameters that the case holds, after a backward pass."""
    parameters = dict(module.named_parameters())
    names = {name: name.removeprefix("grad_").replace("__", ".") for name in case.arrays}
    return {
        name: parameters[parameter].grad
        for name, parameter in names.items()
        if name != parameter and parameter in parameters
    }


@parametrize_cases("autofocusformer", "module_attention_global")
def test_global_attention(case, comparison):
    module = filled(case, NeighborhoodAttention(case.info["dim"], case.info["heads"]))
    feat, pos = leaf(case, "feat"), array(case, "pos").float()
    out = module(feat, pos, ClusterNeighborhood.global_attention(*pos.shape[:2]))
    out.backward(array(case, "grad_out"))
    results = {"out": out, "grad_feat": feat.grad, **gradients(case, module)}
    compare(comparison, case, results)


@parametrize_cases("autofocusformer", "module_attention_local")
def test_local_attention_to_arbitrary_members(case, comparison, monkeypatch):
    """The module around the composition in PyTorch, which takes arbitrary members."""
    module = filled(case, NeighborhoodAttention(case.info["dim"], case.info["heads"]))
    given = array(case, "neighbours"), array(case, "neighbour_valid").bool()

    def attend(q, k, v, positions, neighborhood, *parameters):
        return neighborhood_attention_reference(q, k, v, positions, *neighborhood, *parameters)

    monkeypatch.setattr("autofocusformer.block.cluster_attention", attend)
    feat = leaf(case, "feat")
    out = module(feat, array(case, "pos").float(), given)
    out.backward(array(case, "grad_out"))
    results = {"out": out, "grad_feat": feat.grad, **gradients(case, module)}
    compare(comparison, case, results)


@parametrize_cases("autofocusformer", "module_merging")
def test_merging(case, comparison):
    info = case.info
    module = filled(
        case,
        AdaptiveDownsampling(
            info["dim"],
            info["out_dim"],
            stride=info["stride"],
            alpha=info["alpha"],
            rate=info["rate"],
            reserve=info["reserved"] > 0,
        ),
    )
    feat, importance = leaf(case, "feat"), leaf(case, "importance")
    neighborhood = GivenNeighborhood(
        array(case, "neighbours"), array(case, "neighbour_valid").bool()
    )
    tokens = tokens_of(case, feat, tuple(info["canvas"]))
    merged = module(tokens, importance.squeeze(-1), neighborhood)
    comparison.equal("out_pos", merged.positions, case.arrays["out_pos"])
    merged.features.backward(array(case, "grad_out"))
    results = {
        "out": merged.features,
        "grad_feat": feat.grad,
        "grad_importance": importance.grad,
        **gradients(case, module),
    }
    compare(comparison, case, results)


@parametrize_cases("autofocusformer", "module_point_convolution")
def test_point_convolution(case, comparison):
    module = filled(case, PointConvolution(case.info["dim"], case.info["out_dim"]))
    feat = leaf(case, "feat")
    tokens = tokens_of(case, feat)
    nearest = knn(tokens.positions, tokens.positions, 9)
    comparison.equal("nearest", nearest, case.arrays["nearest"])
    out = module(tokens)
    out.backward(array(case, "grad_out"))
    compare(comparison, case, {"out": out, "grad_feat": feat.grad})


@parametrize_cases("autofocusformer", "module_sine_encoding")
def test_sine_encoding(case, comparison):
    encoding = TokenPositionEncoding(
        case.info["features_per_axis"], temperature=case.info["temperature"]
    )
    compare(comparison, case, {"out": encoding(array(case, "pos"))})


@parametrize_cases("autofocusformer", "module_interpolation")
def test_interpolation(case, comparison):
    database, query, feat = array(case, "database"), leaf(case, "query"), leaf(case, "feat")
    nearest = knn(query, database, case.info["k"])
    comparison.equal("nearest", nearest, case.arrays["nearest"])
    near = take(database, nearest.flatten(1)).unflatten(1, nearest.shape[1:])
    power = case.info["power"]

    out = point_gather(feat, nearest, inverse_distance_weights(query, near, power["out"]))
    (grad_feat,) = torch.autograd.grad(out, feat, array(case, "grad_out"))
    results = {"out": out, "grad_feat": grad_feat}
    for name in (name for name in power if name.startswith("weights_")):
        exponent = torch.tensor([power[name]], dtype=torch.float64, requires_grad=True)
        results[name] = inverse_distance_weights(query, near, exponent)
        if name == "weights_power2p3":
            results[name].backward(array(case, "weight_grad_out"))
            results |= {"grad_power": exponent.grad, "grad_query": query.grad}
    compare(comparison, case, results)


@parametrize_cases("autofocusformer", "module_deformable_attention")
def test_deformable_attention(case, comparison):
    info = case.info
    module = filled(
        case,
        PointDeformAttn(
            info["dim"],
            info["levels"],
            info["heads"],
            info["points"],
            power=3.0,
            learnable_power=True,
        ),
    )
    numbers = range(info["levels"])
    queries, values = (
        [leaf(case, f"{kind}_level{number}") for number in numbers] for kind in ("query", "value")
    )
    canvas = tuple(info["canvas"])
    levels = TokenLevels.from_tokens(
        [
            Tokens(value, array(case, f"pos_level{number}").float(), canvas)
            for number, value in enumerate(values)
        ]
    )
    out = module(torch.cat(queries, 1), levels.positions, torch.cat(values, 1), levels)
    grad_out = [array(case, f"grad_out_level{number}") for number in numbers]
    out.backward(torch.cat(grad_out, 1))
    results = gradients(case, module)
    for number, level in enumerate(out.split(levels.sizes, dim=1)):
        results[f"out_level{number}"] = level
        results[f"grad_query_level{number}"] = queries[number].grad
        results[f"grad_value_level{number}"] = values[number].grad
    compare(comparison, case, results)


def test_every_module_case_has_a_test():
    """A new kind of module case must not go unnoticed."""
    from parity.golden import find_cases

    tested = re.compile(
        "module_(attention_(global|local)|merging|point_convolution|sine_encoding|interpolation"
        "|deformable_attention)"
    )
    assert all(tested.match(case.name) for case in find_cases("autofocusformer", "module_"))

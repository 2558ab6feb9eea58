"""Tests that operators with gradients have to pass, on every device against their PyTorch twins."""

import pytest
import torch

import operator_checks as checks
import operator_inputs
from segcore import ops
from segcore.ops._library import has_kernel, is_compiled


class OperatorTester:
    """Base of the tests of an operator; a subclass says which, and adds what is special to it.

    Attributes:
        name: of the operator; ``operator_inputs.<name>_inputs`` makes its arguments
        differentiable: arguments that have a gradient
        tolerance: relative and absolute, of float32
        channels: numbers of channels to be tried
        sizes: options of the inputs with odd and empty sizes
        opcheck_sizes: options of the inputs for PyTorch's checks of the registration
        parallel_sizes: options of the inputs with work for several threads
        layouts: functions that change type or strides of arguments, but not the output
        bad_arguments: changes of arguments, and what public function and twin raise
        bad_kernel_arguments: changes of arguments, and the message of the compiled operator
    """

    name: str
    differentiable: tuple[str, ...]
    tolerance = 1e-5
    channels: tuple[int, ...]
    sizes: tuple[dict, ...]
    opcheck_sizes: tuple[dict, ...] = ({}, {"queries": 0})
    parallel_sizes: dict
    layouts: dict
    bad_arguments: tuple[tuple, ...]
    bad_kernel_arguments: tuple[tuple, ...]

    @property
    def operator(self):
        return getattr(ops, self.name)

    @property
    def twin(self):
        return getattr(ops, f"{self.name}_reference")

    def make_inputs(self, **options):
        return getattr(operator_inputs, f"{self.name}_inputs")(**options)

    def assert_same(self, arguments, dtype=torch.float64):
        tolerances = {}
        if dtype == torch.float32:
            tolerances = {"rtol": self.tolerance, "atol": self.tolerance}
        checks.assert_same(self.operator, self.twin, arguments, self.differentiable, **tolerances)

    def pytest_generate_tests(self, metafunc):
        cases = {
            "channels": self.channels,
            "sizes": self.sizes,
            "opcheck_sizes": self.opcheck_sizes,
            "bad": self.bad_arguments,
            "bad_for_kernels": self.bad_kernel_arguments,
        }
        for name in cases.keys() & set(metafunc.fixturenames):
            ids = [case[-1] if isinstance(case, tuple) else str(case) for case in cases[name]]
            metafunc.parametrize(name, cases[name], ids=ids)

    @pytest.fixture(params=["cpu", "cuda"])
    def device(self, request):
        if request.param == "cuda" and not (
            torch.cuda.is_available() and has_kernel(self.name, "cuda")
        ):
            pytest.skip("needs a GPU and a kernel of the operator for it")
        return request.param

    @pytest.fixture
    def binary(self):
        if not is_compiled(self.name, "cpu"):
            pytest.skip("segcore/_C.abi3.so has not been built")

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_matches_twin(self, channels, dtype, device):
        self.assert_same(self.make_inputs(channels=channels, dtype=dtype, device=device), dtype)

    def test_matches_twin_at_odd_and_empty_sizes(self, sizes, device):
        self.assert_same(self.make_inputs(device=device, **sizes))

    @pytest.mark.parametrize("dtype", checks.HALF_TYPES)
    def test_half_error_is_at_most_twice_that_of_pytorch(self, dtype, device):
        arguments = self.make_inputs(dtype=dtype, device=device)
        checks.assert_half_error_at_most_twice_pytorchs(
            self.operator, self.twin, arguments, self.differentiable
        )

    def gradcheck_inputs(self, device):
        return self.make_inputs(channels=3, device=device)

    def test_gradcheck(self, device):
        checks.assert_gradcheck(self.operator, self.gradcheck_inputs(device), self.differentiable)

    def test_result_does_not_depend_on_threads(self, binary):
        arguments = self.make_inputs(dtype=torch.float32, **self.parallel_sizes)
        checks.assert_independent_of_threads(self.operator, arguments, self.differentiable)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
    def test_opcheck(self, opcheck_sizes, dtype, device, binary):
        arguments = self.make_inputs(dtype=dtype, device=device, **opcheck_sizes)
        arguments = checks.with_flat_sizes(arguments)
        checks.assert_registered_well(self.name, arguments, self.differentiable)

    def test_second_derivative_is_refused(self, binary):
        name = self.differentiable[0]
        checks.assert_second_derivative_is_refused(self.operator, self.make_inputs(), name)

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_without_graph_break(self, dynamic):
        arguments = self.make_inputs(dtype=torch.float32)
        checks.assert_compiles(self.operator, arguments, self.differentiable, dynamic)

    def test_types_and_strides(self):
        arguments = self.make_inputs()
        changed = checks.changed(arguments, self.layouts)
        torch.testing.assert_close(self.operator(**changed), self.operator(**arguments))

    @pytest.mark.parametrize("public", [True, False], ids=["public", "twin"])
    def test_bad_arguments_are_named(self, public, bad):
        change, error, message = bad
        operator = self.operator if public else self.twin
        with pytest.raises(error, match=message):
            operator(**checks.changed(self.make_inputs(), change))

    def test_the_compiled_operator_guards_itself(self, bad_for_kernels, binary):
        change, message = bad_for_kernels
        arguments = checks.changed(checks.with_flat_sizes(self.make_inputs()), change)
        with pytest.raises(RuntimeError, match=message):
            getattr(torch.ops.segcore, self.name)(*arguments.values())


def permuted(*dims):
    """A function that returns a tensor of equal values whose memory has its dimensions permuted."""
    inverse = [dims.index(dim) for dim in range(len(dims))]
    return lambda tensor: tensor.permute(dims).contiguous().permute(inverse)

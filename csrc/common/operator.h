// Functions that a device registers for an operator with a gradient: with the parameters of the schema,
// they check the arguments before the kernels see them.
#pragma once

#include <array>
#include <tuple>
#include <type_traits>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"

namespace segcore {

// The types of the arguments of an operator, in the order of its schema.
template <typename... T>
struct ArgumentTypes {};

// `Arguments` has a member for each argument, in the order of the schema, and `Types`. kCheck refuses
// what would lead a kernel out of its tensors, and returns the sizes; the messages for users are in
// projects/segcore/ops, these guard calls of torch.ops.segcore.
template <typename Arguments, auto kCheck, typename Types = typename Arguments::Types>
struct Operator;

template <typename Arguments, auto kCheck, typename... T>
struct Operator<Arguments, kCheck, ArgumentTypes<T...>> {
  // kRun(arguments, sizes)
  template <auto kRun>
  static auto forward(T... values) {
    const Arguments arguments = {values...};
    return kRun(arguments, kCheck(arguments));
  }

  // kRun(grad_output, arguments, sizes)
  template <auto kRun>
  static auto backward(const torch::stable::Tensor& grad_output, T... values) {
    const Arguments arguments = {values...};
    return kRun(grad_output, arguments, check_backward(grad_output, arguments, values...));
  }

  // The same where the schema has a flag for a deterministic result, the last argument of kRun; a device
  // whose results are deterministic anyway takes none.
  template <auto kRun>
  static auto backward_in_mode(
      const torch::stable::Tensor& grad_output, T... values, bool deterministic) {
    const Arguments arguments = {values...};
    const auto sizes = check_backward(grad_output, arguments, values...);
    if constexpr (std::is_invocable_v<
                      decltype(kRun), decltype(grad_output), decltype(arguments), decltype(sizes),
                      bool>) {
      return kRun(grad_output, arguments, sizes, deterministic);
    } else {
      return kRun(grad_output, arguments, sizes);
    }
  }

 private:
  // The output has the type of the first argument.
  static auto check_backward(
      const torch::stable::Tensor& grad_output, const Arguments& arguments, T... values) {
    const auto sizes = kCheck(arguments);
    check_sizes("grad_output", grad_output, sizes.output());
    const torch::stable::Tensor& first = std::get<0>(std::tie(values...));
    check_type("grad_output", grad_output, first.scalar_type());
    check_same_device("grad_output", grad_output, first);
    return sizes;
  }
};

}  // namespace segcore

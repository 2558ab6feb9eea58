#include "point_deform_attn.cuh"

#include <utility>

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/point_deform_attn.h"
#include "aten.h"
#include "inverse_lists.h"
#include "launch.h"

namespace segcore::point_deform_attn {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The arguments as the kernels read them.
struct Prepared {
  const PointDeformAttnSizes sizes;
  const Tensor values, positions, neighbors, locations, attention, power;

  Prepared(const PointDeformAttnArguments& a, const PointDeformAttnSizes& s)
      : sizes(s),
        values(torch::stable::contiguous(a.values)),
        positions(torch::stable::contiguous(a.positions)),
        neighbors(torch::stable::contiguous(a.neighbors)),
        locations(torch::stable::contiguous(a.locations)),
        attention(torch::stable::contiguous(a.attention)),
        power(a.power) {}

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    return {
        sizes,
        data_ptr<T>(values),
        data_ptr<A>(positions),
        data_ptr<int64_t>(neighbors),
        data_ptr<A>(locations),
        data_ptr<A>(attention),
        data_ptr<A>(power)};
  }
};

Tensor run_forward(const PointDeformAttnArguments& a, const PointDeformAttnSizes& s) {
  const DeviceGuard guard(a.values.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.values, s.output());
  const cudaStream_t stream = current_stream(output);
  for_value_type(a.values.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = prepared.inputs<T>();
    T* target = data_ptr<T>(output);
    const bool aligned = are_aligned(in.values, target);
    for_row_access<T>(s.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
      launch(
          forward_kernel<T, decltype(offset), access.kVector, access.kLanes>,
          in.triples() * access.kLanes, stream, in, target);
    });
  });
  return output;
}

// The gradients that no other group of lanes writes to.
struct Gradients {
  Tensor locations, attention, power;  // power (triples, 1)
};

// Adds to the gradient of values by atomics, or writes its terms: what is not to be done is null.
template <typename T>
void launch_backward(
    const Inputs<T>& in,
    const T* grad_output,
    Accumulator<T>* grad_values,
    const ValueTerms<Accumulator<T>>& terms,
    Gradients& grad,
    cudaStream_t stream) {
  using A = Accumulator<T>;
  const bool aligned = are_aligned(in.values, grad_output, grad_values);
  for_row_access<T>(in.sizes.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
    launch(
        backward_kernel<T, decltype(offset), access.kVector, access.kLanes>,
        in.triples() * access.kLanes, stream, in, grad_output, grad_values, terms,
        data_ptr<A>(grad.locations), data_ptr<A>(grad.attention), data_ptr<double>(grad.power));
  });
}

// The gradients with that of values gathered, in one order of summation.
template <typename T>
Tensor gather_value_gradient(
    const Prepared& prepared, const Tensor& upstream, Gradients& grad, cudaStream_t stream) {
  using A = Accumulator<T>;
  const PointDeformAttnSizes& s = prepared.sizes;
  const Inputs<T> in = prepared.inputs<T>();
  const int64_t count = in.triples() * s.samples() * s.neighbors;
  Tensor keys = torch::stable::new_empty(upstream, {count}, ScalarType::Long);
  Tensor coefficients = torch::stable::new_empty(prepared.attention, {count});
  launch_backward<T>(
      in, data_ptr<T>(upstream), nullptr, {data_ptr<int64_t>(keys), data_ptr<A>(coefficients)},
      grad, stream);
  const Bins bins = sort_into_bins(keys, s.batch * s.heads * s.tokens);
  Tensor grad_values = torch::stable::new_empty(prepared.values, prepared.values.sizes());
  T* target = data_ptr<T>(grad_values);
  const T* source = data_ptr<T>(upstream);
  const bool aligned = are_aligned(source, target);
  for_row_access<T>(s.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
    launch(
        value_gradients_kernel<T, decltype(offset), access.kVector, access.kLanes>,
        s.batch * s.tokens * s.heads * access.kLanes, stream, in, source, bins.lists(),
        data_ptr<A>(std::as_const(coefficients)), target);
  });
  return grad_values;
}

PointDeformAttnGradients run_backward(
    const Tensor& grad_output,
    const PointDeformAttnArguments& a,
    const PointDeformAttnSizes& s,
    bool deterministic) {
  const DeviceGuard guard(a.values.get_device_index());
  const Prepared prepared(a, s);
  const ScalarType type = a.values.scalar_type(), precision = a.power.scalar_type();
  const Tensor upstream = torch::stable::contiguous(grad_output);
  Gradients grad = {
      torch::stable::new_empty(a.locations, a.locations.sizes()),
      torch::stable::new_empty(a.attention, a.attention.sizes()),
      torch::stable::new_empty(
          a.power, {s.batch * s.queries * s.heads, 1}, ScalarType::Double)};
  Tensor grad_values;
  const cudaStream_t stream = current_stream(upstream);
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    if (deterministic) {
      grad_values = gather_value_gradient<T>(prepared, upstream, grad, stream);
    } else {
      Tensor sums = torch::stable::new_zeros(a.values, a.values.sizes(), precision);
      launch_backward<T>(
          prepared.inputs<T>(), data_ptr<T>(upstream), data_ptr<Accumulator<T>>(sums), {}, grad,
          stream);
      grad_values = torch::stable::to(sums, type);
    }
  });
  return {
      grad_values, grad.locations, grad.attention, sum_of_rows(grad.power, precision)};
}

}  // namespace
}  // namespace segcore::point_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "point_deform_attn", TORCH_BOX(&PointDeformAttn::forward<point_deform_attn::run_forward>));
  library.impl(
      "point_deform_attn_backward",
      TORCH_BOX(&PointDeformAttn::backward_in_mode<point_deform_attn::run_backward>));
}

#include "point_deform_attn.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/point_deform_attn.h"
#include "aten.h"
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
    for_row_access<T>(s.channels, are_aligned(in.values, target), [&](auto access) {
      launch(
          forward_kernel<T, access.kVector, access.kLanes>, in.triples() * access.kLanes, stream,
          in, target);
    });
  });
  return output;
}

PointDeformAttnGradients run_backward(
    const Tensor& grad_output, const PointDeformAttnArguments& a, const PointDeformAttnSizes& s) {
  const DeviceGuard guard(a.values.get_device_index());
  const Prepared prepared(a, s);
  const ScalarType type = a.values.scalar_type(), precision = a.power.scalar_type();
  const Tensor upstream = torch::stable::contiguous(grad_output);
  Tensor grad_values = torch::stable::new_zeros(a.values, a.values.sizes(), precision);
  Tensor grad_locations = torch::stable::new_empty(a.locations, a.locations.sizes());
  Tensor grad_attention = torch::stable::new_empty(a.attention, a.attention.sizes());
  Tensor grad_power = torch::stable::new_empty(
      a.power, {s.batch * s.queries * s.heads, 1}, ScalarType::Double);
  const cudaStream_t stream = current_stream(upstream);
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T> in = prepared.inputs<T>();
    const T* grad = data_ptr<T>(upstream);
    A* target = data_ptr<A>(grad_values);
    for_row_access<T>(s.channels, are_aligned(in.values, grad, target), [&](auto access) {
      launch(
          backward_kernel<T, access.kVector, access.kLanes>, in.triples() * access.kLanes, stream,
          in, grad, target, data_ptr<A>(grad_locations), data_ptr<A>(grad_attention),
          data_ptr<double>(grad_power));
    });
  });
  return {
      torch::stable::to(grad_values, type), grad_locations, grad_attention,
      sum_of_rows(grad_power, precision)};
}

}  // namespace
}  // namespace segcore::point_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "point_deform_attn", TORCH_BOX(&PointDeformAttn::forward<point_deform_attn::run_forward>));
  library.impl(
      "point_deform_attn_backward",
      TORCH_BOX(&PointDeformAttn::backward<point_deform_attn::run_backward>));
}

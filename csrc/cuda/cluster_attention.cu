#include "cluster_attention.cuh"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <type_traits>

#include <torch/csrc/stable/library.h>

#include "../common/cluster_attention.h"
#include "../common/dispatch.h"
#include "aten.h"
#include "cluster_attention_tiles.cuh"
#include "launch.h"

namespace segcore::cluster_attention {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// True if every row can be read 16 bytes at a time.
template <typename T>
bool is_aligned(const Rows<const T>& rows) {
  constexpr int64_t kCount = kVectorBytes / sizeof(T);
  return are_aligned(rows.data) && rows.batch % kCount == 0 && rows.token % kCount == 0 &&
      rows.head % kCount == 0;
}

// Lanes that share a row, at most: each has a register for every one of their members.
constexpr int kMostLanes = 16;

// Bound of the offsets in an image, those of lanes without work included.
template <typename T>
int64_t largest_offset(const Inputs<T>& in, std::initializer_list<Rows<const T>> rows) {
  const ClusterAttentionSizes& s = in.sizes;
  int64_t of_token = std::max<int64_t>({2, s.heads * s.channels, s.heads, s.clusters_per_token});
  for (const Rows<const T>& each : rows) of_token = std::max(of_token, std::abs(each.token));
  return std::max(in.slots() + kWarp, (s.tokens + kWarpsOfBlock) * of_token);
}

// Calls `run` with the RowAccess and the type of offsets for all kernels.
template <typename T, typename Run>
void for_rows(const Inputs<T>& in, std::initializer_list<Rows<const T>> rows, const Run& run) {
  const bool aligned = std::all_of(
      rows.begin(), rows.end(), [](const Rows<const T>& each) { return is_aligned(each); });
  for_row_access<T, kMostLanes>(in.sizes.channels, aligned, largest_offset(in, rows), run);
}

// Least tokens of a cluster for the tiles: of fewer, most columns would be empty.
constexpr int64_t kLeastClusterOfTiles = 5;

// Calls `run` with the number of channels as a constant, if the kernels with tiles take these rows.
template <typename T, typename Run>
bool for_tiles(const Inputs<T>& in, std::initializer_list<Rows<const T>> rows, const Run& run) {
  if constexpr (!std::is_same_v<T, double>) {
    const ClusterAttentionSizes& s = in.sizes;
    constexpr int64_t kLargest = std::numeric_limits<int32_t>::max() / 2;
    const bool fits = std::all_of(rows.begin(), rows.end(), [](const Rows<const T>& each) {
      return is_aligned(each) && std::abs(each.token) <= kLargest;
    });
    if (!fits || s.cluster_size < kLeastClusterOfTiles || s.cluster_size > kLargest) return false;
    if (s.tokens > kLargest / std::max<int64_t>(s.clusters_per_token, 1)) return false;
    if (s.channels == 16) return run(std::integral_constant<int, 16>()), true;
    if (s.channels == 32) return run(std::integral_constant<int, 32>()), true;
    if (s.channels == 64) return run(std::integral_constant<int, 64>()), true;
  }
  return false;
}

// The arguments as the kernels read them.
struct Prepared {
  const ClusterAttentionSizes sizes;
  const double scale;
  const Tensor q, k, v, clusters, positions, pos_weight, pos_bias, blank_k, blank_v;

  Prepared(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s)
      : sizes(s),
        scale(a.scale),
        q(with_rows(a.q)),
        k(with_rows(a.k)),
        v(with_rows(a.v)),
        clusters(torch::stable::contiguous(a.clusters)),
        positions(packed(a.positions)),
        pos_weight(torch::stable::contiguous(a.pos_weight)),
        pos_bias(torch::stable::contiguous(a.pos_bias)),
        blank_k(torch::stable::contiguous(a.blank_k)),
        blank_v(torch::stable::contiguous(a.blank_v)) {}

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    return {
        sizes,
        static_cast<A>(scale),
        rows_of<T>(q, q.stride(2)),
        rows_of<T>(k, k.stride(2)),
        rows_of<T>(v, v.stride(2)),
        data_ptr<int32_t>(clusters),
        data_ptr<A>(positions),
        data_ptr<A>(pos_weight),
        data_ptr<A>(pos_bias),
        data_ptr<A>(blank_k),
        data_ptr<A>(blank_v)};
  }
};

Tensor run_forward(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s) {
  const DeviceGuard guard(a.q.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.q, s.output());
  for_value_type(a.q.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = prepared.inputs<T>();
    const bool done = for_tiles(in, {in.q, in.k, in.v}, [&](auto channels) {
      launch_blocks(
          forward_tiles_kernel<T, channels>, tile_blocks(s, query_tiles(s)),
          current_stream(output), in, data_ptr<T>(output));
    });
    if (done) return;
    for_rows(in, {in.q, in.k, in.v}, [&](auto access, auto offset) {
      launch_blocks(
          forward_kernel<T, decltype(offset), access.kVector, access.kLanes>, blocks(s),
          current_stream(output), in, data_ptr<T>(output));
    });
  });
  return output;
}

// The gradients of q, k and v, and the shares of chunks of tokens in those of the parameters.
struct Gradients {
  Tensor q, k, v, parameters;
};

template <typename T>
void launch_backward(const BackwardInputs<T>& all, Gradients& grad, cudaStream_t stream) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const ClusterAttentionSizes& s = in.sizes;
  constexpr int64_t kNumbers = sizeof(TokenSums<A>) / sizeof(double);
  static_assert(sizeof(TokenSums<A>) % sizeof(double) == 0);
  Tensor buffer = torch::stable::new_empty(
      grad.parameters, {s.batch * s.tokens * s.heads * kNumbers});
  auto* sums = reinterpret_cast<TokenSums<A>*>(data_ptr<double>(buffer));
  const auto rows = {in.q, in.k, in.v, all.grad_output};
  const bool done = for_tiles(in, rows, [&](auto channels) {
    launch_blocks(
        backward_queries_tiles_kernel<T, channels>, tile_blocks(s, query_tiles(s)), stream, all,
        data_ptr<T>(grad.q), sums);
    launch_blocks(
        backward_keys_tiles_kernel<T, channels>, tile_blocks(s, key_tiles(s)), stream, all, sums,
        data_ptr<T>(grad.k), data_ptr<T>(grad.v));
  });
  if (!done) {
    for_rows(in, rows, [&](auto access, auto offset) {
      using Offset = decltype(offset);
      launch_blocks(
          backward_queries_kernel<T, Offset, access.kVector, access.kLanes>, blocks(s), stream, all,
          data_ptr<T>(grad.q), sums);
      launch_blocks(
          backward_keys_kernel<T, Offset, access.kVector, access.kLanes>, blocks(s), stream, all,
          sums, data_ptr<T>(grad.k), data_ptr<T>(grad.v));
    });
  }
  launch(
      backward_parameters_kernel<T>, parameter_chunks(s) * s.heads * kWarp, stream, all, sums,
      data_ptr<double>(grad.parameters));
}

ClusterAttentionGradients run_backward(
    const Tensor& grad_output,
    const ClusterAttentionArguments& a,
    const ClusterAttentionSizes& s) {
  const DeviceGuard guard(a.q.get_device_index());
  Gradients grad = {
      torch::stable::new_empty(a.q, a.q.sizes()), torch::stable::new_empty(a.k, a.k.sizes()),
      torch::stable::new_empty(a.v, a.v.sizes()),
      torch::stable::new_empty(
          a.q, {parameter_chunks(s), parameter_count(s)}, ScalarType::Double)};
  const Prepared prepared(a, s);
  const InverseClusters inverse(a, s);
  const Tensor upstream = with_rows(grad_output);
  for_value_type(a.q.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const BackwardInputs<T> all = {
        prepared.inputs<T>(), rows_of<T>(upstream, s.channels),
        data_ptr<int32_t>(inverse.indices), data_ptr<int64_t>(inverse.offsets)};
    launch_backward(all, grad, current_stream(upstream));
  });
  Parts totals(sum_of_rows(grad.parameters, a.pos_bias.scalar_type()));
  const Tensor pos_weight = totals.next_like(a.pos_weight), pos_bias = totals.next_like(a.pos_bias);
  const Tensor blank_k = totals.next_like(a.blank_k);
  return {grad.q, grad.k, grad.v, pos_weight, pos_bias, blank_k, totals.next_like(a.blank_v)};
}

}  // namespace
}  // namespace segcore::cluster_attention

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "cluster_attention", TORCH_BOX(&ClusterAttention::forward<cluster_attention::run_forward>));
  library.impl(
      "cluster_attention_backward",
      TORCH_BOX(&ClusterAttention::backward<cluster_attention::run_backward>));
}

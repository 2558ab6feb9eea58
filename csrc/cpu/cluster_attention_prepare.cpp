#include "cluster_attention.h"

#include "../common/dispatch.h"
#include "index_range.h"
#include "transpose.h"

namespace segcore::cluster_attention {
namespace {

// Positions of one block, and the penalty of empty slots. These have the position of token 0, so that
// their features are finite.
template <typename T>
void write_slots(const Block& block, const T* positions, T* slots) {
  for (int64_t l = 0; l < kLanes; ++l) {
    const bool filled = l < block.tokens;
    const T* position = positions + 2 * (filled ? block.first_token + l : 0);
    slots[l] = position[0];
    slots[l + kLanes] = position[1];
    slots[l + 2 * kLanes] = filled ? 0 : -std::numeric_limits<T>::infinity();
  }
}

// (tokens, channels) of one block and head -> (channels, kLanes).
template <typename T>
SEGCORE_TARGET_CLONES void transpose_tokens(
    const Block& block, const T* rows, int64_t stride, int64_t channels, T* transposed) {
  const T* row = rows + block.first_token * stride;
  int64_t first = 0;
  if (block.tokens == kLanes) {
    for (; first + kLanes <= channels; first += kLanes) {
      transpose_lanes(row + first, stride, transposed + first * kLanes, kLanes);
    }
  }
  std::fill(transposed + first * kLanes, transposed + channels * kLanes, T(0));
  for (int64_t l = 0; l < block.tokens; ++l) {
    for (int64_t c = first; c < channels; ++c) transposed[c * kLanes + l] = row[l * stride + c];
  }
}

template <typename T>
Tensor transposed_blocks(
    const Tensor& tensor, const ClusterAttentionSizes& s, const std::vector<Block>& block) {
  const int64_t blocks = static_cast<int64_t>(block.size());
  Tensor result =
      torch::stable::new_empty(tensor, {s.batch, s.heads, blocks, s.channels, kLanes});
  const Rows<const T> rows = rows_of<T>(tensor, tensor.stride(2));
  T* data = result.mutable_data_ptr<T>();
  torch::stable::parallel_for(
      0, s.batch * blocks, grain(s.heads * s.channels * kLanes * 4),
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t n = item / blocks, b = item % blocks;
          for (int64_t a = 0; a < s.heads; ++a) {
            T* target = data + ((n * s.heads + a) * blocks + b) * s.channels * kLanes;
            transpose_tokens(block[b], rows.row(n, 0, a), rows.token, s.channels, target);
          }
        }
      });
  return result;
}

template <typename T>
Tensor slots_of(
    const Tensor& positions, const ClusterAttentionSizes& s, const std::vector<Block>& block) {
  const int64_t blocks = static_cast<int64_t>(block.size());
  Tensor result = torch::stable::new_empty(positions, {s.batch, blocks, 3, kLanes});
  const T* position = positions.const_data_ptr<T>();
  T* slots = result.mutable_data_ptr<T>();
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t b = 0; b < blocks; ++b, slots += 3 * kLanes) {
      write_slots(block[b], position + n * s.tokens * 2, slots);
    }
  }
  return result;
}

// In order of their number; a block behind the last token has no tokens.
std::vector<Block> make_blocks(const ClusterAttentionSizes& s, int64_t blocks_per_cluster) {
  std::vector<Block> blocks;
  for (int64_t cluster = 0; cluster < s.clusters(); ++cluster) {
    const int64_t begin = cluster * s.cluster_size;
    const int64_t end = std::min(begin + s.cluster_size, s.tokens);
    for (int64_t b = 0; b < blocks_per_cluster; ++b) {
      const int64_t first = std::min(begin + b * kLanes, end);
      blocks.push_back({first, std::min(kLanes, end - first)});
    }
  }
  return blocks;
}

}  // namespace

Prepared::Prepared(
    const ClusterAttentionArguments& arguments,
    const ClusterAttentionSizes& sizes,
    bool for_backward)
    : sizes_(sizes), scale_(arguments.scale) {
  const ScalarType precision = accumulation_type(arguments.q.scalar_type());
  q_ = with_rows(torch::stable::to(arguments.q, precision));
  k_ = with_rows(torch::stable::to(arguments.k, precision));
  v_ = with_rows(torch::stable::to(arguments.v, precision));
  clusters_ = torch::stable::contiguous(arguments.clusters);
  positions_ = torch::stable::contiguous(arguments.positions);
  pos_weight_ = torch::stable::contiguous(arguments.pos_weight);
  pos_bias_ = torch::stable::contiguous(arguments.pos_bias);
  blank_k_ = torch::stable::contiguous(arguments.blank_k);
  blank_v_ = torch::stable::contiguous(arguments.blank_v);
  check_index_range(
      "clusters", clusters_.const_data_ptr<int32_t>(), clusters_.numel(), 0, sizes.clusters());

  blocks_per_cluster_ = (sizes.cluster_size + kLanes - 1) / kLanes;
  block_ = make_blocks(sizes, blocks_per_cluster_);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    slots_ = slots_of<T>(positions_, sizes, block_);
    k_lanes_ = transposed_blocks<T>(k_, sizes, block_);
    v_lanes_ = for_backward ? transposed_blocks<T>(v_, sizes, block_) : k_lanes_;
  });
}

template <typename T>
Inputs<T> Prepared::inputs() const {
  return {
      sizes_,
      static_cast<T>(scale_),
      rows_of<T>(q_, q_.stride(2)),
      rows_of<T>(k_, k_.stride(2)),
      rows_of<T>(v_, v_.stride(2)),
      clusters_.const_data_ptr<int32_t>(),
      positions_.const_data_ptr<T>(),
      pos_weight_.const_data_ptr<T>(),
      pos_bias_.const_data_ptr<T>(),
      blank_k_.const_data_ptr<T>(),
      blank_v_.const_data_ptr<T>(),
      blocks_per_cluster_,
      static_cast<int64_t>(block_.size()),
      block_.data(),
      slots_.const_data_ptr<T>(),
      k_lanes_.const_data_ptr<T>(),
      v_lanes_.const_data_ptr<T>()};
}

template Inputs<float> Prepared::inputs<float>() const;
template Inputs<double> Prepared::inputs<double>() const;

}  // namespace segcore::cluster_attention

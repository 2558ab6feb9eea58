// The arguments of attention of queries to keys, checked.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

struct AttentionSizes {
  int64_t batch, queries, keys, heads, channels;  // query (batch, queries, heads * channels)

  std::array<int64_t, 3> output() const { return {batch, queries, heads * channels}; }
};

struct __attribute__((visibility("hidden"))) AttentionArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, int64_t, double>;

  const Tensor &query, &key, &value;
  const std::optional<Tensor>& mask;
  int64_t heads;
  double scale;
};

inline AttentionSizes check_attention(const AttentionArguments& a) {
  check_dim("query", a.query, 3);
  check_dim("key", a.key, 3);
  STD_TORCH_CHECK(
      a.heads > 0 && a.query.size(2) % a.heads == 0,
      "query: expected heads * channels numbers a row, got ", a.query.size(2), " of ", a.heads,
      " heads");
  const AttentionSizes s = {
      a.query.size(0), a.query.size(1), a.key.size(1), a.heads, a.query.size(2) / a.heads};
  accumulation_type(a.query.scalar_type());
  for (const auto& [name, tensor] : {std::pair("key", &a.key), std::pair("value", &a.value)}) {
    check_sizes(name, *tensor, {s.batch, s.keys, a.query.size(2)});
    check_type(name, *tensor, a.query.scalar_type());
    check_same_device(name, *tensor, a.query);
  }
  if (a.mask) {
    check_sizes("mask", *a.mask, {s.batch, s.queries, s.keys});
    check_type("mask", *a.mask, torch::headeronly::ScalarType::Bool);
    check_same_device("mask", *a.mask, a.query);
  }
  return s;
}

using Attention = Operator<AttentionArguments, check_attention>;

}  // namespace segcore

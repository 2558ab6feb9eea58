#include "../common/ms_deform_attn_with_logits.h"

#include <algorithm>
#include <limits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "../common/reference_axis.h"
#include "grain.h"
#include "in_precision.h"
#include "lanes.h"
#include "ms_deform_attn.h"
#include "simd.h"

namespace segcore::ms_deform_attn_with_logits {
namespace {

using ms_deform_attn::kQueriesOfBlock;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
struct Inputs {
  MsDeformAttnSizes sizes;
  const Level* levels;
  int64_t coordinates;
  const T* references;  // (batch, queries, levels, coordinates)
  const T* offsets;     // (batch, queries, heads, levels, points, 2)
  const T* logits;      // (batch, queries, heads, levels, points)

  bool has_boxes() const { return coordinates == 4; }
  // Samples of one query, whose heads adjoin.
  int64_t samples_of_query() const { return sizes.heads * sizes.samples(); }
};

// The axes of all samples of a head, the same for each head of a query: (levels, points, 2).
template <typename T>
struct Axes {
  std::vector<T> center, divisor, factor;

  explicit Axes(const MsDeformAttnSizes& s)
      : center(2 * s.samples()), divisor(2 * s.samples()), factor(2 * s.samples()) {}

  SEGCORE_INLINE void set(const Inputs<T>& in, int64_t query) {
    const MsDeformAttnSizes& s = in.sizes;
    int64_t i = 0;
    for (int64_t l = 0; l < s.levels; ++l) {
      const T* reference = in.references + (query * s.levels + l) * in.coordinates;
      const int64_t cells[2] = {in.levels[l].width, in.levels[l].height};
      ReferenceAxis<T> axes[2];
      for (int k = 0; k < 2; ++k) {
        axes[k] = reference_axis(
            reference, in.has_boxes(), k, static_cast<T>(cells[k]), static_cast<T>(s.points));
      }
      for (int64_t p = 0; p < s.points; ++p) {
        for (int k = 0; k < 2; ++k, ++i) {
          center[i] = axes[k].center;
          divisor[i] = axes[k].divisor;
          factor[i] = axes[k].factor;
        }
      }
    }
  }
};

// Softmax of `heads` rows of `samples` numbers.
template <typename T>
SEGCORE_INLINE void softmax(const T* logits, int64_t heads, int64_t samples, T* weights) {
  for (int64_t m = 0; m < heads; ++m) {
    T largest = -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < samples; ++i) {
      const T logit = logits[m * samples + i];
      largest = logit > largest ? logit : largest;
    }
    for (int64_t i = 0; i < samples; ++i) {
      weights[m * samples + i] = logits[m * samples + i] - largest;
    }
  }
  for (int64_t i = 0; i < heads * samples; ++i) weights[i] = exp_of_negative(weights[i]);
  for (int64_t m = 0; m < heads; ++m) {
    T sum = 0;
    for (int64_t i = 0; i < samples; ++i) sum += weights[m * samples + i];
    for (int64_t i = 0; i < samples; ++i) weights[m * samples + i] /= sum;
  }
}

// Locations and weights of the queries [begin, end) of the batch.
template <typename T>
SEGCORE_TARGET_CLONES void prepare_samples(
    const Inputs<T>& in, Axes<T>& axes, int64_t begin, int64_t end, T* locations, T* weights) {
  const int64_t heads = in.sizes.heads, samples = in.sizes.samples();
  for (int64_t query = begin; query < end; ++query) {
    axes.set(in, query);
    const T *center = axes.center.data(), *divisor = axes.divisor.data();
    const T* factor = axes.factor.data();
    const T* offsets = in.offsets + 2 * query * in.samples_of_query();
    for (int64_t m = 0; m < heads; ++m, offsets += 2 * samples, locations += 2 * samples) {
      for (int64_t i = 0; i < 2 * samples; ++i) {
        const ReferenceAxis<T> axis = {center[i], divisor[i], factor[i]};
        locations[i] = axis.location(offsets[i]);
      }
    }
    softmax(in.logits + query * in.samples_of_query(), heads, samples, weights);
    weights += in.samples_of_query();
  }
}

// Gradients of offsets and logits in place of those of locations and weights, and those of the
// references, for the queries [begin, end) of the batch.
template <typename T>
SEGCORE_TARGET_CLONES void finish_gradients(
    const Inputs<T>& in,
    Axes<T>& axes,
    int64_t begin,
    int64_t end,
    const T* weights,
    T* grad_locations,
    T* grad_weights,
    T* grad_references) {
  const MsDeformAttnSizes& s = in.sizes;
  const int64_t samples = s.samples();
  std::vector<T> of_center(2 * samples), of_extent(2 * samples);
  for (int64_t query = begin; query < end; ++query) {
    axes.set(in, query);
    const T *divisor = axes.divisor.data(), *factor = axes.factor.data();
    std::fill(of_center.begin(), of_center.end(), T(0));
    std::fill(of_extent.begin(), of_extent.end(), T(0));
    T *center = of_center.data(), *extent = of_extent.data();
    for (int64_t m = 0; m < s.heads; ++m) {
      const int64_t first = query * in.samples_of_query() + m * samples;
      const T* offset = in.offsets + 2 * first;
      T* grad = grad_locations + 2 * first;
      for (int64_t i = 0; i < 2 * samples; ++i) {
        const ReferenceAxis<T> axis = {T(0), divisor[i], factor[i]};
        center[i] += grad[i];
        extent[i] += grad[i] * axis.slope_of_extent(offset[i]);
        grad[i] = axis.displacement(grad[i]);
      }
      const T* weight = weights + first;
      T *to_logit = grad_weights + first, mean = 0;
      for (int64_t i = 0; i < samples; ++i) mean += weight[i] * to_logit[i];
      for (int64_t i = 0; i < samples; ++i) to_logit[i] = weight[i] * (to_logit[i] - mean);
    }
    for (int64_t l = 0; l < s.levels; ++l) {
      T* to_reference = grad_references + (query * s.levels + l) * in.coordinates;
      for (int64_t i = 2 * l * s.points; i < 2 * (l + 1) * s.points; ++i) {
        to_reference[i % 2] += center[i];
        if (in.has_boxes()) to_reference[2 + i % 2] += extent[i];
      }
    }
  }
}

// The arguments as the kernels read them.
struct Prepared {
  const MsDeformAttnWithLogitsLevels& sizes;
  const ScalarType precision;
  const Tensor value, references, offsets, logits;

  Prepared(const MsDeformAttnWithLogitsArguments& a, const MsDeformAttnWithLogitsLevels& s)
      : sizes(s),
        precision(a.reference_points.scalar_type()),
        value(ms_deform_attn::head_major(a.value, precision)),
        references(torch::stable::contiguous(a.reference_points)),
        offsets(in_precision(a.sampling_offsets, precision)),
        logits(in_precision(a.attention_logits, precision)) {}

  template <typename T>
  Inputs<T> inputs() const {
    return {
        sizes,
        sizes.level.data(),
        sizes.coordinates,
        references.const_data_ptr<T>(),
        offsets.const_data_ptr<T>(),
        logits.const_data_ptr<T>()};
  }

  // Samples with these locations and weights.
  template <typename T>
  ms_deform_attn::Inputs<T> samples(const T* locations, const T* weights) const {
    return {sizes, sizes.level.data(), value.const_data_ptr<T>(), locations, weights};
  }
};

// Calls run(begin, end) with all queries of the batch, by all threads.
template <typename Run>
void for_queries(const MsDeformAttnSizes& s, int64_t work, const Run& run) {
  torch::stable::parallel_for(0, s.batch * s.queries, grain(s.heads * s.samples() * work), run);
}

template <typename T>
void forward(const Prepared& prepared, T* output) {
  const Inputs<T> in = prepared.inputs<T>();
  const MsDeformAttnSizes& s = in.sizes;
  for_queries(s, s.channels * 4, [&](int64_t begin, int64_t end) {
    Axes<T> axes(s);
    const int64_t row = in.samples_of_query();
    std::vector<T> locations(2 * kQueriesOfBlock * row), weights(kQueriesOfBlock * row);
    for (int64_t first = begin; first < end; first += kQueriesOfBlock) {
      const int64_t last = std::min(first + kQueriesOfBlock, end);
      prepare_samples(in, axes, first, last, locations.data(), weights.data());
      sum_samples<T>(
          prepared.samples<T>(nullptr, nullptr), first, last, locations.data(), weights.data(),
          output);
    }
  });
}

// The gradients of `grad` are zero before; those of offsets and logits take the place of those of
// locations and weights.
template <typename T>
void backward(
    const Prepared& prepared,
    const T* grad_output,
    const ms_deform_attn::Gradients<T>& grad,
    T* grad_references) {
  constexpr int64_t kWork = 16;  // of one sample
  const Inputs<T> in = prepared.inputs<T>();
  const MsDeformAttnSizes& s = in.sizes;
  const int64_t row = in.samples_of_query();
  Tensor all_locations = torch::stable::empty_like(prepared.offsets);
  Tensor all_weights = torch::stable::empty_like(prepared.logits);
  T *locations = all_locations.mutable_data_ptr<T>(), *weights = all_weights.mutable_data_ptr<T>();
  for_queries(s, kWork, [&](int64_t begin, int64_t end) {
    Axes<T> axes(s);
    prepare_samples(in, axes, begin, end, locations + 2 * begin * row, weights + begin * row);
  });
  compute_gradients<T>(prepared.samples<T>(locations, weights), grad_output, grad);
  for_queries(s, kWork, [&](int64_t begin, int64_t end) {
    Axes<T> axes(s);
    finish_gradients<T>(
        in, axes, begin, end, weights, grad.locations, grad.weights, grad_references);
  });
}

Tensor run_forward(
    const MsDeformAttnWithLogitsArguments& a, const MsDeformAttnWithLogitsLevels& s) {
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.value, s.output(), prepared.precision);
  for_precision(prepared.precision, [&](auto zero) {
    using T = decltype(zero);
    forward(prepared, output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, a.value.scalar_type());
}

MsDeformAttnWithLogitsGradients run_backward(
    const Tensor& grad_output,
    const MsDeformAttnWithLogitsArguments& a,
    const MsDeformAttnWithLogitsLevels& s) {
  const Prepared prepared(a, s);
  const Tensor grad = in_precision(grad_output, prepared.precision);
  const auto zeros = [&](const Tensor& like) {
    return torch::stable::new_zeros(a.value, like.sizes(), prepared.precision);
  };
  Tensor grad_value = zeros(prepared.value), grad_references = zeros(a.reference_points);
  Tensor grad_offsets = zeros(a.sampling_offsets), grad_logits = zeros(a.attention_logits);
  for_precision(prepared.precision, [&](auto zero) {
    using T = decltype(zero);
    backward<T>(
        prepared, grad.const_data_ptr<T>(),
        {grad_value.mutable_data_ptr<T>(), grad_offsets.mutable_data_ptr<T>(),
         grad_logits.mutable_data_ptr<T>()},
        grad_references.mutable_data_ptr<T>());
  });
  const ScalarType type = a.sampling_offsets.scalar_type();
  return {
      in_precision(torch::stable::transpose(grad_value, 1, 2), a.value.scalar_type()),
      grad_references, torch::stable::to(grad_offsets, type),
      torch::stable::to(grad_logits, type)};
}

}  // namespace
}  // namespace segcore::ms_deform_attn_with_logits

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl(
      "ms_deform_attn_with_logits",
      TORCH_BOX(&MsDeformAttnWithLogits::forward<ms_deform_attn_with_logits::run_forward>));
  library.impl(
      "ms_deform_attn_with_logits_backward",
      TORCH_BOX(
          &MsDeformAttnWithLogits::backward_in_mode<ms_deform_attn_with_logits::run_backward>));
}

// The arguments of inference from masks, checked.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

// One bilinear interpolation of the upper left part of a map.
struct ResizeStep {
  int64_t height, width;  // of the part
  int64_t output_height, output_width;
};

struct __attribute__((visibility("hidden"))) MaskInferenceArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const std::vector<int64_t>&, bool, const Tensor&, const Tensor&, const Tensor&,
      double, const Tensor&, double, bool>;

  const Tensor& masks;
  const std::vector<int64_t>& sizes;  // of the steps, four numbers each
  bool sigmoid;
  const Tensor &class_weights, &candidates, &candidate_scores;
  double candidate_threshold;
  const Tensor& measured;
  double measured_threshold;
  bool of_logits;
};

struct MaskInferenceSizes {
  int64_t masks, classes, candidates, measured;
  std::vector<ResizeStep> steps;
  int64_t height, width;  // of the results
};

inline MaskInferenceSizes check_mask_inference(const MaskInferenceArguments& a) {
  using torch::headeronly::ScalarType;
  check_dim("masks", a.masks, 3);
  check_dim("class_weights", a.class_weights, 2);
  check_dim("candidates", a.candidates, 1);
  check_dim("measured", a.measured, 1);
  MaskInferenceSizes s = {a.masks.size(0), a.class_weights.size(0), a.candidates.size(0),
                          a.measured.size(0), {}, a.masks.size(1), a.masks.size(2)};
  const ScalarType type = a.masks.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double,
      "masks: expected float32 or float64, got ", torch::headeronly::toString(type));
  check_sizes("class_weights", a.class_weights, {s.classes, s.masks});
  check_sizes("candidate_scores", a.candidate_scores, {s.candidates});
  check_type("class_weights", a.class_weights, type);
  check_type("candidate_scores", a.candidate_scores, type);
  check_type("candidates", a.candidates, ScalarType::Long);
  check_type("measured", a.measured, ScalarType::Long);
  check_same_device("class_weights", a.class_weights, a.masks);
  check_same_device("candidates", a.candidates, a.masks);
  check_same_device("candidate_scores", a.candidate_scores, a.masks);
  check_same_device("measured", a.measured, a.masks);
  STD_TORCH_CHECK(
      a.sizes.size() % 4 == 0, "sizes: expected four numbers a step, got ", a.sizes.size());
  for (size_t i = 0; i < a.sizes.size(); i += 4) {
    const ResizeStep step = {a.sizes[i], a.sizes[i + 1], a.sizes[i + 2], a.sizes[i + 3]};
    STD_TORCH_CHECK(
        1 <= step.height && step.height <= s.height && 1 <= step.width && step.width <= s.width &&
            1 <= step.output_height && 1 <= step.output_width,
        "sizes: expected steps from a part of ", s.height, " x ", s.width, ", got ", step.height,
        " x ", step.width, " to ", step.output_height, " x ", step.output_width);
    s.steps.push_back(step);
    s.height = step.output_height;
    s.width = step.output_width;
  }
  STD_TORCH_CHECK(
      s.height <= INT32_MAX && s.width <= INT32_MAX,
      "sizes: expected sides of at most ", INT32_MAX, ", got ", s.height, " x ", s.width);
  return s;
}

using MaskInference = Operator<MaskInferenceArguments, check_mask_inference>;

}  // namespace segcore

// The schemas of all compiled operators. Kernels are in cpu/ and cuda/, one file an operator; fake
// kernels, autograd and the typed public functions are in projects/segcore/ops/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(segcore, library) {
  library.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
      "Tensor sampling_locations, Tensor attention_weights, bool deterministic=False) "
      "-> (Tensor, Tensor, Tensor)");
  library.def(
      "ms_deform_attn_with_logits(Tensor value, SymInt[] spatial_shapes, Tensor reference_points, "
      "Tensor sampling_offsets, Tensor attention_logits) -> Tensor");
  library.def(
      "ms_deform_attn_with_logits_backward(Tensor grad_output, Tensor value, "
      "SymInt[] spatial_shapes, Tensor reference_points, Tensor sampling_offsets, "
      "Tensor attention_logits, bool deterministic=False) -> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "cluster_attention(Tensor q, Tensor k, Tensor v, Tensor positions, Tensor clusters, "
      "SymInt cluster_size, Tensor pos_weight, Tensor pos_bias, Tensor blank_k, Tensor blank_v, "
      "float scale, Tensor? indices, Tensor? offsets) -> Tensor");
  library.def(
      "cluster_attention_backward(Tensor grad_output, Tensor q, Tensor k, Tensor v, "
      "Tensor positions, Tensor clusters, SymInt cluster_size, Tensor pos_weight, "
      "Tensor pos_bias, Tensor blank_k, Tensor blank_v, float scale, Tensor? indices, "
      "Tensor? offsets) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "mask_inference(Tensor masks, SymInt[] sizes, bool sigmoid, Tensor class_weights, "
      "Tensor candidates, Tensor candidate_scores, float candidate_threshold, Tensor measured, "
      "float measured_threshold, bool of_logits) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("knn(Tensor queries, Tensor points, SymInt k) -> Tensor");
  library.def(
      "balanced_clusters(Tensor positions, SymInt cluster_size, SymInt[] canvas, bool per_image) "
      "-> (Tensor, Tensor)");
  library.def("point_gather(Tensor features, Tensor indices, Tensor weights) -> Tensor");
  library.def(
      "point_gather_backward(Tensor grad_output, Tensor features, Tensor indices, "
      "Tensor weights) -> (Tensor, Tensor)");
  library.def(
      "neighborhood_merge(Tensor features, Tensor positions, Tensor centers, Tensor members, "
      "Tensor? mask, Tensor? importance, Tensor linear_weight, Tensor linear_bias, "
      "Tensor norm_weight, Tensor norm_bias) -> Tensor");
  library.def(
      "neighborhood_merge_backward(Tensor grad_output, Tensor features, Tensor positions, "
      "Tensor centers, Tensor members, Tensor? mask, Tensor? importance, Tensor linear_weight, "
      "Tensor linear_bias, Tensor norm_weight, Tensor norm_bias) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "point_deform_attn(Tensor values, Tensor positions, Tensor neighbors, SymInt[] canvas, "
      "Tensor locations, Tensor attention, Tensor power) -> Tensor");
  library.def(
      "point_deform_attn_backward(Tensor grad_output, Tensor values, Tensor positions, "
      "Tensor neighbors, SymInt[] canvas, Tensor locations, Tensor attention, Tensor power, "
      "bool deterministic=False) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "winograd_conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, bool relu) -> Tensor");
  library.def(
      "group_norm_(Tensor(a!) x, SymInt groups, Tensor weight, Tensor bias, float eps, "
      "Tensor? coarse, bool relu) -> ()");
  library.def(
      "add_layer_norm_(Tensor(a!) x, Tensor? added, Tensor weight, Tensor bias, float eps, "
      "Tensor(b!) out) -> ()");
  library.def(
      "window_attention(Tensor qkv, Tensor padding, Tensor bias, SymInt window, SymInt row_shift, "
      "SymInt column_shift, float scale) -> Tensor");
  library.def(
      "attention(Tensor query, Tensor key, Tensor value, Tensor? mask, SymInt heads, "
      "float scale) -> Tensor");
}

// The schemas of all compiled operators. Kernels are in cpu/ and cuda/, one file an operator; fake
// kernels, autograd and the typed public functions are in projects/segcore/ops/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(segcore, library) {
  library.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, "
      "Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)");
  library.def(
      "cluster_attention(Tensor q, Tensor k, Tensor v, Tensor positions, Tensor clusters, "
      "SymInt cluster_size, Tensor pos_weight, Tensor pos_bias, Tensor blank_k, Tensor blank_v, "
      "float scale, Tensor? users, Tensor? borders) -> Tensor");
  library.def(
      "cluster_attention_backward(Tensor grad_output, Tensor q, Tensor k, Tensor v, "
      "Tensor positions, Tensor clusters, SymInt cluster_size, Tensor pos_weight, "
      "Tensor pos_bias, Tensor blank_k, Tensor blank_v, float scale, Tensor users, "
      "Tensor borders) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

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
}

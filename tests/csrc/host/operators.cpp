// The CUDA operators of csrc/cuda/ as they are, kernels and hosts, compiled for tensors on the CPU and
// registered as torch.ops.segcore_on_host.
#include <cuda_runtime.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

// What PyTorch does on a GPU alone.
extern "C" {

AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle*) {
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError torch_c10_cuda_check_msg(
    int32_t, const char*, const char*, uint32_t, bool, char** message) {
  *message = nullptr;
  return AOTI_TORCH_SUCCESS;
}

void torch_c10_cuda_free_error_msg(char*) {}

}  // extern "C"

// Small sizes take the path of 32-bit offsets, larger ones that of 64 bits.
#define SEGCORE_LARGEST_SHORT_OFFSET 20000
#define segcore segcore_on_host
#define CUDA CPU

#include "../../../csrc/ops.cpp"

#include "../../../csrc/cuda/balanced_clusters.cu"
#include "../../../csrc/cuda/cluster_attention.cu"
#include "../../../csrc/cuda/knn.cu"
#include "../../../csrc/cuda/ms_deform_attn.cu"
#include "../../../csrc/cuda/ms_deform_attn_with_logits.cu"
#include "../../../csrc/cuda/neighborhood_merge.cu"
#include "../../../csrc/cuda/point_deform_attn.cu"
#include "../../../csrc/cuda/point_gather.cu"

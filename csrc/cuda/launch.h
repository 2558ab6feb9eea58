// Starting of kernels: on the stream that PyTorch works on, with as wide an access to rows of
// channels as they allow.
#pragma once

#include <cstdint>
#include <limits>

#include <cuda_runtime.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "warp.cuh"

namespace segcore {

constexpr int kVectorBytes = 16;

// On the device of a tensor.
inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Starts a kernel with this number of blocks; without any, it does nothing.
template <typename... Parameters, typename... Arguments>
void launch_blocks(
    void (*kernel)(Parameters...),
    int64_t blocks,
    cudaStream_t stream,
    const Arguments&... arguments) {
  STD_TORCH_CHECK(blocks <= INT32_MAX, "too large for one launch of a CUDA kernel");
  if (blocks == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreadsOfBlock);
  config.stream = stream;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

// The same with this number of threads.
template <typename... Parameters, typename... Arguments>
void launch(
    void (*kernel)(Parameters...),
    int64_t threads,
    cudaStream_t stream,
    const Arguments&... arguments) {
  const int64_t blocks = (threads + kThreadsOfBlock - 1) / kThreadsOfBlock;
  launch_blocks(kernel, blocks, stream, arguments...);
}

// Largest offset that kernels may compute in 32 bits; tests lower it to reach both paths.
#ifdef SEGCORE_LARGEST_SHORT_OFFSET
constexpr int64_t kLargestShortOffset = SEGCORE_LARGEST_SHORT_OFFSET;
#else
constexpr int64_t kLargestShortOffset = std::numeric_limits<int32_t>::max();
#endif

// Calls `run` with an integer of the narrowest type for offsets up to `largest`: products and quotients
// of 64 bits cost a GPU several instructions.
template <typename Run>
void for_offset_type(int64_t largest, const Run& run) {
  if (largest <= kLargestShortOffset) {
    run(int32_t());
  } else {
    run(int64_t());
  }
}

// The data of a contiguous tensor; T may be a type that the stable ABI does not know.
template <typename T>
const T* data_ptr(const torch::stable::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* data_ptr(torch::stable::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensor, or a copy of it, contiguous and at an address for accesses of 16 bytes.
inline torch::stable::Tensor packed(const torch::stable::Tensor& tensor) {
  const torch::stable::Tensor contiguous = torch::stable::contiguous(tensor);
  const auto address = reinterpret_cast<uintptr_t>(contiguous.const_data_ptr());
  return address % kVectorBytes == 0 ? contiguous : torch::stable::clone(contiguous);
}

// True if an access of 16 bytes may begin at all of these addresses.
template <typename... T>
bool are_aligned(const T*... addresses) {
  return ((reinterpret_cast<uintptr_t>(addresses) % kVectorBytes == 0) && ...);
}

// The channels that a lane accesses at once, and the lanes that share a row.
template <int kVectorOfLane, int kLanesOfRow>
struct RowAccess {
  static constexpr int kVector = kVectorOfLane, kLanes = kLanesOfRow;
};

// Calls `run` with the RowAccess for rows of `channels` numbers of type T: 16 bytes a lane, by as few
// lanes as access a whole row at once, at most kMostLanes; one channel a lane, with the same results,
// where channels or addresses do not allow that.
template <typename T, int kMostLanes = kWarp, typename Run>
void for_row_access(int64_t channels, bool aligned, const Run& run) {
  constexpr int kVector = kVectorBytes / sizeof(T);
  if (!aligned || channels % kVector != 0) return run(RowAccess<1, kMostLanes>());
  const int64_t lanes = channels / kVector;
  if (lanes <= 4) return run(RowAccess<kVector, 4>());
  if (lanes <= 8) return run(RowAccess<kVector, 8>());
  if (lanes <= 16 || kMostLanes == 16) return run(RowAccess<kVector, 16>());
  if constexpr (kMostLanes == kWarp) run(RowAccess<kVector, kWarp>());
}

// The same, with an integer of the type of offsets as for_offset_type().
template <typename T, int kMostLanes = kWarp, typename Run>
void for_row_access(int64_t channels, bool aligned, int64_t largest_offset, const Run& run) {
  for_row_access<T, kMostLanes>(channels, aligned, [&](auto access) {
    for_offset_type(largest_offset, [&](auto offset) { run(access, offset); });
  });
}

}  // namespace segcore

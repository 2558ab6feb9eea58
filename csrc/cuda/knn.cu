#include "knn.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/knn.h"
#include "aten.h"
#include "inverse_lists.h"
#include "launch.h"

namespace segcore::knn {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

Tensor run(const Tensor& queries, const Tensor& points, const KnnSizes& s) {
  const DeviceGuard guard(queries.get_device_index());
  const Tensor query = torch::stable::contiguous(queries);
  const Tensor point = torch::stable::contiguous(points);
  Tensor output = torch::stable::new_empty(queries, {s.batch, s.queries, s.k}, ScalarType::Long);
  if (output.numel() == 0) return output;
  const auto [smallest, largest] = range_of(point);
  const Inputs in = {
      s.batch,
      s.queries,
      s.points,
      s.k,
      data_ptr<float>(query),
      data_ptr<float>(point),
      data_ptr<float>(smallest),
      data_ptr<float>(largest)};
  const cudaStream_t stream = current_stream(queries);
  Tensor keys = torch::stable::new_empty(queries, {s.batch * s.points}, ScalarType::Long);
  launch(bucket_of_points_kernel, keys.numel(), stream, in, data_ptr<int64_t>(keys));
  const Bins bins = sort_into_bins(keys, s.batch * in.buckets());
  const auto search = [&](auto kernel) {
    launch(kernel, s.batch * s.queries, stream, in, bins.lists(), data_ptr<int64_t>(output));
  };
  if (s.k <= 4) {
    search(search_kernel<4>);
  } else if (s.k <= 8) {
    search(search_kernel<8>);
  } else if (s.k <= 16) {
    search(search_kernel<16>);
  } else {
    search(search_kernel<0>);
  }
  return output;
}

}  // namespace
}  // namespace segcore::knn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  library.impl("knn", TORCH_BOX(&segcore::knn_operator<segcore::knn::run>));
}

// CUDA kernels for every head width and type: a warp for one (query, head), four channels a thread, atomics for the
// gradient of value. Taken for float64, for widths without a fast kernel, and for levels too large for the sorted
// backward.

#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "common.cuh"
#include "cuda_ops.h"

namespace mask2former_ops {
namespace {

constexpr int kThreads = 128;
constexpr int kQuad = 4;

template <typename A>
struct Sample {
  bool inside;
  bool exists[4];
  int64_t token[4];
  A x, y;
  A weight[4];
};

template <typename A>
__device__ Sample<A> locate(const Sizes& sizes, int level, const A* location) {
  const int height = sizes.levels.height[level], width = sizes.levels.width[level];
  const A x = location[0] * width - A(0.5), y = location[1] * height - A(0.5);
  Sample<A> sample;
  sample.inside = x > -1 && x < width && y > -1 && y < height;
  if (!sample.inside) return sample;
  const A left = floor(x), top = floor(y);
  sample.x = x - left;
  sample.y = y - top;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int column = static_cast<int>(left) + (corner & 1), row = static_cast<int>(top) + (corner >> 1);
    sample.exists[corner] = column >= 0 && column < width && row >= 0 && row < height;
    sample.token[corner] = sizes.levels.start[level] + static_cast<int64_t>(row) * width + column;
    const A weight = (corner & 1 ? sample.x : 1 - sample.x) * (corner >> 1 ? sample.y : 1 - sample.y);
    sample.weight[corner] = sample.exists[corner] ? weight : A(0);
  }
  return sample;
}

template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* value, const A* locations, const A* weights, T* output, const Sizes sizes, int64_t rows) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarpSize;
  const int channel = threadIdx.x % kWarpSize * kQuad;
  if (row >= rows || channel >= sizes.head_width) return;
  const int head = row % sizes.heads;
  const int64_t image = row / sizes.heads / sizes.queries;
  const int64_t stride = static_cast<int64_t>(sizes.heads) * sizes.head_width;
  const T* slice = value + image * sizes.tokens * stride + head * sizes.head_width + channel;
  const int samples = sizes.levels.count * sizes.points;
  A sum[kQuad] = {};
  for (int i = 0; i < samples; ++i) {
    const int64_t index = row * samples + i;
    const Sample<A> sample = locate(sizes, i / sizes.points, locations + 2 * index);
    if (!sample.inside) continue;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      if (!sample.exists[corner]) continue;
      const A weight = weights[index] * sample.weight[corner];
      const T* pixel = slice + sample.token[corner] * stride;
#pragma unroll
      for (int c = 0; c < kQuad; ++c) sum[c] += weight * static_cast<A>(pixel[c]);
    }
  }
#pragma unroll
  for (int c = 0; c < kQuad; ++c) output[row * sizes.head_width + channel + c] = static_cast<T>(sum[c]);
}

template <typename A>
__device__ A warp_sum(A x) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* grad_output, const T* value, const A* locations, const A* weights, A* grad_value,
                    A* grad_locations, A* grad_weights, const Sizes sizes, int64_t rows) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kWarpSize;
  if (row >= rows) return;  // whole warps leave
  const int lane = threadIdx.x % kWarpSize, channel = lane * kQuad;
  const bool holds_channels = channel < sizes.head_width;
  const int head = row % sizes.heads;
  const int64_t image = row / sizes.heads / sizes.queries;
  const int64_t stride = static_cast<int64_t>(sizes.heads) * sizes.head_width;
  const int64_t slice = image * sizes.tokens * stride + head * sizes.head_width + channel;
  const int samples = sizes.levels.count * sizes.points;
  A upstream[kQuad] = {};
  if (holds_channels)
    for (int c = 0; c < kQuad; ++c) upstream[c] = static_cast<A>(grad_output[row * sizes.head_width + channel + c]);
  for (int i = 0; i < samples; ++i) {
    const int64_t index = row * samples + i;
    const int level = i / sizes.points;
    const Sample<A> sample = locate(sizes, level, locations + 2 * index);
    A grad_weight = 0, grad_x = 0, grad_y = 0;
    if (sample.inside) {  // the same for the whole warp
      const A weight = weights[index];
      A product[4] = {};
      if (holds_channels) {
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          if (!sample.exists[corner]) continue;
          const int64_t offset = slice + sample.token[corner] * stride;
#pragma unroll
          for (int c = 0; c < kQuad; ++c) {
            product[corner] += upstream[c] * static_cast<A>(value[offset + c]);
            atomicAdd(grad_value + offset + c, weight * sample.weight[corner] * upstream[c]);
          }
        }
      }
      const A x = sample.x, y = sample.y;
      for (int corner = 0; corner < 4; ++corner) grad_weight += sample.weight[corner] * product[corner];
      grad_x = weight * sizes.levels.width[level] *
               ((1 - y) * (product[1] - product[0]) + y * (product[3] - product[2]));
      grad_y = weight * sizes.levels.height[level] *
               ((1 - x) * (product[2] - product[0]) + x * (product[3] - product[1]));
      grad_weight = warp_sum(grad_weight);
      grad_x = warp_sum(grad_x);
      grad_y = warp_sum(grad_y);
    }
    if (lane == 0) {
      grad_weights[index] = grad_weight;
      grad_locations[2 * index] = grad_x;
      grad_locations[2 * index + 1] = grad_y;
    }
  }
}

unsigned block_count(int64_t rows) {
  const int64_t blocks = (rows * kWarpSize + kThreads - 1) / kThreads;
  MASK2FORMER_OPS_CHECK(blocks < (int64_t{1} << 31), "too many queries and heads for one launch: ", rows);
  return static_cast<unsigned>(blocks);
}

template <typename T>
using Arithmetic = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace

void generic_forward(const at::Tensor& value, const at::Tensor& locations, const at::Tensor& weights,
                     at::Tensor& output, const Sizes& sizes) {
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_cuda", [&] {
    using A = Arithmetic<scalar_t>;
    forward_kernel<scalar_t, A><<<block_count(rows), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        value.const_data_ptr<scalar_t>(), locations.const_data_ptr<A>(), weights.const_data_ptr<A>(),
        output.mutable_data_ptr<scalar_t>(), sizes, rows);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

void generic_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& locations,
                      const at::Tensor& weights, at::Tensor& grad_value, at::Tensor& grad_locations,
                      at::Tensor& grad_weights, const Sizes& sizes) {
  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_backward_cuda", [&] {
    using A = Arithmetic<scalar_t>;
    backward_kernel<scalar_t, A><<<block_count(rows), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        grad_output.const_data_ptr<scalar_t>(), value.const_data_ptr<scalar_t>(), locations.const_data_ptr<A>(),
        weights.const_data_ptr<A>(), grad_value.mutable_data_ptr<A>(), grad_locations.mutable_data_ptr<A>(),
        grad_weights.mutable_data_ptr<A>(), sizes, rows);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace mask2former_ops

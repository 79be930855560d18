// Bilinear values of maps at points: of all channels of the features that objects are matched by, and of the mask
// logits that the losses compare, these with a gradient.
//
// Features lie channels last: a point reads four rows of memory, a thread sixteen bytes of each. Blocks go from image to
// image, so the features of one (13 MB of bfloat16 at 640 pixels), whose pixels are read twice on average, stay in the
// second-level cache.
//
// Of logits a block takes a map, in shared memory where that is large enough: points are drawn at random, and a cache
// moves 32 bytes for each of four numbers that a point reads or adds to. So maps and points are read once, and a
// gradient is written once. Of 160 x 160, two blocks of 512 threads share a multiprocessor of an H100: one waits for
// its map while the other samples. Additions to shared memory are loops of compare and swap, which conflicts between
// the banks slow down, not those between threads: few points of a warp share a pixel. Larger maps are sampled where
// they lie, some points a block, and their gradients are summed there.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "bilinear.cuh"

namespace mask2former_ops {
namespace {

constexpr int kFeatureThreads = 256;
constexpr int kThreads = 512;
constexpr int kBlocks = 2;  // on a multiprocessor
constexpr int kPoints = 4;  // of a thread, on their way at once
constexpr int kPointsOfBlock = kThreads * kPoints;
constexpr int kVector = 4;  // floats in sixteen bytes

// (B, h, w, C) maps, (B, N) points, (B, N, C) features; C in `vectors` of sixteen bytes.
template <typename T>
__global__ void __launch_bounds__(kFeatureThreads)
    sample_features_kernel(const T* __restrict__ maps, const float2* __restrict__ points, T* __restrict__ features,
                           int height, int width, int vectors, int count) {
  constexpr int kChannels = Row<T>::kChannels;
  const int64_t image = blockIdx.y, channels = int64_t{vectors} * kChannels;
  maps += image * height * width * channels;
  points += image * count;
  features += image * count * channels;
  const int i = blockIdx.x * kFeatureThreads + threadIdx.x;
  if (i >= count * vectors) return;
  const Corners near = corners_at(__ldg(points + i / vectors), height, width);
  const int vector = i % vectors;
  Row<T> rows[4];
  rows[0].load(maps + (near.top * width + near.left) * channels, vector);
  rows[1].load(maps + (near.top * width + near.right) * channels, vector);
  rows[2].load(maps + (near.bottom * width + near.left) * channels, vector);
  rows[3].load(maps + (near.bottom * width + near.right) * channels, vector);
  const float weights[4] = {(1 - near.to_bottom) * (1 - near.to_right), (1 - near.to_bottom) * near.to_right,
                            near.to_bottom * (1 - near.to_right), near.to_bottom * near.to_right};
  float sum[kChannels] = {}, values[kChannels];
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    rows[corner].unpack(values);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sum[c] += weights[corner] * values[c];
  }
  Row<T>::store(features, i, sum);
}

// By all threads of a block. Maps begin at sixteen bytes if their sizes are multiples of that.
__device__ __forceinline__ void copy_map(const float* __restrict__ from, float* __restrict__ to, int pixels) {
  if (pixels % kVector == 0) {
#pragma unroll 4
    for (int i = threadIdx.x; i < pixels / kVector; i += kThreads)
      reinterpret_cast<float4*>(to)[i] = reinterpret_cast<const float4*>(from)[i];
  } else {
#pragma unroll 4
    for (int i = threadIdx.x; i < pixels; i += kThreads) to[i] = from[i];
  }
}

// Which map and points a block works on.
struct Part {
  int64_t map;
  int begin, end;
};

// kShared: all points of a map, else some.
template <bool kShared>
__device__ __forceinline__ Part part_of_block(int count) {
  if (kShared) return {static_cast<int64_t>(blockIdx.x), 0, count};
  const int blocks = (count + kPointsOfBlock - 1) / kPointsOfBlock;
  const int begin = static_cast<int>(blockIdx.x % blocks) * kPointsOfBlock;
  return {static_cast<int64_t>(blockIdx.x / blocks), begin, min(begin + kPointsOfBlock, count)};
}

// (M, h, w) logits, (M, N) points and values.
template <bool kShared>
__global__ void __launch_bounds__(kThreads, kBlocks)
    sample_logits_kernel(const float* __restrict__ logits, const float2* __restrict__ points,
                         float* __restrict__ values, int height, int width, int count) {
  extern __shared__ float4 dynamic_shared[];
  const Part part = part_of_block<kShared>(count);
  const int pixels = height * width;
  logits += part.map * pixels;
  points += part.map * count;
  values += part.map * count;
  float* const copy = reinterpret_cast<float*>(dynamic_shared);
  if (kShared) {
    copy_map(logits, copy, pixels);
    __syncthreads();
  }
  for (int first = part.begin + threadIdx.x; first < part.end; first += kPointsOfBlock) {
    float2 at[kPoints];
#pragma unroll
    for (int k = 0; k < kPoints; ++k) at[k] = __ldg(points + min(first + k * kThreads, part.end - 1));
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      const int i = first + k * kThreads;
      const float value = sample(kShared ? copy : logits, height, width, at[k]);
      if (i < part.end) values[i] = value;
    }
  }
}

// (M, N) gradients and points, (M, h, w) sums, which are zero on entry unless kShared.
template <bool kShared>
__global__ void __launch_bounds__(kThreads, kBlocks)
    sample_logits_backward_kernel(const float* __restrict__ grad_values, const float2* __restrict__ points,
                                  float* __restrict__ grad_logits, int height, int width, int count) {
  extern __shared__ float4 dynamic_shared[];
  const Part part = part_of_block<kShared>(count);
  const int pixels = height * width;
  grad_values += part.map * count;
  points += part.map * count;
  grad_logits += part.map * pixels;
  float* const sums = kShared ? reinterpret_cast<float*>(dynamic_shared) : grad_logits;
  if (kShared) {
    for (int i = threadIdx.x; i < pixels; i += kThreads) sums[i] = 0;
    __syncthreads();
  }
  for (int first = part.begin + threadIdx.x; first < part.end; first += kPointsOfBlock) {
    float2 at[kPoints];
    float grad[kPoints];
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      const int i = min(first + k * kThreads, part.end - 1);
      at[k] = __ldg(points + i);
      grad[k] = __ldg(grad_values + i);
    }
#pragma unroll
    for (int k = 0; k < kPoints; ++k) {
      if (first + k * kThreads >= part.end) break;
      const Corners near = corners_at(at[k], height, width);
      float *upper = sums + near.top * width, *lower = sums + near.bottom * width;
      const float to_lower = near.to_bottom * grad[k], to_upper = (1 - near.to_bottom) * grad[k];
      atomicAdd(upper + near.left, (1 - near.to_right) * to_upper);
      atomicAdd(upper + near.right, near.to_right * to_upper);
      atomicAdd(lower + near.left, (1 - near.to_right) * to_lower);
      atomicAdd(lower + near.right, near.to_right * to_lower);
    }
  }
  if (kShared) {
    __syncthreads();
    copy_map(sums, grad_logits, pixels);
  }
}

void check_points(const at::Tensor& points, int64_t maps, const at::Device& device) {
  MASK2FORMER_OPS_CHECK(points.dim() == 3 && points.size(0) == maps && points.size(2) == 2 &&
                            points.size(1) < (int64_t{1} << 30),
                        "points must have shape (", maps, ", N, 2), got ", points.sizes());
  MASK2FORMER_OPS_CHECK(points.scalar_type() == at::kFloat && points.is_contiguous() && points.device() == device,
                        "points must be Float, contiguous and on ", device);
}

void check_size(int64_t height, int64_t width) {
  constexpr int64_t kSide = int64_t{1} << 24;  // whole numbers that float32 holds
  MASK2FORMER_OPS_CHECK(0 < height && height < kSide && 0 < width && width < kSide &&
                            height * width < (int64_t{1} << 30),
                        "maps must have 1 to 2^30 pixels, got ", height, " x ", width);
}

at::Tensor sample_features_cuda(const at::Tensor& maps, const at::Tensor& points) {
  const c10::cuda::CUDAGuard guard(maps.device());
  MASK2FORMER_OPS_CHECK(maps.dim() == 4 && maps.is_contiguous(at::MemoryFormat::ChannelsLast),
                        "maps must have shape (B, C, h, w) and be channels last in memory, got ", maps.sizes());
  check_points(points, maps.size(0), maps.device());
  const int64_t batch = maps.size(0), channels = maps.size(1), count = points.size(1);
  auto features = at::empty({batch, count, channels}, maps.options());
  const auto run = [&](auto type) {
    using T = decltype(type);
    constexpr int kChannels = Row<T>::kChannels;
    MASK2FORMER_OPS_CHECK(channels % kChannels == 0 && batch < (1 << 16), "maps must have a multiple of ", kChannels,
                          " channels, got ", maps.sizes());
    if (features.numel() == 0) return;
    check_size(maps.size(2), maps.size(3));
    MASK2FORMER_OPS_CHECK(channels * count < (int64_t{1} << 31), "points must be fewer, got ", points.sizes());
    const auto from = aligned(maps), at = aligned(points);
    const int64_t vectors = channels / kChannels;
    const dim3 grid(static_cast<unsigned>((count * vectors + kFeatureThreads - 1) / kFeatureThreads),
                    static_cast<unsigned>(batch));
    sample_features_kernel<T><<<grid, kFeatureThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        static_cast<const T*>(from.const_data_ptr()), static_cast<const float2*>(at.const_data_ptr()),
        static_cast<T*>(features.mutable_data_ptr()), static_cast<int>(maps.size(2)), static_cast<int>(maps.size(3)),
        static_cast<int>(vectors), static_cast<int>(count));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  };
  switch (maps.scalar_type()) {
    case at::kFloat: run(float{}); break;
    case at::kBFloat16: run(BFloat16{}); break;
    case at::kHalf: run(Half{}); break;
    default: MASK2FORMER_OPS_CHECK(false, "maps must be Float, BFloat16 or Half, got ", maps.scalar_type());
  }
  return features;
}

// Bytes of shared memory for a map of float32, 0 if the device has less.
int shared_bytes(int64_t pixels) {
  int device = 0, limit = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const int64_t bytes = pixels * static_cast<int64_t>(sizeof(float));
  return bytes <= limit ? static_cast<int>(bytes) : 0;
}

using Kernel = void (*)(const float*, const float2*, float*, int, int, int);

void launch(Kernel kernel, int bytes, const at::Tensor& from, const at::Tensor& points, at::Tensor& to, int64_t height,
            int64_t width) {
  const int64_t count = points.size(1);
  const int64_t blocks = points.size(0) * (bytes ? 1 : (count + kPointsOfBlock - 1) / kPointsOfBlock);
  MASK2FORMER_OPS_CHECK(blocks < (int64_t{1} << 31), "points must be fewer, got ", points.sizes());
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, c10::cuda::getCurrentCUDAStream()>>>(
      from.const_data_ptr<float>(), static_cast<const float2*>(points.const_data_ptr()), to.mutable_data_ptr<float>(),
      static_cast<int>(height), static_cast<int>(width), static_cast<int>(count));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor sample_logits_cuda(const at::Tensor& logits, const at::Tensor& points) {
  const c10::cuda::CUDAGuard guard(logits.device());
  MASK2FORMER_OPS_CHECK(logits.dim() == 3 && logits.scalar_type() == at::kFloat && logits.is_contiguous(),
                        "logits must be Float and contiguous with shape (M, h, w), got ", logits.scalar_type(), " ",
                        logits.sizes());
  check_points(points, logits.size(0), logits.device());
  auto values = at::empty({points.size(0), points.size(1)}, logits.options());
  if (values.numel() == 0) return values;
  const int64_t height = logits.size(1), width = logits.size(2);
  check_size(height, width);
  const int bytes = shared_bytes(height * width);
  launch(bytes ? sample_logits_kernel<true> : sample_logits_kernel<false>, bytes, aligned(logits), aligned(points),
         values, height, width);
  return values;
}

at::Tensor sample_logits_backward_cuda(const at::Tensor& grad_values, const at::Tensor& points, int64_t height,
                                       int64_t width) {
  const c10::cuda::CUDAGuard guard(grad_values.device());
  MASK2FORMER_OPS_CHECK(grad_values.dim() == 2 && grad_values.scalar_type() == at::kFloat &&
                            grad_values.is_contiguous(),
                        "grad_values must be Float and contiguous with shape (M, N), got ", grad_values.scalar_type(),
                        " ", grad_values.sizes());
  check_points(points, grad_values.size(0), grad_values.device());
  MASK2FORMER_OPS_CHECK(points.size(1) == grad_values.size(1), "points must be as many as grad_values, ",
                        grad_values.sizes(), ", got ", points.sizes());
  at::globalContext().alertNotDeterministic("sample_logits_backward_cuda");
  const std::array<int64_t, 3> sizes{points.size(0), height, width};
  if (grad_values.numel() == 0) return at::zeros(sizes, grad_values.options());
  check_size(height, width);
  const int bytes = shared_bytes(height * width);
  auto grad_logits = bytes ? at::empty(sizes, grad_values.options()) : at::zeros(sizes, grad_values.options());
  launch(bytes ? sample_logits_backward_kernel<true> : sample_logits_backward_kernel<false>, bytes, grad_values,
         aligned(points), grad_logits, height, width);
  return grad_logits;
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) {
  library.impl("sample_features", sample_features_cuda);
  library.impl("sample_logits", sample_logits_cuda);
  library.impl("sample_logits_backward", sample_logits_backward_cuda);
}

}  // namespace mask2former_ops

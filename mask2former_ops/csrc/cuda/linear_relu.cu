// A linear layer with ReLU, and the ReLU's gradient with its sum over tokens, which is that of the layer's bias; and
// the sum alone, for layers without ReLU.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "common.cuh"
#include "linear.h"

namespace mask2former_ops {
namespace {

constexpr int64_t kChannels = 8;  // of a thread, sixteen bytes
constexpr int kWarps = 8;
constexpr int kTile = kChannels * kWarpSize;  // channels of a block
constexpr int kBlocks = 8;                    // on a multiprocessor

// sums (blocks, channels) get each block's sum of grad; with kMasks, of masked = grad where hidden is positive, else 0.
// A block takes `tokens_each` tokens of a tile of channels, its warps in turn.
template <typename T, bool kMasks>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    sums_kernel(const T* __restrict__ grad, const T* __restrict__ hidden, T* __restrict__ masked,
                float* __restrict__ sums, int64_t tokens, int channels, int tokens_each) {
  __shared__ float of_warps[kWarps][kTile];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int channel = blockIdx.y * kTile + kChannels * lane;
  float sum[kChannels] = {};
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tokens_each;
  const int64_t last = min(first + tokens_each, tokens);
  if (channel < channels) {
#pragma unroll 4
    for (int64_t token = first + warp; token < last; token += kWarps) {
      const int64_t at = token * channels + channel;
      Row<T> from, to;
      float values[kChannels], positive[kChannels];
      from.load(grad + at, 0);
      from.unpack(values);
      if constexpr (kMasks) {
        to.load(hidden + at, 0);
        to.unpack(positive);
#pragma unroll
        for (int c = 0; c < kChannels; ++c)
          if (positive[c] <= 0) values[c] = 0;
        Row<T>::store(masked + at, 0, values);
      }
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sum[c] += values[c];
    }
  }
#pragma unroll
  for (int c = 0; c < kChannels; ++c) of_warps[warp][c * kWarpSize + lane] = sum[c];
  __syncthreads();
  // Thread t sums up channel t of the tile, which is number t % 8 of lane t / 8.
  const int place = threadIdx.x % kChannels * kWarpSize + threadIdx.x / kChannels;
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += of_warps[w][place];
  const int own = blockIdx.y * kTile + threadIdx.x;
  if (own < channels) sums[static_cast<int64_t>(blockIdx.x) * channels + own] = total;
}
static_assert(kWarps * kWarpSize == kTile, "a thread for each channel");

void check_matrix(const at::Tensor& tensor, const char* name) {
  MASK2FORMER_OPS_CHECK(tensor.dim() == 2 && tensor.is_contiguous(), name, " must be a contiguous matrix, got ",
                        tensor.sizes());
  MASK2FORMER_OPS_CHECK(tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf, name,
                        " must be BFloat16 or Half, got ", tensor.scalar_type());
}

at::Tensor linear_relu_cuda(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  check_matrix(x, "x");
  check_matrix(weight, "weight");
  check_like(weight, "weight", x, {weight.size(0), x.size(1)});
  check_like(bias, "bias", x, {weight.size(0)});
  return linear(aligned(x), aligned(weight), aligned(bias), Activation::kRelu);
}

// The sums over tokens of grad (N, C), or of what goes to `masked`, where that is defined.
at::Tensor sums_over_tokens(const at::Tensor& grad, const at::Tensor& hidden, at::Tensor& masked) {
  const int64_t tokens = grad.size(0), channels = grad.size(1);
  MASK2FORMER_OPS_CHECK(channels % kChannels == 0 && channels < (1 << 20), "grad must have a multiple of ", kChannels,
                        " channels, got ", channels);
  if (grad.numel() == 0) return at::zeros({channels}, grad.options());
  int device = 0, processors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const int64_t tiles = (channels + kTile - 1) / kTile;
  const int64_t wanted = std::max<int64_t>(int64_t{processors} * kBlocks / tiles, 1);
  const int64_t tokens_each = std::max<int64_t>((tokens + wanted - 1) / wanted, 4 * kWarps);
  const int64_t blocks = (tokens + tokens_each - 1) / tokens_each;
  const auto sums = at::empty({blocks, channels}, grad.options().dtype(at::kFloat));
  const auto from = aligned(grad);
  const auto run = [&](auto type, auto masks) {
    using T = decltype(type);
    constexpr bool kMasks = decltype(masks)::value;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles));
    sums_kernel<T, kMasks><<<grid, kWarps * kWarpSize, 0, c10::cuda::getCurrentCUDAStream()>>>(
        static_cast<const T*>(from.const_data_ptr()), kMasks ? static_cast<const T*>(hidden.const_data_ptr()) : nullptr,
        kMasks ? static_cast<T*>(masked.mutable_data_ptr()) : nullptr, sums.mutable_data_ptr<float>(), tokens,
        static_cast<int>(channels), static_cast<int>(tokens_each));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  };
  const auto of_type = [&](auto masks) {
    if (grad.scalar_type() == at::kBFloat16) {
      run(BFloat16{}, masks);
    } else {
      run(Half{}, masks);
    }
  };
  if (masked.defined()) {
    of_type(std::true_type{});
  } else {
    of_type(std::false_type{});
  }
  return sums.sum(0).to(grad.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> relu_gradient_cuda(const at::Tensor& grad, const at::Tensor& hidden) {
  const c10::cuda::CUDAGuard guard(grad.device());
  check_matrix(grad, "grad_hidden");
  check_like(hidden, "hidden", grad, grad.sizes());
  auto masked = at::empty_like(grad);
  auto sums = sums_over_tokens(grad, aligned(hidden), masked);
  return {masked, sums};
}

at::Tensor column_sums_cuda(const at::Tensor& grad) {
  const c10::cuda::CUDAGuard guard(grad.device());
  check_matrix(grad, "grad");
  at::Tensor nothing;
  return sums_over_tokens(grad, nothing, nothing);
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) {
  library.impl("linear_relu", linear_relu_cuda);
  library.impl("relu_gradient", relu_gradient_cuda);
  library.impl("column_sums", column_sums_cuda);
}

}  // namespace mask2former_ops

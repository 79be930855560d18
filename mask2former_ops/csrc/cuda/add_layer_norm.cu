// A residual sum with LayerNorm behind it, and its gradients: one pass over the tokens each.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common.cuh"

namespace mask2former_ops {
namespace {

constexpr int kWarps = 8;                     // a token each
constexpr int kVector = 8;                    // channels of a thread at a time: sixteen bytes of a half type
constexpr int kTile = kVector * kWarpSize;    // channels of a warp at a time
constexpr int kMaxTiles = 4;                  // in registers
constexpr int kBlocks = 4;                    // of the backward, on a multiprocessor

__device__ __forceinline__ void load_floats(const float* from, float (&x)[kVector]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Row<float> row;
    float values[4];
    row.load(from, half);
    row.unpack(values);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[4 * half + i] = values[i];
  }
}

__device__ __forceinline__ void store_floats(float* to, const float (&x)[kVector]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float values[4] = {x[4 * half], x[4 * half + 1], x[4 * half + 2], x[4 * half + 3]};
    Row<float>::store(to, half, values);
  }
}

template <typename T>
__device__ __forceinline__ void load_halves(const T* from, float (&x)[kVector]) {
  Row<T> row;
  row.load(from, 0);
  row.unpack(x);
}

// sum = x + y; out = (sum - mean) * rstd * weight + bias, in both types; statistics are (mean, rstd).
template <typename T, int kTiles>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    forward_kernel(const float* __restrict__ x, const T* __restrict__ y, const float* __restrict__ weight,
                   const float* __restrict__ bias, float eps, float* __restrict__ sum, float* __restrict__ out,
                   T* __restrict__ out_half, float2* __restrict__ statistics, int64_t tokens, int channels) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (token >= tokens) return;
  const int64_t row = token * channels;
  float s[kTiles][kVector], total = 0;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int channel = tile * kTile + kVector * lane;
    if (channel >= channels) continue;
    float added[kVector];
    load_floats(x + row + channel, s[tile]);
    load_halves(y + row + channel, added);
#pragma unroll
    for (int c = 0; c < kVector; ++c) {
      s[tile][c] += added[c];
      total += s[tile][c];
    }
    store_floats(sum + row + channel, s[tile]);
  }
  const float mean = group_sum<kWarpSize>(total) / channels;
  float squares = 0;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile * kTile + kVector * lane >= channels) continue;
#pragma unroll
    for (int c = 0; c < kVector; ++c) squares += (s[tile][c] - mean) * (s[tile][c] - mean);
  }
  const float rstd = rsqrtf(group_sum<kWarpSize>(squares) / channels + eps);
  if (lane == 0) statistics[token] = make_float2(mean, rstd);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int channel = tile * kTile + kVector * lane;
    if (channel >= channels) continue;
    float w[kVector], b[kVector];
    load_floats(weight + channel, w);
    load_floats(bias + channel, b);
#pragma unroll
    for (int c = 0; c < kVector; ++c) s[tile][c] = (s[tile][c] - mean) * rstd * w[c] + b[c];
    store_floats(out + row + channel, s[tile]);
    Row<T>::store(out_half + row + channel, 0, s[tile]);
  }
}

// Gradients of x and y, the same numbers in two types; `parts` (blocks, 2, channels) get each block's share of those of
// weight and bias. A gradient of the results may be missing (null).
template <typename T, int kTiles>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    backward_kernel(const float* __restrict__ grad_out, const T* __restrict__ grad_half, const float* __restrict__ sum,
                    const float2* __restrict__ statistics, const float* __restrict__ weight,
                    float* __restrict__ grad_x, T* __restrict__ grad_y, float* __restrict__ parts, int64_t tokens,
                    int channels) {
  __shared__ float of_warps[kWarps][kTile];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  float of_weight[kTiles][kVector] = {}, of_bias[kTiles][kVector] = {}, w[kTiles][kVector] = {};
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int channel = tile * kTile + kVector * lane;
    if (channel < channels) load_floats(weight + channel, w[tile]);
  }
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kWarps + warp; token < tokens;
       token += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t row = token * channels;
    const float2 given = __ldg(statistics + token);
    const float mean = given.x, rstd = given.y;
    float g[kTiles][kVector], normal[kTiles][kVector], of_g = 0, of_product = 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int channel = tile * kTile + kVector * lane;
#pragma unroll
      for (int c = 0; c < kVector; ++c) g[tile][c] = 0;
      if (channel >= channels) continue;
      if (grad_out != nullptr) load_floats(grad_out + row + channel, g[tile]);
      if (grad_half != nullptr) {
        float more[kVector];
        load_halves(grad_half + row + channel, more);
#pragma unroll
        for (int c = 0; c < kVector; ++c) g[tile][c] += more[c];
      }
      load_floats(sum + row + channel, normal[tile]);
#pragma unroll
      for (int c = 0; c < kVector; ++c) {
        normal[tile][c] = (normal[tile][c] - mean) * rstd;
        of_weight[tile][c] += g[tile][c] * normal[tile][c];
        of_bias[tile][c] += g[tile][c];
        g[tile][c] *= w[tile][c];
        of_g += g[tile][c];
        of_product += g[tile][c] * normal[tile][c];
      }
    }
    of_g = group_sum<kWarpSize>(of_g) / channels;
    of_product = group_sum<kWarpSize>(of_product) / channels;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int channel = tile * kTile + kVector * lane;
      if (channel >= channels) continue;
#pragma unroll
      for (int c = 0; c < kVector; ++c) g[tile][c] = rstd * (g[tile][c] - of_g - normal[tile][c] * of_product);
      store_floats(grad_x + row + channel, g[tile]);
      Row<T>::store(grad_y + row + channel, 0, g[tile]);
    }
  }
  // Thread t sums up channel t of a tile, which is number t % 8 of lane t / 8.
  const int place = threadIdx.x % kVector * kWarpSize + threadIdx.x / kVector;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      __syncthreads();
#pragma unroll
      for (int c = 0; c < kVector; ++c)
        of_warps[warp][c * kWarpSize + lane] = which == 0 ? of_weight[tile][c] : of_bias[tile][c];
      __syncthreads();
      float total = 0;
      for (int each = 0; each < kWarps; ++each) total += of_warps[each][place];
      const int channel = tile * kTile + threadIdx.x;
      if (channel < channels) parts[(2 * static_cast<int64_t>(blockIdx.x) + which) * channels + channel] = total;
    }
  }
}
static_assert(kWarps * kWarpSize == kTile, "a thread for each channel");

void check_sizes(const at::Tensor& x, const at::Tensor& weight) {
  MASK2FORMER_OPS_CHECK(x.dim() == 2 && x.scalar_type() == at::kFloat && x.is_contiguous(),
                        "x must be a contiguous matrix of Float, got ", x.sizes(), " of ", x.scalar_type());
  MASK2FORMER_OPS_CHECK(x.size(1) > 0 && x.size(1) % kVector == 0 && x.size(1) <= kMaxTiles * kTile,
                        "x must have a multiple of ", kVector, " channels up to ", kMaxTiles * kTile, ", got ",
                        x.size(1));
  check_like(weight, "weight", x, {x.size(1)});
}

void check_half(const at::Tensor& tensor, const char* name, const at::Tensor& x, at::ScalarType type) {
  MASK2FORMER_OPS_CHECK(type == at::kBFloat16 || type == at::kHalf, name, " must be BFloat16 or Half, got ", type);
  MASK2FORMER_OPS_CHECK(tensor.sizes() == x.sizes() && tensor.device() == x.device() && tensor.scalar_type() == type &&
                            tensor.is_contiguous(),
                        name, " must be ", type, " of shape ", x.sizes(), " as x, contiguous, got ",
                        tensor.scalar_type(), " of shape ", tensor.sizes());
}

// Calls run(T{}, tiles) with the storage type and the number of tiles as types.
template <typename Run>
void dispatch(at::ScalarType type, int64_t channels, const Run& run) {
  const auto with_tiles = [&](auto storage) {
    switch ((channels + kTile - 1) / kTile) {
      case 1: run(storage, std::integral_constant<int, 1>{}); break;
      case 2: run(storage, std::integral_constant<int, 2>{}); break;
      case 3: run(storage, std::integral_constant<int, 3>{}); break;
      default: run(storage, std::integral_constant<int, 4>{});
    }
  };
  if (type == at::kBFloat16) {
    with_tiles(BFloat16{});
  } else {
    with_tiles(Half{});
  }
}

using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

Four add_layer_norm_cuda(const at::Tensor& given_x, const at::Tensor& given_y, const at::Tensor& given_weight,
                         const at::Tensor& given_bias, double eps) {
  const c10::cuda::CUDAGuard guard(given_x.device());
  check_sizes(given_x, given_weight);
  check_like(given_bias, "bias", given_x, {given_x.size(1)});
  check_half(given_y, "y", given_x, given_y.scalar_type());
  const auto x = aligned(given_x), y = aligned(given_y), weight = aligned(given_weight), bias = aligned(given_bias);
  const int64_t tokens = x.size(0), channels = x.size(1);
  auto sum = at::empty_like(x), out = at::empty_like(x), out_half = at::empty_like(y);
  auto statistics = at::empty({tokens, 2}, x.options());
  if (tokens == 0) return {out, out_half, sum, statistics};
  dispatch(y.scalar_type(), channels, [&](auto storage, auto tiles) {
    using T = decltype(storage);
    const auto blocks = static_cast<unsigned>((tokens + kWarps - 1) / kWarps);
    forward_kernel<T, decltype(tiles)::value><<<blocks, kWarps * kWarpSize, 0, c10::cuda::getCurrentCUDAStream()>>>(
        x.const_data_ptr<float>(), static_cast<const T*>(y.const_data_ptr()), weight.const_data_ptr<float>(),
        bias.const_data_ptr<float>(), static_cast<float>(eps), sum.mutable_data_ptr<float>(),
        out.mutable_data_ptr<float>(), static_cast<T*>(out_half.mutable_data_ptr()),
        reinterpret_cast<float2*>(statistics.mutable_data_ptr<float>()), tokens, static_cast<int>(channels));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {out, out_half, sum, statistics};
}

Four add_layer_norm_backward_cuda(const std::optional<at::Tensor>& given_out,
                                  const std::optional<at::Tensor>& given_half, const at::Tensor& sum, const at::Tensor& statistics, const at::Tensor& given_weight,
                                  at::ScalarType type) {
  const c10::cuda::CUDAGuard guard(sum.device());
  check_sizes(sum, given_weight);
  const int64_t tokens = sum.size(0), channels = sum.size(1);
  check_like(statistics, "statistics", sum, {tokens, 2});
  at::Tensor grad_out, grad_half;
  if (given_out.has_value()) {
    check_like(*given_out, "grad_out", sum, sum.sizes());
    grad_out = aligned(*given_out);
  }
  if (given_half.has_value()) {
    check_half(*given_half, "grad_half", sum, type);
    grad_half = aligned(*given_half);
  }
  const auto weight = aligned(given_weight), from = aligned(sum);
  auto grad_x = at::empty_like(sum), grad_y = at::empty_like(sum, sum.options().dtype(type));
  if (tokens == 0) {
    auto nothing = at::zeros({2, channels}, sum.options());
    return {grad_x, grad_y, nothing[0], nothing[1]};
  }
  int device = 0, processors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const int64_t blocks = std::min<int64_t>((tokens + kWarps - 1) / kWarps, int64_t{processors} * kBlocks);
  auto parts = at::empty({blocks, 2, channels}, sum.options());
  dispatch(type, channels, [&](auto storage, auto tiles) {
    using T = decltype(storage);
    backward_kernel<T, decltype(tiles)::value>
        <<<static_cast<unsigned>(blocks), kWarps * kWarpSize, 0, c10::cuda::getCurrentCUDAStream()>>>(
            grad_out.defined() ? grad_out.const_data_ptr<float>() : nullptr,
            grad_half.defined() ? static_cast<const T*>(grad_half.const_data_ptr()) : nullptr,
            from.const_data_ptr<float>(), reinterpret_cast<const float2*>(statistics.const_data_ptr<float>()),
            weight.const_data_ptr<float>(), grad_x.mutable_data_ptr<float>(),
            static_cast<T*>(grad_y.mutable_data_ptr()), parts.mutable_data_ptr<float>(), tokens,
            static_cast<int>(channels));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  const auto sums = parts.sum(0);
  return {grad_x, grad_y, sums[0].clone(), sums[1].clone()};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) {
  library.impl("add_layer_norm", add_layer_norm_cuda);
  library.impl("add_layer_norm_backward", add_layer_norm_backward_cuda);
}

}  // namespace mask2former_ops

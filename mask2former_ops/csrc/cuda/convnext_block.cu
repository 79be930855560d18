// A block of a frozen ConvNeXt, of 16-bit features with channels last: depthwise 7x7 convolution, LayerNorm, and two
// matrix products, which cuBLASLt does with their biases inside, the first also with GELU, the second with the block's
// input (linear.cu).
//
// The convolution is bound by its 49 multiply-adds a number in float32, which leave little time for anything else. A
// thread holds two channels of a strip eight pixels wide and marches down the rows with the sums of the seven outputs
// that a row of pixels adds to: a row costs 14 loads and 49 reads of weights for 784 multiply-adds. Those sums are 112
// registers. To normalise in the same kernel, a block would have to hold all channels of its pixels, up to 768 threads
// of that size, and wait for each other at every row; the second kernel reads and writes the features once more
// instead, most of them in the second-level cache.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>

#include "common.cuh"
#include "linear.h"

namespace mask2former_ops {
namespace {

constexpr int kTaps = 7;
constexpr int kReach = kTaps / 2;
constexpr int kStrip = 8;                    // outputs of a thread in a row
constexpr int kSpan = kStrip + 2 * kReach;   // pixels they depend on
constexpr int kPair = 2;                     // channels of a thread
constexpr int kGroup = kPair * kWarpSize;    // channels of a warp
constexpr int kConvWarps = 4;
constexpr int kConvBlocks = 3;               // on a multiprocessor: up to 168 registers a thread
constexpr int kNormWarps = 8;
constexpr int kNormChannels = 8;             // sixteen bytes
constexpr int kMaxChannels = 3072;

// How one image's map is cut: a warp takes a strip of `rows` rows and, of those, one group of channels.
struct Cut {
  int height, width, channels;
  int rows, segments, strips, groups;
  int64_t units;  // images * segments * strips
};

// convolved = convolution of x + bias; x (B, H, W, C), weight (7, 7, C), bias (C).
template <typename T>
__global__ void __launch_bounds__(kConvWarps* kWarpSize, kConvBlocks)
    depthwise_kernel(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                     T* __restrict__ convolved, const Cut cut) {
  __shared__ float2 taps[kTaps * kTaps + 1][kWarpSize];  // then the bias
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int channel = static_cast<int>(blockIdx.x % cut.groups) * kGroup + kPair * lane;
  const bool active = channel < cut.channels;
  for (int tap = warp; tap <= kTaps * kTaps; tap += kConvWarps)
    if (active)
      taps[tap][lane] = Storage<T>::load_pair((tap < kTaps * kTaps ? weight + tap * cut.channels : bias) + channel);
  __syncthreads();
  const int64_t unit = static_cast<int64_t>(blockIdx.x / cut.groups) * kConvWarps + warp;
  if (!active || unit >= cut.units) return;
  const int first_x = static_cast<int>(unit % cut.strips) * kStrip;
  const int64_t segment = unit / cut.strips;
  const int first_y = static_cast<int>(segment % cut.segments) * cut.rows;
  const int row_stride = cut.width * cut.channels;
  const int64_t strip = segment / cut.segments * cut.height * row_stride + first_x * cut.channels + channel;
  x += strip;
  convolved += strip;

  unsigned columns = 0;  // which of the pixels of a row exist
  for (int i = 0; i < kSpan; ++i)
    columns |= static_cast<unsigned>(i + first_x >= kReach && i + first_x < cut.width + kReach) << i;

  // Row y adds to output rows done to done + 6, counted from first_y, whose sums are sum[0] to sum[6]. Those of rows
  // that are another warp's are neither written nor read.
  const int rows = min(cut.rows, cut.height - first_y);
  float2 sum[kTaps][kStrip];
  for (int done = -2 * kReach; done < rows; ++done) {
    float2 pixel[kSpan];
    const int y = first_y + kReach + done;
    const unsigned existing = y >= 0 && y < cut.height ? columns : 0;
    const T* from = x + y * row_stride - kReach * cut.channels;
#pragma unroll
    for (int i = 0; i < kSpan; ++i) {
      uint32_t word = 0;
      if (existing >> i & 1) word = __ldg(reinterpret_cast<const uint32_t*>(from));
      pixel[i] = Storage<T>::unpack(word);
      asm volatile("" : "+f"(pixel[i].x), "+f"(pixel[i].y));  // else it would be unpacked again for each row of taps
      from += cut.channels;
    }
#pragma unroll
    for (int r = 0; r < kTaps; ++r) {
      if (static_cast<unsigned>(done + r) >= static_cast<unsigned>(rows)) continue;  // the same for the whole warp
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const float2 tap = taps[(kTaps - 1 - r) * kTaps + k][lane];
#pragma unroll
        for (int i = 0; i < kStrip; ++i) {
          // The sums move up by one row as the first tap is added.
          const float2 so_far = k > 0 ? sum[r][i] : r + 1 < kTaps ? sum[(r + 1) % kTaps][i] : taps[kTaps * kTaps][lane];
          sum[r][i] = make_float2(fmaf(pixel[i + k].x, tap.x, so_far.x), fmaf(pixel[i + k].y, tap.y, so_far.y));
        }
      }
    }
    if (done < 0) continue;
    T* to = convolved + (first_y + done) * row_stride;
#pragma unroll
    for (int i = 0; i < kStrip; ++i) {
      const uint32_t word = Storage<T>::pack(sum[0][i].x, sum[0][i].y);
      if (i < cut.width - first_x) *reinterpret_cast<uint32_t*>(to) = word;
      to += cut.channels;
    }
  }
}

// LayerNorm over channels, in place. A warp holds a token, kVectors times sixteen bytes a thread.
template <typename T, int kVectors>
__global__ void __launch_bounds__(kNormWarps* kWarpSize)
    norm_kernel(T* x, const T* __restrict__ weight, const T* __restrict__ bias, float eps, int64_t tokens,
                int channels) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kNormWarps + threadIdx.x / kWarpSize;
  if (token >= tokens) return;  // whole warps leave
  T* const row = x + token * channels;
  const int vectors = channels / kNormChannels;
  float values[kVectors][kNormChannels];
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int vector = v * kWarpSize + lane;
    if (vector >= vectors) continue;
    Row<T> packed;
    packed.raw = reinterpret_cast<const uint4*>(row)[vector];
    packed.unpack(values[v]);
#pragma unroll
    for (int c = 0; c < kNormChannels; ++c) sum += values[v][c];
  }
  const float mean = group_sum<kWarpSize>(sum) / channels;
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
    if (v * kWarpSize + lane < vectors)
#pragma unroll
      for (int c = 0; c < kNormChannels; ++c) squares += (values[v][c] - mean) * (values[v][c] - mean);
  const float scale = rsqrtf(group_sum<kWarpSize>(squares) / channels + eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int vector = v * kWarpSize + lane;
    if (vector >= vectors) continue;
    Row<T> packed;
    float weights[kNormChannels], biases[kNormChannels];
    packed.load(weight, vector);
    packed.unpack(weights);
    packed.load(bias, vector);
    packed.unpack(biases);
#pragma unroll
    for (int c = 0; c < kNormChannels; ++c) values[v][c] = (values[v][c] - mean) * scale * weights[c] + biases[c];
    Row<T>::store(row, vector, values[v]);
  }
}

// Rows of a strip, so that the warps of the last round are as busy as the others. A row read for its neighbours alone
// costs about a tenth of another.
int best_rows(int height, int64_t strips, int64_t resident) {
  int best = height;
  int64_t least = INT64_MAX;
  for (int rows = 1; rows <= height; ++rows) {
    const int64_t warps = strips * ((height + rows - 1) / rows);
    const int64_t cost = (warps + resident - 1) / resident * (11 * rows + 2 * kReach);
    if (cost < least) least = cost, best = rows;
  }
  return best;
}

unsigned block_count(int64_t blocks, const at::Tensor& x) {
  MASK2FORMER_OPS_CHECK(blocks < (int64_t{1} << 31), "x is too large for one launch: ", x.sizes());
  return static_cast<unsigned>(blocks);
}

template <typename T>
void launch_depthwise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      at::Tensor& convolved) {
  int device = 0, processors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  Cut cut{};
  cut.height = static_cast<int>(x.size(1));
  cut.width = static_cast<int>(x.size(2));
  cut.channels = static_cast<int>(x.size(3));
  cut.strips = (cut.width + kStrip - 1) / kStrip;
  cut.groups = (cut.channels + kGroup - 1) / kGroup;
  cut.rows = best_rows(cut.height, x.size(0) * cut.strips * cut.groups, processors * kConvBlocks * kConvWarps);
  cut.segments = (cut.height + cut.rows - 1) / cut.rows;
  cut.units = x.size(0) * cut.segments * cut.strips;
  const unsigned blocks = block_count((cut.units + kConvWarps - 1) / kConvWarps * cut.groups, x);
  depthwise_kernel<T><<<blocks, kConvWarps * kWarpSize, 0, c10::cuda::getCurrentCUDAStream()>>>(
      static_cast<const T*>(x.const_data_ptr()), static_cast<const T*>(weight.const_data_ptr()),
      static_cast<const T*>(bias.const_data_ptr()), static_cast<T*>(convolved.mutable_data_ptr()), cut);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void launch_norm(at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const int channels = static_cast<int>(x.size(3));
  const int64_t tokens = x.numel() / channels;
  const int vectors = (channels + kWarpSize * kNormChannels - 1) / (kWarpSize * kNormChannels);
  const auto kernel = vectors == 1   ? norm_kernel<T, 1>
                      : vectors == 2 ? norm_kernel<T, 2>
                      : vectors == 3 ? norm_kernel<T, 3>
                      : vectors == 4 ? norm_kernel<T, 4>
                      : vectors <= 6 ? norm_kernel<T, 6>
                                     : norm_kernel<T, kMaxChannels / (kWarpSize * kNormChannels)>;
  const unsigned blocks = block_count((tokens + kNormWarps - 1) / kNormWarps, x);
  kernel<<<blocks, kNormWarps * kWarpSize, 0, c10::cuda::getCurrentCUDAStream()>>>(
      static_cast<T*>(x.mutable_data_ptr()), static_cast<const T*>(weight.const_data_ptr()),
      static_cast<const T*>(bias.const_data_ptr()), static_cast<float>(eps), tokens, channels);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

void check(const at::Tensor& tensor, const char* name, const at::Tensor& x, at::IntArrayRef sizes) {
  check_like(tensor, name, x, sizes);
  MASK2FORMER_OPS_CHECK(is_aligned(tensor), name, " must begin at a multiple of 16 bytes");
}

at::Tensor convnext_block_cuda(const at::Tensor& x, const at::Tensor& conv_weight, const at::Tensor& conv_bias,
                               const at::Tensor& norm_weight, const at::Tensor& norm_bias, double eps,
                               const at::Tensor& fc1_weight, const at::Tensor& fc1_bias, const at::Tensor& fc2_weight,
                               const at::Tensor& fc2_bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  MASK2FORMER_OPS_CHECK(x.dim() == 4, "x must have shape (B, H, W, C), got ", x.sizes());
  const int64_t channels = x.size(3);
  MASK2FORMER_OPS_CHECK(channels > 0 && channels <= kMaxChannels && channels % kNormChannels == 0,
                        "x must have a multiple of 8 channels up to ", kMaxChannels, ", got ", channels);
  MASK2FORMER_OPS_CHECK(x.size(1) * x.size(2) * channels < (int64_t{1} << 30), "x is too large: ", x.sizes());
  MASK2FORMER_OPS_CHECK(fc1_weight.dim() == 2, "fc1_weight must be a matrix, got ", fc1_weight.sizes());
  const int64_t hidden_channels = fc1_weight.size(0);
  check(x, "x", x, x.sizes());
  check(conv_weight, "conv_weight", x, {kTaps, kTaps, channels});
  check(conv_bias, "conv_bias", x, {channels});
  check(norm_weight, "norm_weight", x, {channels});
  check(norm_bias, "norm_bias", x, {channels});
  check(fc1_weight, "fc1_weight", x, {hidden_channels, channels});
  check(fc1_bias, "fc1_bias", x, {hidden_channels});
  check(fc2_weight, "fc2_weight", x, {channels, hidden_channels});
  check(fc2_bias, "fc2_bias", x, {channels});
  auto normed = at::empty_like(x);
  if (x.numel() == 0) return normed;
  const auto run = [&](auto type) {
    using T = decltype(type);
    launch_depthwise<T>(x, conv_weight, conv_bias, normed);
    launch_norm<T>(normed, norm_weight, norm_bias, eps);
  };
  switch (x.scalar_type()) {
    case at::kBFloat16: run(BFloat16{}); break;
    case at::kHalf: run(Half{}); break;
    default: MASK2FORMER_OPS_CHECK(false, "x must be BFloat16 or Half, got ", x.scalar_type());
  }
  const auto tokens = normed.view({-1, channels});
  // GELU inside the product is the approximation by tanh, of float32 numbers. In bfloat16 its error is below that of
  // rounding them first, which the separate, exact GELU needs; in float16 it is up to four times above.
  const bool tanh = x.scalar_type() == at::kBFloat16;
  auto hidden = linear(tokens, fc1_weight, fc1_bias, tanh ? Activation::kGelu : Activation::kNone);
  if (!tanh) hidden = at::gelu(hidden);
  return linear(hidden, fc2_weight, fc2_bias, Activation::kNone, /*addend=*/x.view({-1, channels})).view(x.sizes());
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) { library.impl("convnext_block", convnext_block_cuda); }

}  // namespace mask2former_ops

// Masks of all queries at the size of the photograph, the query that each pixel goes to, and both their areas, from the
// small maps of logits, in one kernel: logits of full size are never written.
//
// A thread takes a pixel and asks one query after the other; which numbers of a map its logit is made of, it works out
// once. The maps fit into the second-level cache, and a warp's 32 neighbours share a few of their numbers. Areas are
// sums of integers: nothing varies from run to run.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "common.cuh"

namespace mask2former_ops {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxQueries = 4096;  // two counts each take 32 of 48 kB of shared memory

// One axis of the two resizings: the map covers the padded batch, the image is its beginning, the output is as large
// as the image or a resized image. Scales are pixels of the former per pixel of the latter.
struct Axis {
  int map, image, output;
  int stride;  // of the map, in numbers
  float map_scale, image_scale;
};

// Two neighbours along an axis, and how far it is from the first one to the second.
struct Between {
  int low, high;
  float to_high;
};

// Like PyTorch's `interpolate` without `align_corners`; beyond the centres of the outer pixels, the border is repeated.
__device__ __forceinline__ Between between(int at, float scale, int size) {
  const float source = fmaxf(scale * (at + 0.5f) - 0.5f, 0.f);
  const int low = min(static_cast<int>(source), size - 1);
  return {low, min(low + 1, size - 1), source - low};
}

__device__ __forceinline__ float mix(float low, float high, float to_high) {
  return (1 - to_high) * low + to_high * high;
}

// The pixels of the image (one, or two where it is resized) that an output pixel is made of, each between two numbers
// of the map, as offsets.
template <int kSteps>
struct Place {
  Between of_map[kSteps];
  float to_high;

  __device__ Place(int at, const Axis& axis) {
    const Between image = kSteps == 1 ? Between{at, at, 0.f} : between(at, axis.image_scale, axis.image);
    to_high = image.to_high;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      of_map[i] = between(i == 0 ? image.low : image.high, axis.map_scale, axis.map);
      of_map[i].low *= axis.stride;
      of_map[i].high *= axis.stride;
    }
  }
};

// In the order in which PyTorch resizes twice: signs differ by rounding only.
template <int kSteps>
__device__ __forceinline__ float resized(const float* map, const Place<kSteps>& row, const Place<kSteps>& column) {
  float image[kSteps][kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      const Between y = row.of_map[i], x = column.of_map[j];
      image[i][j] = mix(mix(__ldg(map + (y.low + x.low)), __ldg(map + (y.low + x.high)), x.to_high),
                        mix(__ldg(map + (y.high + x.low)), __ldg(map + (y.high + x.high)), x.to_high), y.to_high);
    }
  }
  if constexpr (kSteps == 1)
    return image[0][0];
  else
    return mix(mix(image[0][0], image[0][1], column.to_high), mix(image[1][0], image[1][1], column.to_high),
               row.to_high);
}

// kSteps: 2 where the image is resized to the output, else 1.
template <int kSteps>
__global__ void __launch_bounds__(kThreads)
    query_masks_kernel(const float* logits, const float* weights, bool* masks, int64_t* owners,
                       unsigned long long* areas, Axis rows, Axis columns, int count) {
  constexpr int kAtOnce = kSteps == 1 ? 4 : 1;  // queries whose numbers are on their way at once, 16 numbers
  extern __shared__ int counts[];               // (2, Q)
  for (int i = threadIdx.x; i < 2 * count; i += kThreads) counts[i] = 0;
  __syncthreads();

  const int pixels = rows.output * columns.output;
  const int pixel = blockIdx.x * kThreads + threadIdx.x;
  const bool inside = pixel < pixels;
  const int at = min(pixel, pixels - 1);
  const Place<kSteps> row(at / columns.output, rows), column(at % columns.output, columns);
  const int map_size = rows.map * columns.map;
  float best = 0;
  int owner = count;
  for (int first = 0; first < count; first += kAtOnce, logits += kAtOnce * int64_t{map_size}) {
    float logit[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      logit[i] = resized(logits + (first + i < count ? i * int64_t{map_size} : 0), row, column);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int query = first + i;
      if (query == count) break;
      const bool covers = inside && logit[i] >= 0;
      if (inside) masks[int64_t{query} * pixels + pixel] = covers;
      const int covered = __popc(__ballot_sync(kFullWarp, covers));
      if (covered && threadIdx.x % kWarpSize == 0) atomicAdd(&counts[query], covered);
      const float weight = __ldg(weights + query);
      if (weight > best) {  // else not even a probability of one would win
        const float score = weight * (1 / (1 + expf(-logit[i])));
        if (score > best) {
          best = score;
          owner = covers ? query : count;
        }
      }
    }
  }
  if (inside) {
    owners[pixel] = owner;
    if (owner < count) atomicAdd(&counts[count + owner], 1);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * count; i += kThreads) {
    if (counts[i]) atomicAdd(&areas[i], static_cast<unsigned long long>(counts[i]));
  }
}

Axis axis(int64_t map, int64_t padded, int64_t image, int64_t output, int64_t stride) {
  return {static_cast<int>(map), static_cast<int>(image), static_cast<int>(output), static_cast<int>(stride),
          static_cast<float>(map) / static_cast<float>(padded), static_cast<float>(image) / static_cast<float>(output)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> query_masks_cuda(const at::Tensor& logits, const at::Tensor& weight,
                                                                at::IntArrayRef padded_size, at::IntArrayRef image_size,
                                                                at::IntArrayRef output_size) {
  const c10::cuda::CUDAGuard guard(logits.device());
  constexpr int64_t kLimit = int64_t{1} << 30;
  MASK2FORMER_OPS_CHECK(logits.dim() == 3 && logits.scalar_type() == at::kFloat && logits.is_contiguous() &&
                            logits.size(0) <= kMaxQueries && logits.size(1) * logits.size(2) < kLimit,
                        "logits must be Float and contiguous with shape (Q, h, w), Q up to ", kMaxQueries, ", got ",
                        logits.sizes());
  MASK2FORMER_OPS_CHECK(weight.dim() == 1 && weight.size(0) == logits.size(0) && weight.scalar_type() == at::kFloat &&
                            weight.is_contiguous() && weight.device() == logits.device(),
                        "weight must be Float, contiguous and on ", logits.device(), " with shape (Q=", logits.size(0),
                        "), got ", weight.sizes());
  MASK2FORMER_OPS_CHECK(padded_size.size() == 2 && image_size.size() == 2 && output_size.size() == 2,
                        "sizes must be pairs (H, W), got ", padded_size, ", ", image_size, ", ", output_size);
  for (int i = 0; i < 2; ++i) {
    MASK2FORMER_OPS_CHECK(0 < image_size[i] && image_size[i] <= padded_size[i] && padded_size[i] < kLimit,
                          "image_size must be positive and at most padded_size ", padded_size, ", got ", image_size);
    MASK2FORMER_OPS_CHECK(0 < output_size[i] && output_size[i] < kLimit, "output_size must be positive, got ",
                          output_size);
  }
  MASK2FORMER_OPS_CHECK(output_size[0] * output_size[1] < kLimit, "output_size must have fewer than 2^30 pixels, got ",
                        output_size);
  const int64_t count = logits.size(0), height = output_size[0], width = output_size[1];
  auto masks = at::empty({count, height, width}, logits.options().dtype(at::kBool));
  auto owner = at::empty({height, width}, logits.options().dtype(at::kLong));
  auto areas = at::zeros({2, count}, owner.options());
  MASK2FORMER_OPS_CHECK(count == 0 || logits.numel() > 0, "logits must have pixels, got ", logits.sizes());
  const auto kernel = image_size == output_size ? query_masks_kernel<1> : query_masks_kernel<2>;
  const auto blocks = static_cast<unsigned>((height * width + kThreads - 1) / kThreads);
  kernel<<<blocks, kThreads, 2 * count * sizeof(int), c10::cuda::getCurrentCUDAStream()>>>(
      logits.const_data_ptr<float>(), weight.const_data_ptr<float>(), masks.mutable_data_ptr<bool>(),
      owner.mutable_data_ptr<int64_t>(), reinterpret_cast<unsigned long long*>(areas.mutable_data_ptr<int64_t>()),
      axis(logits.size(1), padded_size[0], image_size[0], height, logits.size(2)),
      axis(logits.size(2), padded_size[1], image_size[1], width, 1), static_cast<int>(count));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {masks, owner, areas};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) { library.impl("query_masks", query_masks_cuda); }

}  // namespace mask2former_ops

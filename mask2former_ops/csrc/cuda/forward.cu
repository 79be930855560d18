// CUDA forward.
//
// The fast kernel gives a group of threads, sixteen bytes of the row each, one (query, head); a warp holds several queries of one head. Per level
// the warp first works out its points, one thread a point, and leaves four pixel indices and four products of bilinear
// and attention weight in shared memory; then every group walks over its points and loads whole rows.
// A block holds queries that are neighbours in the image where the queries are the tokens themselves, because those
// sample the same pixels: what limits this operator is how often pixels come from the first-level cache.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "common.cuh"
#include "cuda_ops.h"

namespace mask2former_ops {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

// Queries in tiles of rows x columns of their level, or one row of all queries where they form no image.
struct Tiling {
  int rows, columns;              // of a tile; rows * columns queries in a block
  int count;                      // parts: levels, or one
  int64_t first_tile[kMaxLevels];  // of each part
  int64_t tiles;
  int height[kMaxLevels], width[kMaxLevels];
  int64_t start[kMaxLevels];
};

struct PointSlot {
  float4 weight;
  int4 token;
};

template <typename T, typename Points, int kLanes, int kStaticPoints>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* __restrict__ value, const Points points, T* __restrict__ output, const Sizes sizes,
                   const Tiling tiling) {
  constexpr int kItems = kWarpSize / kLanes;  // queries of a warp
  constexpr int kPointCapacity = kStaticPoints ? kStaticPoints : kMaxPoints;
  __shared__ PointSlot all_slots[kWarps][kItems * kPointCapacity];

  const int thread = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int item = thread / kLanes, lane = thread % kLanes;
  PointSlot* slots = all_slots[warp];

  const int heads = sizes.heads;
  const int head = blockIdx.x % heads;
  const int64_t tile_and_image = blockIdx.x / heads;
  const int64_t tile = tile_and_image % tiling.tiles, image = tile_and_image / tiling.tiles;
  int part = 0;
  while (part + 1 < tiling.count && tile >= tiling.first_tile[part + 1]) ++part;
  const int64_t tile_in_part = tile - tiling.first_tile[part];
  const int tiles_across = (tiling.width[part] + tiling.columns - 1) / tiling.columns;
  const int place = warp * kItems + item;
  const int64_t query_y = tile_in_part / tiles_across * tiling.rows + place / tiling.columns;
  const int64_t query_x = tile_in_part % tiles_across * tiling.columns + place % tiling.columns;
  const bool active = query_y < tiling.height[part] && query_x < tiling.width[part];
  const int64_t query = active ? tiling.start[part] + query_y * tiling.width[part] + query_x : 0;

  const int point_count = kStaticPoints ? kStaticPoints : sizes.points;
  const int samples = sizes.levels.count * point_count;
  const int64_t query_row = image * sizes.queries + query;
  const int64_t row = query_row * heads + head;  // of (N, Lq, M)
  constexpr int kChannels = Row<T>::kChannels;
  const int64_t stride = static_cast<int64_t>(heads) * kLanes * kChannels;
  const T* slice = value + image * sizes.tokens * stride + head * (kLanes * kChannels);

  float log_sum = 0.f;
  if constexpr (Points::kSoftmax) {
    float peak = -INFINITY;
    for (int i = lane; i < samples; i += kLanes) peak = fmaxf(peak, points.logit(row * samples + i));
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) peak = fmaxf(peak, __shfl_xor_sync(kFullWarp, peak, step));
    float sum = 0.f;
    for (int i = lane; i < samples; i += kLanes) sum += expf(points.logit(row * samples + i) - peak);
    log_sum = peak + logf(group_sum<kLanes>(sum));
    if (active && lane == 0) points.log_sums[row] = log_sum;
  }

  float result[kChannels] = {};
  for (int level = 0; level < sizes.levels.count; ++level) {
    const int height = sizes.levels.height[level], width = sizes.levels.width[level];
    const int start = static_cast<int>(sizes.levels.start[level]);
    __syncwarp();
    for (int base = 0; base < kItems * point_count; base += kWarpSize) {
      const int slot = base + thread;
      const int slot_item = min(slot / point_count, kItems - 1), point = slot % point_count;
      const int64_t slot_query_row = __shfl_sync(kFullWarp, query_row, slot_item * kLanes);
      const float slot_log_sum = __shfl_sync(kFullWarp, log_sum, slot_item * kLanes);
      if (slot >= kItems * point_count) continue;
      const int64_t index = (slot_query_row * heads + head) * samples + level * point_count + point;
      const float2 pixel = points.pixel(sizes, index, slot_query_row, level);
      const float weight = points.weight(index, slot_log_sum);
      PointSlot computed = {make_float4(0.f, 0.f, 0.f, 0.f), make_int4(start, start, start, start)};
      if (touches(pixel, height, width)) {
        const float left = floorf(pixel.x), top = floorf(pixel.y);
        const float x = pixel.x - left, y = pixel.y - top;
        const int x0 = static_cast<int>(left), y0 = static_cast<int>(top);
        const bool has_left = x0 >= 0, has_right = x0 + 1 < width, has_top = y0 >= 0, has_bottom = y0 + 1 < height;
        const int left_column = has_left ? x0 : 0, right_column = has_right ? x0 + 1 : x0;
        const int top_row = start + (has_top ? y0 : 0) * width, bottom_row = start + (has_bottom ? y0 + 1 : y0) * width;
        const float upper = has_top ? weight * (1.f - y) : 0.f, lower = has_bottom ? weight * y : 0.f;
        const float before = has_left ? 1.f - x : 0.f, after = has_right ? x : 0.f;
        computed.weight = make_float4(upper * before, upper * after, lower * before, lower * after);
        computed.token = make_int4(top_row + left_column, top_row + right_column, bottom_row + left_column,
                                   bottom_row + right_column);
      }
      slots[slot] = computed;
    }
    __syncwarp();
#pragma unroll(kStaticPoints ? 4 : 1)
    for (int point = 0; point < point_count; ++point) {
      const PointSlot slot = slots[item * point_count + point];
      const int tokens[4] = {slot.token.x, slot.token.y, slot.token.z, slot.token.w};
      const float weights[4] = {slot.weight.x, slot.weight.y, slot.weight.z, slot.weight.w};
      Row<T> pixels[4];
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) pixels[corner].load(slice + tokens[corner] * stride, lane);
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        float channels[kChannels];
        pixels[corner].unpack(channels);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) result[c] = fmaf(weights[corner], channels[c], result[c]);
      }
    }
  }
  if (active) Row<T>::store(output + row * (kLanes * kChannels), lane, result);
}

template <int kLanes>
Tiling make_tiling(const Sizes& sizes) {
  constexpr int kQueries = kThreads / kLanes;  // of a block
  Tiling tiling{};
  if (sizes.queries == sizes.tokens) {
    tiling.columns = kQueries >= 32 ? 8 : 4;
    tiling.rows = kQueries / tiling.columns;
    tiling.count = sizes.levels.count;
    for (int level = 0; level < tiling.count; ++level) {
      tiling.height[level] = sizes.levels.height[level];
      tiling.width[level] = sizes.levels.width[level];
      tiling.start[level] = sizes.levels.start[level];
    }
  } else {
    tiling.columns = kQueries;
    tiling.rows = 1;
    tiling.count = 1;
    tiling.height[0] = 1;
    tiling.width[0] = static_cast<int>(sizes.queries);
  }
  for (int part = 0; part < tiling.count; ++part) {
    tiling.first_tile[part] = tiling.tiles;
    tiling.tiles += int64_t{(tiling.height[part] + tiling.rows - 1) / tiling.rows} *
                    ((tiling.width[part] + tiling.columns - 1) / tiling.columns);
  }
  return tiling;
}

template <typename T, int kLanes, typename Points>
void launch(const void* value, const Points& points, void* output, const Sizes& sizes) {
  const Tiling tiling = make_tiling<kLanes>(sizes);
  const int64_t blocks = sizes.batch * tiling.tiles * sizes.heads;
  MASK2FORMER_OPS_CHECK(blocks < (int64_t{1} << 31), "value is too large for one launch: ", blocks, " blocks");
  const auto kernel =
      sizes.points == 4 ? forward_kernel<T, Points, kLanes, 4> : forward_kernel<T, Points, kLanes, 0>;
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
      static_cast<const T*>(value), points, static_cast<T*>(output), sizes, tiling);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename Points>
void launch_for_width(const at::Tensor& value, const Points& points, at::Tensor& output, const Sizes& sizes) {
  const void* from = value.const_data_ptr();
  void* to = output.mutable_data_ptr();
  switch (sizes.head_width) {
    case 16: return launch<T, 16 / Row<T>::kChannels>(from, points, to, sizes);
    case 32: return launch<T, 32 / Row<T>::kChannels>(from, points, to, sizes);
    case 64: return launch<T, 64 / Row<T>::kChannels>(from, points, to, sizes);
    case 128: return launch<T, 128 / Row<T>::kChannels>(from, points, to, sizes);
    default: TORCH_CHECK(false, "no fast kernel for head width ", sizes.head_width);
  }
}

}  // namespace

void fast_forward(const at::Tensor& value, const at::Tensor& locations, const at::Tensor& weights, at::Tensor& output,
                  const Sizes& sizes) {
  const GivenPoints points{locations.const_data_ptr<float>(), weights.const_data_ptr<float>()};
  switch (value.scalar_type()) {
    case at::kFloat: return launch_for_width<float>(value, points, output, sizes);
    case at::kBFloat16: return launch_for_width<BFloat16>(value, points, output, sizes);
    case at::kHalf: return launch_for_width<Half>(value, points, output, sizes);
    default: TORCH_CHECK(false, "no fast kernel for ", value.scalar_type());
  }
}

template <typename T>
void fused_forward(const at::Tensor& value, const at::Tensor& reference_points, const at::Tensor& offsets,
                   const at::Tensor& logits, at::Tensor& output, at::Tensor& log_sums, const Sizes& sizes) {
  const OffsetPoints<T> points{
      reference_points.const_data_ptr<float>(), static_cast<const T*>(offsets.const_data_ptr()),
      static_cast<const T*>(logits.const_data_ptr()), log_sums.mutable_data_ptr<float>()};
  launch_for_width<T>(value, points, output, sizes);
}

void fast_fused_forward(const at::Tensor& value, const at::Tensor& reference_points, const at::Tensor& offsets,
                        const at::Tensor& logits, at::Tensor& output, at::Tensor& log_sums, const Sizes& sizes) {
  switch (value.scalar_type()) {
    case at::kFloat: return fused_forward<float>(value, reference_points, offsets, logits, output, log_sums, sizes);
    case at::kBFloat16:
      return fused_forward<BFloat16>(value, reference_points, offsets, logits, output, log_sums, sizes);
    case at::kHalf: return fused_forward<Half>(value, reference_points, offsets, logits, output, log_sums, sizes);
    default: TORCH_CHECK(false, "no fast kernel for ", value.scalar_type());
  }
}

}  // namespace mask2former_ops

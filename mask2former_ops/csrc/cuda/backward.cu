// CUDA backward, without an atomic operation per sample.
//
// A sample touches the four pixels around it, its cell. One kernel sorts the samples of every (image, head, level) by
// cell (a counting sort in shared memory, one block each) into records of position, weight and index. The second walks
// over runs of sorted records with D / 8 threads a run: as long as the cell stays the same, its four pixels and the
// four sums of their gradients stay in registers, so a pixel is read, and its gradient added to memory, once per cell
// and run instead of once per sample. Per sample only the row of grad_output is read and three numbers are written.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <climits>

#include "common.cuh"
#include "cuda_ops.h"

namespace mask2former_ops {
namespace {

constexpr int kSortThreads = 1024;
constexpr int kRunThreads = 256;
constexpr int kRunLength = 32;    // records of one group of threads
constexpr int kSoftmaxThreads = 256;
constexpr int kSoftmaxLanes = 4;  // threads of one (query, head)

struct __align__(16) Record {
  float x, y;    // pixels
  float weight;  // attention weight
  int sample;    // query * P + point
};

// ---- Where gradients of coordinates and weights go. Samples outside their level get zeros from the sort.

struct GivenGradients {
  float* locations;
  float* weights;

  // d(pixel) / d(location) is the size of the level.
  __device__ void store_slope(int64_t index, int axis, float x, int size) const {
    locations[2 * index + axis] = x * size;
  }
};

template <typename T>
struct OffsetGradients {
  T* offsets;
  float* weights;

  // Offsets are in pixels.
  __device__ void store_slope(int64_t index, int axis, float x, int) const {
    Storage<T>::store(offsets + 2 * index + axis, x);
  }
};

__device__ __forceinline__ int cell_of(float2 pixel, int width) {
  return (static_cast<int>(floorf(pixel.y)) + 1) * (width + 1) + static_cast<int>(floorf(pixel.x)) + 1;
}

// Exclusive prefix sum over `cells` in place; returns the total. All threads of the block call it.
__device__ int block_scan(int* cells, int count) {
  __shared__ int warp_totals[kSortThreads / kWarpSize];
  __shared__ int carry;
  const int thread = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  if (threadIdx.x == 0) carry = 0;
  __syncthreads();
  for (int base = 0; base < count; base += kSortThreads) {
    const int i = base + threadIdx.x;
    const int own = i < count ? cells[i] : 0;
    int sum = own;
#pragma unroll
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int below = __shfl_up_sync(kFullWarp, sum, step);
      if (thread >= step) sum += below;
    }
    if (thread == kWarpSize - 1) warp_totals[warp] = sum;
    __syncthreads();
    if (warp == 0) {
      int total = warp_totals[thread];
#pragma unroll
      for (int step = 1; step < kWarpSize; step *= 2) {
        const int below = __shfl_up_sync(kFullWarp, total, step);
        if (thread >= step) total += below;
      }
      warp_totals[thread] = total;
    }
    __syncthreads();
    const int before = carry + (warp > 0 ? warp_totals[warp - 1] : 0);
    if (i < count) cells[i] = before + sum - own;
    __syncthreads();
    if (threadIdx.x == 0) carry += warp_totals[kSortThreads / kWarpSize - 1];
    __syncthreads();
  }
  return carry;
}

// Block (level, head, image): sorts the samples of one level by cell into `records`, and counts them in `counts`.
template <typename Points, typename Gradients>
__global__ void __launch_bounds__(kSortThreads)
    sort_kernel(const Points points, const Gradients gradients, Record* __restrict__ records,
                int* __restrict__ counts, const Sizes sizes) {
  extern __shared__ int cells[];
  const int level = blockIdx.x % sizes.levels.count;
  const int64_t slice = blockIdx.x / sizes.levels.count;  // image * M + head
  const int head = slice % sizes.heads;
  const int64_t image = slice / sizes.heads;
  const int height = sizes.levels.height[level], width = sizes.levels.width[level];
  const int cell_count = (height + 1) * (width + 1);
  const int samples = sizes.levels.count * sizes.points;
  for (int i = threadIdx.x; i < cell_count; i += kSortThreads) cells[i] = 0;
  __syncthreads();

  const int queries = static_cast<int>(sizes.queries);
  const int total_points = queries * sizes.points;
  for (int i = threadIdx.x; i < total_points; i += kSortThreads) {
    const int64_t query_row = image * sizes.queries + i / sizes.points;
    const int64_t row = query_row * sizes.heads + head;
    const int64_t index = row * samples + level * sizes.points + i % sizes.points;
    const float2 pixel = points.pixel(sizes, row, index, query_row, level);
    if (touches(pixel, height, width)) atomicAdd(&cells[cell_of(pixel, width)], 1);
  }
  __syncthreads();
  const int touching = block_scan(cells, cell_count);
  if (threadIdx.x == 0) counts[blockIdx.x] = touching;

  Record* const sorted = records + static_cast<int64_t>(blockIdx.x) * total_points;
  for (int query = threadIdx.x; query < queries; query += kSortThreads) {
    const int64_t query_row = image * sizes.queries + query;
    const int64_t row = query_row * sizes.heads + head;
    float peak = 0.f, scale = 1.f;
    if constexpr (Points::kSoftmax) {
      peak = -INFINITY;
      for (int i = 0; i < samples; ++i) peak = fmaxf(peak, points.weight(row * samples + i));
      float sum = 0.f;
      for (int i = 0; i < samples; ++i) sum += expf(points.weight(row * samples + i) - peak);
      scale = 1.f / sum;
    }
    for (int point = 0; point < sizes.points; ++point) {
      const int64_t index = row * samples + level * sizes.points + point;
      const float2 pixel = points.pixel(sizes, row, index, query_row, level);
      if (!touches(pixel, height, width)) {
        gradients.store_slope(index, 0, 0.f, 0);
        gradients.store_slope(index, 1, 0.f, 0);
        gradients.weights[index] = 0.f;
        continue;
      }
      float weight = points.weight(index);
      if constexpr (Points::kSoftmax) weight = expf(weight - peak) * scale;
      const int place = atomicAdd(&cells[cell_of(pixel, width)], 1);
      sorted[place] = {pixel.x, pixel.y, weight, query * sizes.points + point};
    }
  }
}

__device__ __forceinline__ void add_four(float* target, const float* x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(target), make_float4(x[0], x[1], x[2], x[3]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) atomicAdd(target + i, x[i]);
#endif
}

// Four pixels of a cell and the sums of their gradients, eight channels each.
template <typename T, int kLanes>
struct Cell {
  Row<T> pixels[4];
  float sums[4][kChannels];
  int64_t offset[4];  // of the rows in value, negative where the pixel does not exist

  __device__ void flush(float* grad_value, int lane) {
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      if (offset[corner] < 0) continue;
      float* row = grad_value + offset[corner];
#pragma unroll
      for (int c = 0; c < kChannels; c += 4) {
        const int v = c / Row<T>::kPerVector;
        add_four(row + Row<T>::template channel<kLanes>(lane, v) + c % Row<T>::kPerVector, &sums[corner][c]);
      }
    }
  }

  __device__ void enter(const T* value, const Sizes& sizes, int level, int x0, int y0, int64_t slice, int64_t stride,
                        int lane) {
    const int height = sizes.levels.height[level], width = sizes.levels.width[level];
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const int x = x0 + (corner & 1), y = y0 + (corner >> 1);
      const bool exists = x >= 0 && x < width && y >= 0 && y < height;
      offset[corner] =
          exists ? slice + (sizes.levels.start[level] + static_cast<int64_t>(y) * width + x) * stride : -1;
      if (exists)
        pixels[corner].template load<kLanes>(value + offset[corner], lane);
      else
        pixels[corner].clear();
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sums[corner][c] = 0.f;
    }
  }
};

template <int kLanes>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

template <typename T, int kLanes, typename Gradients>
__global__ void __launch_bounds__(kRunThreads, 2)
    run_kernel(const T* __restrict__ grad_output, const T* __restrict__ value, const Record* __restrict__ records,
               const int* __restrict__ counts, float* __restrict__ grad_value, const Gradients gradients,
               const Sizes sizes, int blocks_per_part) {
  const int64_t part = blockIdx.x / blocks_per_part;  // (image * M + head) * L + level
  const int count = counts[part];
  const int group = (blockIdx.x % blocks_per_part * kRunThreads + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int warp_first = (blockIdx.x % blocks_per_part * kRunThreads + threadIdx.x / kWarpSize * kWarpSize) / kLanes;
  if (static_cast<int64_t>(warp_first) * kRunLength >= count) return;  // whole warps leave
  const int64_t first = static_cast<int64_t>(group) * kRunLength;

  const int level = part % sizes.levels.count;
  const int64_t head_slice = part / sizes.levels.count;
  const int head = head_slice % sizes.heads;
  const int64_t image = head_slice / sizes.heads;
  const int height = sizes.levels.height[level], width = sizes.levels.width[level];
  const int64_t stride = static_cast<int64_t>(sizes.heads) * kLanes * kChannels;
  const int64_t slice = image * sizes.tokens * stride + head * (kLanes * kChannels);
  const int samples = sizes.levels.count * sizes.points;
  const T* const gradient_rows = grad_output + image * sizes.queries * stride + head * (kLanes * kChannels);
  const Record* const own = records + part * sizes.queries * sizes.points + first;
  const int length = static_cast<int>(min(static_cast<int64_t>(kRunLength), max(count - first, int64_t{0})));
  const Record nothing = {0.f, 0.f, 0.f, 0};

  // One record and one row of grad_output are under way while the one before is computed.
  Record next = length > 0 ? own[0] : nothing;
  Record after = length > 1 ? own[1] : nothing;
  Row<T> next_row;
  next_row.template load<kLanes>(gradient_rows + next.sample / sizes.points * stride, lane);

  Cell<T, kLanes> cell;
  int cell_x = INT_MIN, cell_y = INT_MIN;
  for (int i = 0; i < kRunLength; ++i) {
    const Record record = next;
    const Row<T> row = next_row;
    next = after;
    next_row.template load<kLanes>(gradient_rows + next.sample / sizes.points * stride, lane);
    after = i + 2 < length ? own[i + 2] : nothing;
    const bool active = i < length;

    const float left = floorf(record.x), top = floorf(record.y);
    const int x0 = static_cast<int>(left), y0 = static_cast<int>(top);
    if (active && (x0 != cell_x || y0 != cell_y)) {
      if (i > 0) cell.flush(grad_value, lane);
      cell.enter(value, sizes, level, x0, y0, slice, stride, lane);
      cell_x = x0;
      cell_y = y0;
    }
    const float x = record.x - left, y = record.y - top;
    float gradient[kChannels];
    row.unpack(gradient);
    float product[4];
    const float bilinear[4] = {(1.f - x) * (1.f - y), x * (1.f - y), (1.f - x) * y, x * y};
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      float pixel[kChannels];
      cell.pixels[corner].unpack(pixel);
      const float scale = active ? record.weight * bilinear[corner] : 0.f;
      float sum = 0.f;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        sum = fmaf(gradient[c], pixel[c], sum);
        cell.sums[corner][c] = fmaf(scale, gradient[c], cell.sums[corner][c]);
      }
      product[corner] = sum;
    }
    float grad_weight = 0.f;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) grad_weight = fmaf(bilinear[corner], product[corner], grad_weight);
    float slope_x = (1.f - y) * (product[1] - product[0]) + y * (product[3] - product[2]);
    float slope_y = (1.f - x) * (product[2] - product[0]) + x * (product[3] - product[1]);
    grad_weight = group_sum<kLanes>(grad_weight);
    slope_x = group_sum<kLanes>(slope_x) * record.weight;
    slope_y = group_sum<kLanes>(slope_y) * record.weight;
    if (active && lane == 0) {
      const int query = record.sample / sizes.points, point = record.sample % sizes.points;
      const int64_t row_index = (image * sizes.queries + query) * sizes.heads + head;
      const int64_t index = row_index * samples + level * sizes.points + point;
      gradients.weights[index] = grad_weight;
      gradients.store_slope(index, 0, slope_x, width);
      gradients.store_slope(index, 1, slope_y, height);
    }
  }
  if (length > 0) cell.flush(grad_value, lane);
}

// From gradients of the attention weights to those of the logits; a few threads for one (query, head).
template <typename T>
__global__ void __launch_bounds__(kSoftmaxThreads)
    softmax_kernel(const T* __restrict__ logits, const float* __restrict__ grad_weights, T* __restrict__ grad_logits,
                   int64_t rows, int samples) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kSoftmaxThreads + threadIdx.x) / kSoftmaxLanes;
  const int lane = threadIdx.x % kSoftmaxLanes;
  const int64_t first = min(row, rows - 1) * samples;  // threads past the end repeat the last row and write nothing
  float peak = -INFINITY;
  for (int i = lane; i < samples; i += kSoftmaxLanes) peak = fmaxf(peak, Storage<T>::load(logits + first + i));
#pragma unroll
  for (int step = 1; step < kSoftmaxLanes; step *= 2) peak = fmaxf(peak, __shfl_xor_sync(kFullWarp, peak, step));
  float sum = 0.f, weighted = 0.f;
  for (int i = lane; i < samples; i += kSoftmaxLanes) {
    const float weight = expf(Storage<T>::load(logits + first + i) - peak);
    sum += weight;
    weighted = fmaf(weight, grad_weights[first + i], weighted);
  }
  sum = group_sum<kSoftmaxLanes>(sum);
  weighted = group_sum<kSoftmaxLanes>(weighted) / sum;
  if (row >= rows) return;
  for (int i = lane; i < samples; i += kSoftmaxLanes) {
    const float weight = expf(Storage<T>::load(logits + first + i) - peak) / sum;
    Storage<T>::store(grad_logits + first + i, weight * (grad_weights[first + i] - weighted));
  }
}

int64_t largest_cell_bytes(const Sizes& sizes) {
  int64_t cells = 0;
  for (int level = 0; level < sizes.levels.count; ++level)
    cells = std::max(cells, (int64_t{sizes.levels.height[level]} + 1) * (sizes.levels.width[level] + 1));
  return cells * static_cast<int64_t>(sizeof(int));
}

unsigned checked_blocks(int64_t blocks) {
  TORCH_CHECK_VALUE(blocks < (int64_t{1} << 31), "too many samples for one launch: ", blocks, " blocks");
  return static_cast<unsigned>(blocks);
}

template <typename T, int kLanes, typename Points, typename Gradients>
void launch(const at::Tensor& grad_output, const at::Tensor& value, const Points& points, const Gradients& gradients,
            at::Tensor& grad_value, const Sizes& sizes) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t parts = sizes.batch * sizes.heads * sizes.levels.count;
  const int64_t points_per_part = sizes.queries * sizes.points;
  auto records = at::empty({parts * points_per_part, 4}, value.options().dtype(at::kFloat));
  auto counts = at::empty({parts}, value.options().dtype(at::kInt));
  auto* const record_data = reinterpret_cast<Record*>(records.mutable_data_ptr<float>());

  const auto sort = sort_kernel<Points, Gradients>;
  const int bytes = static_cast<int>(largest_cell_bytes(sizes));
  C10_CUDA_CHECK(cudaFuncSetAttribute(sort, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  sort<<<checked_blocks(parts), kSortThreads, bytes, stream>>>(points, gradients, record_data,
                                                               counts.mutable_data_ptr<int>(), sizes);
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  constexpr int64_t kRecordsPerBlock = int64_t{kRunThreads} / kLanes * kRunLength;
  const int64_t blocks_per_part = (points_per_part + kRecordsPerBlock - 1) / kRecordsPerBlock;
  run_kernel<T, kLanes, Gradients><<<checked_blocks(parts * blocks_per_part), kRunThreads, 0, stream>>>(
      static_cast<const T*>(grad_output.const_data_ptr()), static_cast<const T*>(value.const_data_ptr()), record_data,
      counts.const_data_ptr<int>(), grad_value.mutable_data_ptr<float>(), gradients, sizes,
      static_cast<int>(blocks_per_part));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, typename Points, typename Gradients>
void launch_for_width(const at::Tensor& grad_output, const at::Tensor& value, const Points& points,
                      const Gradients& gradients, at::Tensor& grad_value, const Sizes& sizes) {
  switch (sizes.head_width) {
    case 16: return launch<T, 2>(grad_output, value, points, gradients, grad_value, sizes);
    case 32: return launch<T, 4>(grad_output, value, points, gradients, grad_value, sizes);
    case 64: return launch<T, 8>(grad_output, value, points, gradients, grad_value, sizes);
    case 128: return launch<T, 16>(grad_output, value, points, gradients, grad_value, sizes);
    default: TORCH_CHECK(false, "no fast kernel for head width ", sizes.head_width);
  }
}

template <typename T>
void fused_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& reference_points,
                    const at::Tensor& offsets, const at::Tensor& logits, at::Tensor& grad_value,
                    at::Tensor& grad_offsets, at::Tensor& grad_logits, const Sizes& sizes) {
  auto grad_weights = at::empty(logits.sizes(), logits.options().dtype(at::kFloat));
  const T* const logit_data = static_cast<const T*>(logits.const_data_ptr());
  const OffsetPoints<T> points{reference_points.const_data_ptr<float>(),
                               static_cast<const T*>(offsets.const_data_ptr()), logit_data};
  const OffsetGradients<T> gradients{static_cast<T*>(grad_offsets.mutable_data_ptr()),
                                     grad_weights.mutable_data_ptr<float>()};
  launch_for_width<T>(grad_output, value, points, gradients, grad_value, sizes);

  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  constexpr int64_t kRows = kSoftmaxThreads / kSoftmaxLanes;
  softmax_kernel<T><<<checked_blocks((rows + kRows - 1) / kRows), kSoftmaxThreads, 0,
                      c10::cuda::getCurrentCUDAStream()>>>(
      logit_data, gradients.weights, static_cast<T*>(grad_logits.mutable_data_ptr()), rows,
      sizes.levels.count * sizes.points);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

bool sorted_backward_fits(const Sizes& sizes) {
  constexpr int64_t kScanBytes = 512;  // the scan's own arrays, rounded up
  int device = 0, limit = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return largest_cell_bytes(sizes) + kScanBytes <= limit;
}

void fast_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& locations,
                   const at::Tensor& weights, at::Tensor& grad_value, at::Tensor& grad_locations,
                   at::Tensor& grad_weights, const Sizes& sizes) {
  const GivenPoints points{locations.const_data_ptr<float>(), weights.const_data_ptr<float>()};
  const GivenGradients gradients{grad_locations.mutable_data_ptr<float>(), grad_weights.mutable_data_ptr<float>()};
  switch (value.scalar_type()) {
    case at::kFloat: return launch_for_width<float>(grad_output, value, points, gradients, grad_value, sizes);
    case at::kBFloat16: return launch_for_width<BFloat16>(grad_output, value, points, gradients, grad_value, sizes);
    case at::kHalf: return launch_for_width<Half>(grad_output, value, points, gradients, grad_value, sizes);
    default: TORCH_CHECK(false, "no fast kernel for ", value.scalar_type());
  }
}

void fast_fused_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& reference_points,
                         const at::Tensor& offsets, const at::Tensor& logits, at::Tensor& grad_value,
                         at::Tensor& grad_offsets, at::Tensor& grad_logits, const Sizes& sizes) {
  const auto run = [&](auto type) {
    fused_backward<decltype(type)>(grad_output, value, reference_points, offsets, logits, grad_value, grad_offsets,
                                   grad_logits, sizes);
  };
  switch (value.scalar_type()) {
    case at::kFloat: return run(float{});
    case at::kBFloat16: return run(BFloat16{});
    case at::kHalf: return run(Half{});
    default: TORCH_CHECK(false, "no fast kernel for ", value.scalar_type());
  }
}

}  // namespace mask2former_ops

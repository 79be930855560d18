// CUDA backward, without an atomic operation per sample.
//
// A sample touches the four pixels around it, its cell. One kernel sorts the samples of every (image, head, level) by
// cell (a counting sort in shared memory, one block each) into records of position, weight and index. The second walks
// over runs of sorted records with a few threads a run: as long as the cell stays the same, its four pixels and the
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
constexpr int kRunLength = 32;  // records of one group of threads
constexpr int kFinishThreads = 256;
constexpr int kFinishLanes = 4;  // threads of one (query, head)

struct __align__(16) Record {
  float x, y;    // pixels
  float weight;  // attention weight
  int sample;    // query * P + point
};

// ---- Where a sample's gradients go: by weight, and by x and y in pixels.

// d(pixel) / d(location) is the size of the level.
struct GivenGradients {
  float2* locations;
  float* weights;

  __device__ void store(int64_t index, float weight, float x, float y, int height, int width) const {
    locations[index] = make_float2(x * width, y * height);
    weights[index] = weight;
  }
};

// One store a sample instead of two; finish_kernel takes the numbers apart again. Offsets are in pixels.
template <typename T>
struct PackedGradients {
  using Packed = uint2;
  Packed* packed;

  __device__ void store(int64_t index, float weight, float x, float y, int, int) const {
    packed[index] = make_uint2(__float_as_uint(weight), Storage<T>::pack(x, y));
  }
  static __device__ float weight(const Packed& from) { return __uint_as_float(from.x); }
  static __device__ void store_offset(T* to, const Packed& from) { *reinterpret_cast<uint32_t*>(to) = from.y; }
};

template <>
struct PackedGradients<float> {
  using Packed = float4;
  Packed* packed;

  __device__ void store(int64_t index, float weight, float x, float y, int, int) const {
    packed[index] = make_float4(x, y, weight, 0.f);
  }
  static __device__ float weight(const Packed& from) { return from.z; }
  static __device__ void store_offset(float* to, const Packed& from) {
    *reinterpret_cast<float2*>(to) = make_float2(from.x, from.y);
  }
};

__device__ __forceinline__ int cell_of(float2 pixel, int width) {
  return (static_cast<int>(floorf(pixel.y)) + 1) * (width + 1) + static_cast<int>(floorf(pixel.x)) + 1;
}

// Exclusive prefix sum over `cells` in place; returns the total. All threads of the block call it.
__device__ int block_scan(int* cells, int count) {
  __shared__ int warp_totals[kSortThreads / kWarpSize];
  __shared__ int carry;
  const int thread = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = kSortThreads / kWarpSize;
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
      int total = thread < warps ? warp_totals[thread] : 0;
#pragma unroll
      for (int step = 1; step < kWarpSize; step *= 2) {
        const int below = __shfl_up_sync(kFullWarp, total, step);
        if (thread >= step) total += below;
      }
      if (thread < warps) warp_totals[thread] = total;
    }
    __syncthreads();
    const int before = carry + (warp > 0 ? warp_totals[warp - 1] : 0);
    if (i < count) cells[i] = before + sum - own;
    __syncthreads();
    if (threadIdx.x == 0) carry += warp_totals[warps - 1];
    __syncthreads();
  }
  return carry;
}

// Block (level, head, image): sorts the samples of one level by cell into `records`, and counts them in `counts`.
template <typename Points, typename Gradients, int kStaticPoints>
__global__ void __launch_bounds__(kSortThreads, 1)
    sort_kernel(const Points points, const Gradients gradients, Record* __restrict__ records,
                int* __restrict__ counts, const Sizes sizes) {
  extern __shared__ int cells[];
  const int level = blockIdx.x % sizes.levels.count;
  const int64_t slice = blockIdx.x / sizes.levels.count;  // image * M + head
  const int head = slice % sizes.heads;
  const int64_t image = slice / sizes.heads;
  const int height = sizes.levels.height[level], width = sizes.levels.width[level];
  const int cell_count = (height + 1) * (width + 1);
  const int point_count = kStaticPoints ? kStaticPoints : sizes.points;
  const int samples = sizes.levels.count * point_count;
  for (int i = threadIdx.x; i < cell_count; i += kSortThreads) cells[i] = 0;
  __syncthreads();

  const int total_points = static_cast<int>(sizes.queries) * point_count;
#pragma unroll 4
  for (int i = threadIdx.x; i < total_points; i += kSortThreads) {
    const int64_t query_row = image * sizes.queries + i / point_count;
    const int64_t index = (query_row * sizes.heads + head) * samples + level * point_count + i % point_count;
    const float2 pixel = points.pixel(sizes, index, query_row, level);
    if (touches(pixel, height, width)) atomicAdd(&cells[cell_of(pixel, width)], 1);
  }
  __syncthreads();
  const int touching = block_scan(cells, cell_count);
  if (threadIdx.x == 0) counts[blockIdx.x] = touching;

  Record* const sorted = records + static_cast<int64_t>(blockIdx.x) * total_points;
#pragma unroll 4
  for (int i = threadIdx.x; i < total_points; i += kSortThreads) {
    const int64_t query_row = image * sizes.queries + i / point_count;
    const int64_t row = query_row * sizes.heads + head;
    const int64_t index = row * samples + level * point_count + i % point_count;
    const float2 pixel = points.pixel(sizes, index, query_row, level);
    if (touches(pixel, height, width)) {
      float log_sum = 0.f;
      if constexpr (Points::kSoftmax) log_sum = __ldg(points.log_sums + row);
      const float weight = points.weight(index, log_sum);
      sorted[atomicAdd(&cells[cell_of(pixel, width)], 1)] = {pixel.x, pixel.y, weight, i};
    } else {
      gradients.store(index, 0.f, 0.f, 0.f, height, width);
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

// Four pixels of a cell and the sums of their gradients, kChannels channels each; corners are numbered top left, top
// right, bottom left, bottom right.
template <typename T>
struct Cell {
  static constexpr int kChannels = Row<T>::kChannels;
  Row<T> pixels[4];
  float sums[4][kChannels];
  int token;         // of the top left pixel, where it exists
  unsigned existing = 0;  // one bit a corner

  __device__ int64_t offset(int corner, int width, int64_t stride) const {
    return static_cast<int64_t>(token + (corner & 1) + (corner >> 1) * width) * stride;
  }

  __device__ void flush(int corner, float* grad_slice, int width, int64_t stride, int lane) {
    if (!(existing >> corner & 1)) return;
    float* const row = grad_slice + offset(corner, width, stride) + lane * kChannels;
#pragma unroll
    for (int c = 0; c < kChannels; c += 4) add_four(row + c, sums[corner] + c);
  }

  __device__ void load(int corner, const T* slice, int width, int64_t stride, int lane) {
    if (existing >> corner & 1)
      pixels[corner].load(slice + offset(corner, width, stride), lane);
    else
      pixels[corner].clear();
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sums[corner][c] = 0.f;
  }

  // Moves what is known of `from` to `to`, when the cell moves one pixel to the right.
  __device__ void shift(int from, int to) {
    pixels[to] = pixels[from];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sums[to][c] = sums[from][c];
  }
};

template <typename T, int kLanes, typename Gradients, int kStaticPoints>
__global__ void __launch_bounds__(kRunThreads, sizeof(T) == 4 ? 3 : 2)
    run_kernel(const T* __restrict__ grad_output, const T* __restrict__ value, const Record* __restrict__ records,
               const int* __restrict__ counts, float* __restrict__ grad_value, const Gradients gradients,
               const Sizes sizes, int blocks_per_part) {
  const int64_t part = blockIdx.x / blocks_per_part;  // (image * M + head) * L + level
  const int count = counts[part];
  const int thread_in_part = blockIdx.x % blocks_per_part * kRunThreads + threadIdx.x;
  const int group = thread_in_part / kLanes, lane = threadIdx.x % kLanes;
  const int first_group_of_warp = thread_in_part / kWarpSize * (kWarpSize / kLanes);
  if (static_cast<int64_t>(first_group_of_warp) * kRunLength >= count) return;  // whole warps leave
  const int64_t first = static_cast<int64_t>(group) * kRunLength;

  const int level = part % sizes.levels.count;
  const int64_t image_and_head = part / sizes.levels.count;
  const int head = image_and_head % sizes.heads;
  const int64_t image = image_and_head / sizes.heads;
  const int height = sizes.levels.height[level], width = sizes.levels.width[level];
  const int start = static_cast<int>(sizes.levels.start[level]);
  const int point_count = kStaticPoints ? kStaticPoints : sizes.points;
  const int samples = sizes.levels.count * point_count;
  constexpr int kChannels = Row<T>::kChannels;
  const int64_t stride = static_cast<int64_t>(sizes.heads) * kLanes * kChannels;
  const int64_t slice_offset = image * sizes.tokens * stride + head * (kLanes * kChannels);
  const T* const slice = value + slice_offset;
  float* const grad_slice = grad_value + slice_offset;
  const T* const gradient_rows = grad_output + image * sizes.queries * stride + head * (kLanes * kChannels);
  const Record* const own = records + part * sizes.queries * point_count + first;
  const int length = static_cast<int>(min(static_cast<int64_t>(kRunLength), max(count - first, int64_t{0})));
  const Record nothing = {0.f, 0.f, 0.f, 0};

  // One record and one row of grad_output are under way while the one before is computed.
  Record next = length > 0 ? own[0] : nothing;
  Record after = length > 1 ? own[1] : nothing;
  Row<T> next_row;
  next_row.load(gradient_rows + next.sample / point_count * stride, lane);

  Cell<T> cell;
  int cell_x = INT_MIN, cell_y = INT_MIN;
  for (int i = 0; i < kRunLength; ++i) {
    const Record record = next;
    const Row<T> row = next_row;
    next = after;
    next_row.load(gradient_rows + next.sample / point_count * stride, lane);
    after = i + 2 < length ? own[i + 2] : nothing;
    const bool active = i < length;

    const float left = floorf(record.x), top = floorf(record.y);
    const int x0 = static_cast<int>(left), y0 = static_cast<int>(top);
    if (active && (x0 != cell_x || y0 != cell_y)) {
      // Cells are sorted row by row, so the next one often shares its left pixels with the right ones of this one.
      const bool neighbour = y0 == cell_y && x0 == cell_x + 1;
      cell.flush(0, grad_slice, width, stride, lane);
      cell.flush(2, grad_slice, width, stride, lane);
      if (!neighbour) {
        cell.flush(1, grad_slice, width, stride, lane);
        cell.flush(3, grad_slice, width, stride, lane);
      }
      cell.token = start + y0 * width + x0;
      const unsigned rows = (y0 >= 0 ? 1u : 0u) | (y0 + 1 < height ? 4u : 0u);
      cell.existing = (x0 >= 0 ? rows : 0u) | (x0 + 1 < width ? rows << 1 : 0u);
      if (neighbour) {
        cell.shift(1, 0);
        cell.shift(3, 2);
      } else {
        cell.load(0, slice, width, stride, lane);
        cell.load(2, slice, width, stride, lane);
      }
      cell.load(1, slice, width, stride, lane);
      cell.load(3, slice, width, stride, lane);
      cell_x = x0;
      cell_y = y0;
    }
    const float x = record.x - left, y = record.y - top;
    const float bilinear[4] = {(1.f - x) * (1.f - y), x * (1.f - y), (1.f - x) * y, x * y};
    float gradient[kChannels];
    row.unpack(gradient);
    float product[4];
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
    float grad_x = (1.f - y) * (product[1] - product[0]) + y * (product[3] - product[2]);
    float grad_y = (1.f - x) * (product[2] - product[0]) + x * (product[3] - product[1]);
    grad_weight = group_sum<kLanes>(grad_weight);
    grad_x = group_sum<kLanes>(grad_x);
    grad_y = group_sum<kLanes>(grad_y);
    if (active && lane == 0) {
      const int query = record.sample / point_count, point = record.sample % point_count;
      const int64_t row_index = (image * sizes.queries + query) * sizes.heads + head;
      gradients.store(row_index * samples + level * point_count + point, grad_weight, record.weight * grad_x,
                      record.weight * grad_y, height, width);
    }
  }
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) cell.flush(corner, grad_slice, width, stride, lane);
}

// Takes packed gradients apart: offsets as they are, weights through the softmax to logits.
template <typename T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const T* __restrict__ logits, const float* __restrict__ log_sums,
                  const typename PackedGradients<T>::Packed* __restrict__ packed, T* __restrict__ grad_offsets,
                  T* __restrict__ grad_logits, int64_t rows, int samples) {
  using Gradients = PackedGradients<T>;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x) / kFinishLanes;
  const int lane = threadIdx.x % kFinishLanes;
  const int64_t first = min(row, rows - 1) * samples;  // threads past the end repeat the last row and write nothing
  const float log_sum = log_sums[min(row, rows - 1)];
  float mean = 0.f;
  for (int i = lane; i < samples; i += kFinishLanes) {
    const float weight = expf(Storage<T>::load(logits + first + i) - log_sum);
    mean = fmaf(weight, Gradients::weight(packed[first + i]), mean);
  }
  mean = group_sum<kFinishLanes>(mean);
  if (row >= rows) return;
  for (int i = lane; i < samples; i += kFinishLanes) {
    const typename Gradients::Packed sample = packed[first + i];
    const float weight = expf(Storage<T>::load(logits + first + i) - log_sum);
    Storage<T>::store(grad_logits + first + i, weight * (Gradients::weight(sample) - mean));
    Gradients::store_offset(grad_offsets + 2 * (first + i), sample);
  }
}

int64_t largest_cell_bytes(const Sizes& sizes) {
  int64_t cells = 0;
  for (int level = 0; level < sizes.levels.count; ++level)
    cells = std::max(cells, (int64_t{sizes.levels.height[level]} + 1) * (sizes.levels.width[level] + 1));
  return cells * static_cast<int64_t>(sizeof(int));
}

unsigned checked_blocks(int64_t blocks) {
  MASK2FORMER_OPS_CHECK(blocks < (int64_t{1} << 31), "too many samples for one launch: ", blocks, " blocks");
  return static_cast<unsigned>(blocks);
}

template <typename T, int kLanes, int kStaticPoints, typename Points, typename Gradients>
void launch(const at::Tensor& grad_output, const at::Tensor& value, const Points& points, const Gradients& gradients,
            at::Tensor& grad_value, const Sizes& sizes) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t parts = sizes.batch * sizes.heads * sizes.levels.count;
  const int64_t points_per_part = sizes.queries * sizes.points;
  auto records = at::empty({parts * points_per_part, 4}, value.options().dtype(at::kFloat));
  auto counts = at::empty({parts}, value.options().dtype(at::kInt));
  auto* const record_data = reinterpret_cast<Record*>(records.mutable_data_ptr<float>());

  const auto sort = sort_kernel<Points, Gradients, kStaticPoints>;
  const int bytes = static_cast<int>(largest_cell_bytes(sizes));
  C10_CUDA_CHECK(cudaFuncSetAttribute(sort, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  sort<<<checked_blocks(parts), kSortThreads, bytes, stream>>>(points, gradients, record_data,
                                                               counts.mutable_data_ptr<int>(), sizes);
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  constexpr int64_t kRecordsPerBlock = int64_t{kRunThreads} / kLanes * kRunLength;
  const int64_t blocks_per_part = (points_per_part + kRecordsPerBlock - 1) / kRecordsPerBlock;
  const auto run = run_kernel<T, kLanes, Gradients, kStaticPoints>;
  run<<<checked_blocks(parts * blocks_per_part), kRunThreads, 0, stream>>>(
      static_cast<const T*>(grad_output.const_data_ptr()), static_cast<const T*>(value.const_data_ptr()), record_data,
      counts.const_data_ptr<int>(), grad_value.mutable_data_ptr<float>(), gradients, sizes,
      static_cast<int>(blocks_per_part));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T, int kWidth, typename Points, typename Gradients>
void launch_for_points(const at::Tensor& grad_output, const at::Tensor& value, const Points& points,
                       const Gradients& gradients, at::Tensor& grad_value, const Sizes& sizes) {
  constexpr int kLanes = kWidth / Row<T>::kChannels;
  if (sizes.points == 4)
    launch<T, kLanes, 4>(grad_output, value, points, gradients, grad_value, sizes);
  else
    launch<T, kLanes, 0>(grad_output, value, points, gradients, grad_value, sizes);
}

template <typename T, typename Points, typename Gradients>
void launch_for_width(const at::Tensor& grad_output, const at::Tensor& value, const Points& points,
                      const Gradients& gradients, at::Tensor& grad_value, const Sizes& sizes) {
  switch (sizes.head_width) {
    case 16: return launch_for_points<T, 16>(grad_output, value, points, gradients, grad_value, sizes);
    case 32: return launch_for_points<T, 32>(grad_output, value, points, gradients, grad_value, sizes);
    case 64: return launch_for_points<T, 64>(grad_output, value, points, gradients, grad_value, sizes);
    case 128: return launch_for_points<T, 128>(grad_output, value, points, gradients, grad_value, sizes);
    default: TORCH_CHECK(false, "no fast kernel for head width ", sizes.head_width);
  }
}

template <typename T>
void fused_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& reference_points,
                    const at::Tensor& offsets, const at::Tensor& logits, const at::Tensor& log_sums,
                    at::Tensor& grad_value, at::Tensor& grad_offsets, at::Tensor& grad_logits, const Sizes& sizes) {
  using Packed = typename PackedGradients<T>::Packed;
  auto packed = at::empty({logits.numel(), static_cast<int64_t>(sizeof(Packed))}, logits.options().dtype(at::kByte));
  auto* const packed_data = reinterpret_cast<Packed*>(packed.mutable_data_ptr());
  const T* const logit_data = static_cast<const T*>(logits.const_data_ptr());
  // The kernels read the sums here; only the forward writes them.
  const OffsetPoints<T> points{reference_points.const_data_ptr<float>(),
                               static_cast<const T*>(offsets.const_data_ptr()), logit_data,
                               const_cast<float*>(log_sums.const_data_ptr<float>())};
  launch_for_width<T>(grad_output, value, points, PackedGradients<T>{packed_data}, grad_value, sizes);

  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  constexpr int64_t kRows = kFinishThreads / kFinishLanes;
  finish_kernel<T><<<checked_blocks((rows + kRows - 1) / kRows), kFinishThreads, 0,
                     c10::cuda::getCurrentCUDAStream()>>>(
      logit_data, points.log_sums, packed_data, static_cast<T*>(grad_offsets.mutable_data_ptr()),
      static_cast<T*>(grad_logits.mutable_data_ptr()), rows, sizes.levels.count * sizes.points);
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
  const GivenGradients gradients{reinterpret_cast<float2*>(grad_locations.mutable_data_ptr<float>()),
                                 grad_weights.mutable_data_ptr<float>()};
  switch (value.scalar_type()) {
    case at::kFloat: return launch_for_width<float>(grad_output, value, points, gradients, grad_value, sizes);
    case at::kBFloat16: return launch_for_width<BFloat16>(grad_output, value, points, gradients, grad_value, sizes);
    case at::kHalf: return launch_for_width<Half>(grad_output, value, points, gradients, grad_value, sizes);
    default: TORCH_CHECK(false, "no fast kernel for ", value.scalar_type());
  }
}

void fast_fused_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& reference_points,
                         const at::Tensor& offsets, const at::Tensor& logits, const at::Tensor& log_sums,
                         at::Tensor& grad_value, at::Tensor& grad_offsets, at::Tensor& grad_logits,
                         const Sizes& sizes) {
  const auto run = [&](auto type) {
    fused_backward<decltype(type)>(grad_output, value, reference_points, offsets, logits, log_sums, grad_value,
                                   grad_offsets, grad_logits, sizes);
  };
  switch (value.scalar_type()) {
    case at::kFloat: return run(float{});
    case at::kBFloat16: return run(BFloat16{});
    case at::kHalf: return run(Half{});
    default: TORCH_CHECK(false, "no fast kernel for ", value.scalar_type());
  }
}

}  // namespace mask2former_ops

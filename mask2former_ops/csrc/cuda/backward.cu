// CUDA backward, without an atomic operation per sample.
//
// A sample touches the four pixels around it, its cell. One kernel sorts the samples of every (image, head, level) by
// cell (sorted_samples.cuh). The second walks over runs of sorted samples with a few threads a run: as long as the cell
// stays the same, its four pixels and the four sums of their gradients stay in registers, so a pixel is read, and its
// gradient added to memory, once per cell and run instead of once per sample. Per sample only the row of grad_output is
// read and three numbers are written. What limits that walk is the number of its instructions: positions and weights
// are fetched beforehand, one thread a sample, and gradients written afterwards, through shared memory, and addresses
// are 32-bit offsets.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <type_traits>

#include "cell.cuh"
#include "cuda_ops.h"
#include "sorted_samples.cuh"

namespace mask2former_ops {
namespace {

constexpr int kRunLength = kWarpSize;  // samples of one group of threads
constexpr int kFinishThreads = 256;
constexpr int kFinishLanes = 4;  // threads of one (query, head)

// Two threads a group make so many groups that the samples of 256 threads would not fit in 48 KB of shared memory.
template <int kLanes>
constexpr int kRunThreads = kLanes < 4 ? 128 : 256;

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
  T* offsets;  // written by finish_kernel

  __device__ void store(int64_t index, float weight, float x, float y, int, int) const {
    packed[index] = make_uint2(__float_as_uint(weight), Storage<T>::pack(x, y));
  }
  __device__ float weight(int64_t index) const { return __uint_as_float(packed[index].x); }
  __device__ void finish(int64_t index) const { reinterpret_cast<uint32_t*>(offsets)[index] = packed[index].y; }
};

// Numbers of float go where they belong at once, the weights into the gradient of the logits, which is made of them.
template <>
struct PackedGradients<float> {
  using Packed = float;
  Packed* packed;
  float* offsets;

  __device__ void store(int64_t index, float weight, float x, float y, int, int) const {
    reinterpret_cast<float2*>(offsets)[index] = make_float2(x, y);
    packed[index] = weight;
  }
  __device__ float weight(int64_t index) const { return packed[index]; }
  __device__ void finish(int64_t) const {}
};

// Position in pixels, attention weight and query; after its run the gradients by x, y and weight.
struct __align__(16) Sample {
  float x, y, weight;
  int query;
};

// Samples of a warp. The length of a row spreads its groups over the banks; the last entry is read but not used.
template <int kGroups>
using Runs = Sample[kGroups][kRunLength + 1];

// Numbers of the samples that a thread fetches before the runs and whose gradients it writes after them, one a run.
template <int kGroups>
struct Numbers {
  unsigned of_run[kGroups];

  __device__ Numbers(const int* first, int count, int thread) {
#pragma unroll
    for (int i = 0; i < kGroups; ++i)
      of_run[i] = static_cast<unsigned>(__ldg(first + min(i * kRunLength + thread, count - 1)));
  }
};

template <int kGroups, typename Points, int kStaticPoints>
__device__ __forceinline__ void fetch(Runs<kGroups>& runs, const Numbers<kGroups>& numbers, const Points& points,
                                      const Part<kStaticPoints>& part, const Sizes& sizes, int count, int thread) {
  const Sample nothing = {-2.f, -2.f, 0.f, 0};  // far enough outside to touch no pixel
  Sample samples[kGroups];
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    const int query = part.query(numbers.of_run[i]);
    const int64_t index = part.index(query, part.point(numbers.of_run[i]));
    const float2 pixel = points.pixel(sizes, index, part.first_query + query, part.level);
    float log_sum = 0.f;
    if constexpr (Points::kSoftmax) log_sum = __ldg(points.log_sums + part.row(query));
    samples[i] = {pixel.x, pixel.y, points.weight(index, log_sum), query};
  }
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    if (i * kRunLength + thread >= count) samples[i] = nothing;
    runs[i][thread] = samples[i];
  }
  if (thread < kGroups) runs[thread][kRunLength] = nothing;
  __syncwarp();
}

// A block has kRunThreads<kLanes> / kLanes consecutive runs of one part.
template <typename T, int kLanes, typename Points, typename Gradients, int kStaticPoints>
__global__ void __launch_bounds__(kRunThreads<kLanes>, (sizeof(T) == 4 ? 768 : 512) / kRunThreads<kLanes>)
    run_kernel(const T* __restrict__ grad_output, const T* __restrict__ value, const Points points,
               const int* __restrict__ order, const int* __restrict__ counts, float* __restrict__ grad_value,
               const Gradients gradients, const Sizes sizes, int blocks_per_part) {
  constexpr int kGroups = kWarpSize / kLanes, kWarps = kRunThreads<kLanes> / kWarpSize;
  constexpr int kChannels = Row<T>::kChannels;
  __shared__ Runs<kGroups> all_runs[kWarps];
  const int64_t number = blockIdx.x / blocks_per_part;
  const int thread = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, lane = thread % kLanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x % blocks_per_part) * kWarps + warp) * kGroups * kRunLength;
  const int count = static_cast<int>(min(counts[number] - first, static_cast<int64_t>(kGroups * kRunLength)));
  if (count <= 0) return;  // whole warps leave
  const Part<kStaticPoints> part(sizes, number);
  const int* const own = order + number * sizes.queries * part.points + first;
  fetch<kGroups>(all_runs[warp], Numbers<kGroups>(own, count, thread), points, part, sizes, count, thread);

  const int64_t stride = static_cast<int64_t>(sizes.heads) * kLanes * kChannels;
  const int64_t channel = part.head * (kLanes * kChannels) + lane * kChannels;
  const int64_t offset = (part.image * sizes.tokens + sizes.levels.start[part.level]) * stride + channel;
  const uint32_t row_bytes = static_cast<uint32_t>(stride * sizeof(T));
  const Plane<T> plane = {value + offset, grad_value + offset, row_bytes, static_cast<uint32_t>(stride * sizeof(float)),
                          part.height,    part.width};
  const T* const rows = grad_output + part.first_query * stride + channel;
  Sample* const run = all_runs[warp][thread / kLanes];

  // One row of grad_output is under way while the one before is computed.
  Row<T> next_row;
  next_row.load(at_row(rows, run[0].query, row_bytes), 0);
  Cell<T> cell;
  const int steps = min(count, kRunLength);  // the first run of a warp is the longest
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    const Sample sample = run[i];
    const Row<T> row = next_row;
    next_row.load(at_row(rows, run[i + 1].query, row_bytes), 0);
    const int x0 = static_cast<int>(floorf(sample.x)), y0 = static_cast<int>(floorf(sample.y));
    cell.move(plane, x0, y0);
    float3 by = cell.add(row, x0 & 1, sample.x - x0, sample.y - y0, sample.weight);
    by.x = group_sum<kLanes>(by.x);
    by.y = group_sum<kLanes>(by.y);
    by.z = group_sum<kLanes>(by.z);
    __syncwarp();
    if (lane == 0) run[i] = {sample.weight * by.y, sample.weight * by.z, by.x, 0};
  }
  cell.columns[0].flush(plane);
  cell.columns[1].flush(plane);
  __syncwarp();

  const Numbers<kGroups> numbers(own, count, thread);
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    if (i * kRunLength + thread >= count) continue;
    const Sample by = all_runs[warp][i][thread];
    const int64_t index = part.index(part.query(numbers.of_run[i]), part.point(numbers.of_run[i]));
    gradients.store(index, by.weight, by.x, by.y, part.height, part.width);
  }
}

// Makes the gradients of offsets and logits of what the runs left, the latter through the softmax.
template <typename T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const T* __restrict__ logits, const float* __restrict__ log_sums, const PackedGradients<T> gradients,
                  T* grad_logits, int64_t rows, int samples) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kFinishThreads + threadIdx.x) / kFinishLanes;
  const int lane = threadIdx.x % kFinishLanes;
  const int64_t first = min(row, rows - 1) * samples;  // threads past the end repeat the last row and write nothing
  const float log_sum = log_sums[min(row, rows - 1)];
  float mean = 0.f;
  for (int i = lane; i < samples; i += kFinishLanes) {
    const float weight = expf(Storage<T>::load(logits + first + i) - log_sum);
    mean = fmaf(weight, gradients.weight(first + i), mean);
  }
  mean = group_sum<kFinishLanes>(mean);
  if (row >= rows) return;
  for (int i = lane; i < samples; i += kFinishLanes) {
    const float weight = expf(Storage<T>::load(logits + first + i) - log_sum);
    Storage<T>::store(grad_logits + first + i, weight * (gradients.weight(first + i) - mean));
    gradients.finish(first + i);
  }
}

int64_t largest_cell_bytes(const Sizes& sizes) {
  int64_t cells = 0;
  for (int level = 0; level < sizes.levels.count; ++level)
    cells = std::max(cells, (int64_t{sizes.levels.height[level]} + 1) * (sizes.levels.width[level] + 1));
  return cells * static_cast<int64_t>(sizeof(int));
}

// Bytes of shared memory that the sort may ask for.
int64_t sort_limit() {
  constexpr int64_t kScanBytes = 512;  // the scan's own array, rounded up
  int device = 0, limit = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return limit - kScanBytes;
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
  auto order = at::empty({parts, points_per_part}, value.options().dtype(at::kInt));
  auto counts = at::empty({parts}, order.options());

  const auto sort = sort_kernel<Points, Gradients>;
  int64_t bytes = largest_cell_bytes(sizes);
  const int64_t with_samples = bytes + points_per_part * static_cast<int64_t>(sizeof(uint16_t));
  int staged_at = 0;
  if (points_per_part <= kMaxStaged && with_samples <= sort_limit()) {
    staged_at = static_cast<int>(bytes / static_cast<int64_t>(sizeof(int)));
    bytes = with_samples;
  }
  C10_CUDA_CHECK(cudaFuncSetAttribute(sort, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  sort<<<checked_blocks(parts), kSortThreads, bytes, stream>>>(points, gradients, order.mutable_data_ptr<int>(),
                                                               counts.mutable_data_ptr<int>(), sizes, staged_at);
  C10_CUDA_KERNEL_LAUNCH_CHECK();

  constexpr int64_t kSamplesPerBlock = int64_t{kRunThreads<kLanes>} / kLanes * kRunLength;
  const int64_t blocks_per_part = (points_per_part + kSamplesPerBlock - 1) / kSamplesPerBlock;
  const auto run = run_kernel<T, kLanes, Points, Gradients, kStaticPoints>;
  run<<<checked_blocks(parts * blocks_per_part), kRunThreads<kLanes>, 0, stream>>>(
      static_cast<const T*>(grad_output.const_data_ptr()), static_cast<const T*>(value.const_data_ptr()), points,
      order.const_data_ptr<int>(), counts.const_data_ptr<int>(), grad_value.mutable_data_ptr<float>(), gradients, sizes,
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
  auto packed = grad_logits;
  if constexpr (!std::is_same_v<T, float>)
    packed = at::empty({logits.numel(), static_cast<int64_t>(sizeof(Packed))}, logits.options().dtype(at::kByte));
  const PackedGradients<T> gradients{static_cast<Packed*>(packed.mutable_data_ptr()),
                                     static_cast<T*>(grad_offsets.mutable_data_ptr())};
  const T* const logit_data = static_cast<const T*>(logits.const_data_ptr());
  // The kernels read the sums here; only the forward writes them.
  const OffsetPoints<T> points{reference_points.const_data_ptr<float>(),
                               static_cast<const T*>(offsets.const_data_ptr()), logit_data,
                               const_cast<float*>(log_sums.const_data_ptr<float>())};
  launch_for_width<T>(grad_output, value, points, gradients, grad_value, sizes);

  const int64_t rows = sizes.batch * sizes.queries * sizes.heads;
  constexpr int64_t kRows = kFinishThreads / kFinishLanes;
  finish_kernel<T><<<checked_blocks((rows + kRows - 1) / kRows), kFinishThreads, 0,
                     c10::cuda::getCurrentCUDAStream()>>>(
      logit_data, points.log_sums, gradients, static_cast<T*>(grad_logits.mutable_data_ptr()), rows,
      sizes.levels.count * sizes.points);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

bool sorted_backward_fits(const Sizes& sizes) { return largest_cell_bytes(sizes) <= sort_limit(); }

void fast_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& locations,
                   const at::Tensor& weights, at::Tensor& grad_value, at::Tensor& grad_locations,
                   at::Tensor& grad_weights, const Sizes& sizes) {
  const PlainPoints<true> points{locations.const_data_ptr<float>(), weights.const_data_ptr<float>()};
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

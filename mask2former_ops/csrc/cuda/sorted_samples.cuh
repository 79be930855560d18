// First half of the backward: sorts the samples of every (image, head, level), a part, by the cell that they touch, the
// four pixels around them.
//
// A counting sort, one block a part. It writes nothing but the samples' numbers, four bytes each; the walk over them
// fetches positions and weights. Numbers are put in order in shared memory and leave it as whole lines. Whole records
// of all blocks at work, half a megabyte each at 8400 queries of 4 points, would be scattered over more memory than the
// second-level cache holds, which would evict them half written.
#pragma once

#include "common.cuh"

namespace mask2former_ops {

// Two blocks on a multiprocessor, so that one loads while the other counts. More threads would have too few registers.
constexpr int kSortThreads = 768;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int kSortBlocks = 1;  // a multiprocessor has 1024 threads
#else
constexpr int kSortBlocks = 2;
#endif
constexpr int kSortBatch = 2;  // samples of a thread whose loads are under way together
constexpr int64_t kMaxStaged = int64_t{1} << 16;  // samples of a part that 16 bits number

// Where a part's samples are. A sample's number within its part is query * points + point. kStaticPoints is the number
// of points, or 0 for any.
template <int kStaticPoints>
struct Part {
  int level, head, points, height, width;
  int64_t image, first_query;  // the latter in (N, Lq)
  int64_t first_row, first_sample;
  int heads, pitch;  // from query to query

  __device__ Part(const Sizes& sizes, int64_t number) {
    const int64_t image_and_head = number / sizes.levels.count;
    level = static_cast<int>(number % sizes.levels.count);
    head = static_cast<int>(image_and_head % sizes.heads);
    image = image_and_head / sizes.heads;
    points = kStaticPoints ? kStaticPoints : sizes.points;
    height = sizes.levels.height[level];
    width = sizes.levels.width[level];
    heads = sizes.heads;
    pitch = heads * sizes.levels.count * points;
    first_query = image * sizes.queries;
    first_row = first_query * heads + head;
    first_sample = (first_row * sizes.levels.count + level) * points;
  }

  __device__ int query(unsigned number) const { return static_cast<int>(number / static_cast<unsigned>(points)); }
  __device__ int point(unsigned number) const { return static_cast<int>(number % static_cast<unsigned>(points)); }

  // Of a query and the part's head in (N, Lq, M).
  __device__ int64_t row(int query) const { return first_row + static_cast<int64_t>(query) * heads; }

  // Of a sample in (N, Lq, M, L, P).
  __device__ int64_t index(int query, int point) const {
    return first_sample + static_cast<int64_t>(query) * pitch + point;
  }
};

__device__ __forceinline__ int cell_of(float2 pixel, int width) {
  return (static_cast<int>(floorf(pixel.y)) + 1) * (width + 1) + static_cast<int>(floorf(pixel.x)) + 1;
}

// Exclusive prefix sum over `cells` in place; returns the total. All threads of the block call it.
__device__ inline int block_scan(int* cells, int count) {
  constexpr int kWarps = kSortThreads / kWarpSize;
  __shared__ int warp_totals[kWarps];
  const int thread = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int chunk = (count + kSortThreads - 1) / kSortThreads | 1;  // odd, so that a warp's threads use all banks
  const int first = min(static_cast<int>(threadIdx.x) * chunk, count), last = min(first + chunk, count);
  int own = 0;
  for (int i = first; i < last; ++i) own += cells[i];
  const auto scan_warp = [&](int sum) {
#pragma unroll
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int below = __shfl_up_sync(kFullWarp, sum, step);
      if (thread >= step) sum += below;
    }
    return sum;
  };
  const int sum = scan_warp(own);
  if (thread == kWarpSize - 1) warp_totals[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const int totals = scan_warp(thread < kWarps ? warp_totals[thread] : 0);
    if (thread < kWarps) warp_totals[thread] = totals;
  }
  __syncthreads();
  int before = (warp > 0 ? warp_totals[warp - 1] : 0) + sum - own;
  for (int i = first; i < last; ++i) {
    const int samples = cells[i];
    cells[i] = before;
    before += samples;
  }
  __syncthreads();
  return warp_totals[kWarps - 1];
}

// One block a part. `order` gets the numbers of the samples that touch the level, by cell, `counts` how many they are;
// the gradients of all others become 0. Shared memory holds the level's cells and, from int `staged_at` on where that
// is not 0, 16 bits a sample.
template <typename Points, typename Gradients>
__global__ void __launch_bounds__(kSortThreads, kSortBlocks)
    sort_kernel(const Points points, const Gradients gradients, int* __restrict__ order, int* __restrict__ counts,
                const Sizes sizes, int staged_at) {
  extern __shared__ int cells[];
  uint16_t* const staged = reinterpret_cast<uint16_t*>(cells + staged_at);
  const Part<0> part(sizes, blockIdx.x);
  const int queries = static_cast<int>(sizes.queries);
  int* const sorted = order + static_cast<int64_t>(blockIdx.x) * queries * part.points;
  const int cell_count = (part.height + 1) * (part.width + 1);
  for (int i = threadIdx.x; i < cell_count; i += kSortThreads) cells[i] = 0;
  __syncthreads();

  // A thread keeps to one point of a query; those left over have nothing to do.
  const int step = kSortThreads / part.points, point = threadIdx.x % part.points;
  const int first_query = threadIdx.x < step * part.points ? threadIdx.x / part.points : queries;
  const auto visit_all = [&](auto visit) {
#pragma unroll 1
    for (int base = first_query; base < queries; base += kSortBatch * step) {
      float2 pixels[kSortBatch];
#pragma unroll
      for (int i = 0; i < kSortBatch; ++i) {
        const int query = min(base + i * step, queries - 1);
        pixels[i] = points.pixel(sizes, part.index(query, point), part.first_query + query, part.level);
      }
#pragma unroll
      for (int i = 0; i < kSortBatch; ++i)
        if (base + i * step < queries) visit(base + i * step, pixels[i]);
    }
  };

  visit_all([&](int, float2 pixel) {
    if (touches(pixel, part.height, part.width)) atomicAdd(&cells[cell_of(pixel, part.width)], 1);
  });
  __syncthreads();
  const int touching = block_scan(cells, cell_count);
  if (threadIdx.x == 0) counts[blockIdx.x] = touching;

  visit_all([&](int query, float2 pixel) {
    if (touches(pixel, part.height, part.width)) {
      const int place = atomicAdd(&cells[cell_of(pixel, part.width)], 1), sample = query * part.points + point;
      if (staged_at > 0)
        staged[place] = static_cast<uint16_t>(sample);
      else
        sorted[place] = sample;
    } else {
      gradients.store(part.index(query, point), 0.f, 0.f, 0.f, part.height, part.width);
    }
  });
  if (staged_at == 0) return;
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < touching; i += kSortThreads) sorted[i] = staged[i];
}

}  // namespace mask2former_ops

// The k candidates of each row at which a map is nearest to zero: bilinear sampling and selection in one kernel.
//
// A block takes a row. Its map goes to shared memory where it fits: four random reads a candidate would otherwise take
// most of the time. |value| becomes the bits of a float without sign, whose order as integers is that of the numbers,
// NaN last. Histograms of 11, 10 and 10 bits find the k-th smallest; chosen are all candidates below it and the first
// of those equal to it, written in their order: nothing varies from run to run. The keys lie in global memory, where
// those of the rows in work fit into the second-level cache.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "bilinear.cuh"

namespace mask2former_ops {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kBins = 2 * kThreads;
constexpr int kPasses = 3;
constexpr int kFirstShift = 20, kShiftStep = 10;  // 11 bits, then ten a pass

__device__ __forceinline__ int sum_below(int x, int limit, int lane) {
  x = lane < limit ? x : 0;
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// The bin that holds the need-th entry of a histogram, and the number of entries in bins before it. All threads call
// it, after a barrier, and may change the histogram when it returns.
__device__ int2 find_bin(const int* histogram, int need, int* totals, int2* found) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int first = histogram[2 * threadIdx.x], both = first + histogram[2 * threadIdx.x + 1];
  int before = both;
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int other = __shfl_up_sync(kFullWarp, before, step);
    if (lane >= step) before += other;
  }
  if (lane == kWarpSize - 1) totals[warp] = before;
  __syncthreads();
  before += sum_below(totals[lane], warp, lane) - both;
  if (before < need && need <= before + both) {
    const bool second = need > before + first;
    *found = make_int2(2 * threadIdx.x + second, second ? before + first : before);
  }
  __syncthreads();
  return *found;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    least_certain_kernel(const T* logits, const float2* candidates, uint32_t* all_keys, float2* chosen, int height,
                         int width, int count, int wanted, bool in_shared) {
  extern __shared__ uint4 dynamic_shared[];
  __shared__ int histogram[kBins];
  __shared__ int totals[kWarps];
  __shared__ int2 found;
  __shared__ int2 counts[kWarps];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t row = blockIdx.x;
  const int pixels = height * width;
  const T* map = logits + row * pixels;
  candidates += row * count;
  chosen += row * wanted;
  uint32_t* const keys = all_keys + row * count;
  if (in_shared) {
    T* const copy = reinterpret_cast<T*>(dynamic_shared);
    for (int i = threadIdx.x; i < pixels; i += kThreads) copy[i] = map[i];
    map = copy;
  }

  uint32_t prefix = 0;
  int need = wanted;
  for (int pass = 0; pass < kPasses; ++pass) {
    const int shift = kFirstShift - pass * kShiftStep;
    for (int i = threadIdx.x; i < kBins; i += kThreads) histogram[i] = 0;
    __syncthreads();
    if (pass == 0) {
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const uint32_t key = __float_as_uint(fabsf(sample(map, height, width, candidates[i])));
        keys[i] = key;
        atomicAdd(&histogram[key >> shift], 1);
      }
    } else {
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const uint32_t digits = keys[i] >> shift;
        if (digits >> kShiftStep == prefix) atomicAdd(&histogram[digits & ((1 << kShiftStep) - 1)], 1);
      }
    }
    __syncthreads();
    const int2 bin = find_bin(histogram, need, totals, &found);
    prefix = pass == 0 ? bin.x : prefix << kShiftStep | bin.x;
    need -= bin.y;
  }

  // `prefix` is now the k-th smallest key, of which `need` are wanted. Each warp takes neighbouring candidates.
  const int share = (count + kThreads - 1) / kThreads * kWarpSize;
  const int begin = min(warp * share, count), end = min(begin + share, count);
  int below = 0, equal = 0;
  for (int i = begin + lane; i - lane < end; i += kWarpSize) {
    const uint32_t key = i < end ? keys[i] : ~0u;
    below += __popc(__ballot_sync(kFullWarp, key < prefix));
    equal += __popc(__ballot_sync(kFullWarp, key == prefix));
  }
  if (lane == 0) counts[warp] = make_int2(below, equal);
  __syncthreads();
  below = sum_below(counts[lane].x, warp, lane);
  equal = wanted - need + sum_below(counts[lane].y, warp, lane);
  const uint32_t earlier = (1u << lane) - 1;
  for (int i = begin + lane; i - lane < end; i += kWarpSize) {
    const uint32_t key = i < end ? keys[i] : ~0u;
    const uint32_t is_below = __ballot_sync(kFullWarp, key < prefix);
    const uint32_t is_equal = __ballot_sync(kFullWarp, key == prefix);
    if (key < prefix) chosen[below + __popc(is_below & earlier)] = candidates[i];
    const int place = equal + __popc(is_equal & earlier);
    if (key == prefix && place < wanted) chosen[place] = candidates[i];
    below += __popc(is_below);
    equal += __popc(is_equal);
  }
}

template <typename T>
void launch(const at::Tensor& logits, const at::Tensor& candidates, at::Tensor& chosen) {
  const int height = static_cast<int>(logits.size(1)), width = static_cast<int>(logits.size(2));
  const auto kernel = least_certain_kernel<T>;
  int device = 0, limit = 0;
  cudaFuncAttributes attributes;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  C10_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  const int64_t bytes = int64_t{height} * width * sizeof(T);
  const bool in_shared = bytes + static_cast<int64_t>(attributes.sharedSizeBytes) <= limit;
  const int dynamic = in_shared ? static_cast<int>(bytes) : 0;
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic));
  auto keys = at::empty(candidates.sizes().slice(0, 2), candidates.options().dtype(at::kInt));
  kernel<<<static_cast<unsigned>(logits.size(0)), kThreads, dynamic, c10::cuda::getCurrentCUDAStream()>>>(
      static_cast<const T*>(logits.const_data_ptr()), static_cast<const float2*>(candidates.const_data_ptr()),
      static_cast<uint32_t*>(keys.mutable_data_ptr()), static_cast<float2*>(chosen.mutable_data_ptr()), height, width,
      static_cast<int>(candidates.size(1)), static_cast<int>(chosen.size(1)), in_shared);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor least_certain_cuda(const at::Tensor& logits, const at::Tensor& candidates, int64_t count) {
  const c10::cuda::CUDAGuard guard(logits.device());
  constexpr int64_t kLimit = int64_t{1} << 30;
  MASK2FORMER_OPS_CHECK(logits.dim() == 3 && logits.is_contiguous() && logits.size(1) * logits.size(2) < kLimit,
                        "logits must be contiguous with shape (M, h, w), got ", logits.sizes());
  MASK2FORMER_OPS_CHECK(candidates.dim() == 3 && candidates.size(0) == logits.size(0) && candidates.size(2) == 2 &&
                            candidates.size(1) < kLimit,
                        "candidates must have shape (M=", logits.size(0), ", N, 2), got ", candidates.sizes());
  MASK2FORMER_OPS_CHECK(candidates.scalar_type() == at::kFloat && candidates.is_contiguous() &&
                            candidates.device() == logits.device(),
                        "candidates must be Float, contiguous and on ", logits.device());
  MASK2FORMER_OPS_CHECK(count >= 0 && count <= candidates.size(1), "count must be 0 to ", candidates.size(1), ", got ",
                        count);
  auto chosen = at::empty({logits.size(0), count, 2}, candidates.options());
  if (chosen.numel() == 0) return chosen;
  MASK2FORMER_OPS_CHECK(logits.numel() > 0, "logits must have pixels, got ", logits.sizes());
  const auto points = aligned(candidates);
  switch (logits.scalar_type()) {
    case at::kFloat: launch<float>(logits, points, chosen); break;
    case at::kBFloat16: launch<BFloat16>(logits, points, chosen); break;
    case at::kHalf: launch<Half>(logits, points, chosen); break;
    default: MASK2FORMER_OPS_CHECK(false, "logits must be Float, BFloat16 or Half, got ", logits.scalar_type());
  }
  return chosen;
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) { library.impl("least_certain", least_certain_cuda); }

}  // namespace mask2former_ops

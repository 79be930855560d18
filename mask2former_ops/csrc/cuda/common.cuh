// Device helpers shared by the forward and backward kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "../problem.h"

namespace mask2former_ops {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

// ---- Storage types. `Storage<T>` says how sixteen bytes of T become floats and back.

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

template <typename T>
struct Storage;

template <>
struct Storage<float> {
  static constexpr int kPerVector = 4;
  using Pair = float2;
  static __device__ float2 unpack(uint32_t low, uint32_t high) {
    return make_float2(__uint_as_float(low), __uint_as_float(high));
  }
  static __device__ float load(const float* p) { return __ldg(p); }
  static __device__ float2 load_pair(const float* p) { return __ldg(reinterpret_cast<const float2*>(p)); }
  static __device__ void store(float* p, float x) { *p = x; }
};

template <>
struct Storage<BFloat16> {
  static constexpr int kPerVector = 8;
  static __device__ float2 unpack(uint32_t word) {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
  }
  static __device__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float load(const BFloat16* p) {
    return __uint_as_float(static_cast<uint32_t>(__ldg(&p->bits)) << 16);
  }
  static __device__ float2 load_pair(const BFloat16* p) { return unpack(__ldg(reinterpret_cast<const uint32_t*>(p))); }
  static __device__ void store(BFloat16* p, float x) { p->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
};

template <>
struct Storage<Half> {
  static constexpr int kPerVector = 8;
  static __device__ float2 unpack(uint32_t word) { return __half22float2(*reinterpret_cast<const __half2*>(&word)); }
  static __device__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float load(const Half* p) { return __half2float(__ushort_as_half(__ldg(&p->bits))); }
  static __device__ float2 load_pair(const Half* p) { return unpack(__ldg(reinterpret_cast<const uint32_t*>(p))); }
  static __device__ void store(Half* p, float x) { p->bits = __half_as_ushort(__float2half_rn(x)); }
};

// ---- Eight channels of one pixel, held by one thread as they are stored.

constexpr int kChannels = 8;  // channels of one thread; a group of D / 8 threads holds one head's row

template <typename T>
struct Row {
  static constexpr int kPerVector = Storage<T>::kPerVector;
  static constexpr int kVectors = kChannels / kPerVector;
  uint4 raw[kVectors];

  // First channel of vector v for thread `lane` of a group of kLanes: neighbours read neighbouring sixteen bytes.
  template <int kLanes>
  static __device__ int channel(int lane, int v) {
    return (v * kLanes + lane) * kPerVector;
  }

  template <int kLanes>
  __device__ void load(const T* row, int lane) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) raw[v] = __ldg(reinterpret_cast<const uint4*>(row + channel<kLanes>(lane, v)));
  }

  __device__ void clear() {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) raw[v] = make_uint4(0, 0, 0, 0);
  }

  __device__ void unpack(float (&x)[kChannels]) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t words[4] = {raw[v].x, raw[v].y, raw[v].z, raw[v].w};
      if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[v * 4 + i] = __uint_as_float(words[i]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 pair = Storage<T>::unpack(words[i]);
          x[v * 8 + 2 * i] = pair.x;
          x[v * 8 + 2 * i + 1] = pair.y;
        }
      }
    }
  }

  template <int kLanes>
  static __device__ void store(T* row, int lane, const float (&x)[kChannels]) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint32_t words[4];
      if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = __float_as_uint(x[v * 4 + i]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = Storage<T>::pack(x[v * 8 + 2 * i], x[v * 8 + 2 * i + 1]);
      }
      *reinterpret_cast<uint4*>(row + channel<kLanes>(lane, v)) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
};

// ---- Where the points and weights of one call come from. Coordinates are returned in pixels of the level, the centre
// of the first pixel being 0.

// Locations in [0, 1] and weights, as the plain operator takes them.
struct GivenPoints {
  static constexpr bool kSoftmax = false;
  const float* locations;
  const float* weights;

  __device__ float2 pixel(const Sizes& sizes, int64_t row, int64_t index, int64_t, int level) const {
    const float2 at = __ldcs(reinterpret_cast<const float2*>(locations) + index);
    return make_float2(at.x * sizes.levels.width[level] - 0.5f, at.y * sizes.levels.height[level] - 0.5f);
  }
  __device__ float weight(int64_t index) const { return __ldcs(weights + index); }
};

// Reference points, offsets in pixels, and logits, as the fused operator takes them.
template <typename T>
struct OffsetPoints {
  static constexpr bool kSoftmax = true;
  const float* reference_points;
  const T* offsets;
  const T* logits;

  // `index` counts points in (N, Lq, M, L, P), `query_row` counts queries in (N, Lq).
  __device__ float2 pixel(const Sizes& sizes, int64_t, int64_t index, int64_t query_row, int level) const {
    const float2 offset = Storage<T>::load_pair(offsets + 2 * index);
    const float2 reference =
        __ldg(reinterpret_cast<const float2*>(reference_points) + query_row * sizes.levels.count + level);
    return make_float2(reference.x * sizes.levels.width[level] - 0.5f + offset.x,
                       reference.y * sizes.levels.height[level] - 0.5f + offset.y);
  }
  __device__ float weight(int64_t index) const { return Storage<T>::load(logits + index); }
};

// Whether a sample touches the level at all; false for NaN.
__device__ __forceinline__ bool touches(float2 pixel, int height, int width) {
  return pixel.x > -1.f && pixel.x < width && pixel.y > -1.f && pixel.y < height;
}

}  // namespace mask2former_ops

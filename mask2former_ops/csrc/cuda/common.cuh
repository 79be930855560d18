// Device helpers shared by the forward and backward kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "../problem.h"

namespace mask2former_ops {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

// ---- Storage types. `Storage<T>` says how stored numbers become floats and back.

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
  static __device__ float load(const float* p) { return __ldg(p); }
  static __device__ float2 load_pair(const float* p) { return __ldg(reinterpret_cast<const float2*>(p)); }
  static __device__ void store(float* p, float x) { *p = x; }
};

template <>
struct Storage<BFloat16> {
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
  static __device__ float2 unpack(uint32_t word) { return __half22float2(*reinterpret_cast<const __half2*>(&word)); }
  static __device__ uint32_t pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  static __device__ float load(const Half* p) { return __half2float(__ushort_as_half(__ldg(&p->bits))); }
  static __device__ float2 load_pair(const Half* p) { return unpack(__ldg(reinterpret_cast<const uint32_t*>(p))); }
  static __device__ void store(Half* p, float x) { p->bits = __half_as_ushort(__float2half_rn(x)); }
};

// ---- The channels of one pixel that one thread holds, as they are stored.

// Sixteen bytes: four floats or eight of a half type, so that a group of D / kChannels threads holds one head's row.
// Measured on an H200, four channels of bfloat16 a thread cost the forward a third more time, and eight of float a
// sixth more.
template <typename T>
struct Row {
  static constexpr int kChannels = 16 / sizeof(T);
  static constexpr int kWords = 4;
  uint4 raw;

  __device__ void load(const T* row, int lane) {
    raw = __ldg(reinterpret_cast<const uint4*>(row + lane * kChannels));
  }

  __device__ void clear() { raw = make_uint4(0, 0, 0, 0); }

  __device__ void unpack(float (&x)[kChannels]) const {
    uint32_t words[kWords];
    memcpy(words, &raw, sizeof(raw));
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 4) {
        x[i] = __uint_as_float(words[i]);
      } else {
        const float2 pair = Storage<T>::unpack(words[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
      }
    }
  }

  static __device__ void store(T* row, int lane, const float (&x)[kChannels]) {
    uint32_t words[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 4)
        words[i] = __float_as_uint(x[i]);
      else
        words[i] = Storage<T>::pack(x[2 * i], x[2 * i + 1]);
    }
    uint4 packed;
    memcpy(&packed, words, sizeof(packed));
    *reinterpret_cast<uint4*>(row + lane * kChannels) = packed;
  }
};

// Sum over groups of kLanes neighbouring threads; every thread of the warp calls it and gets its group's sum.
template <int kLanes>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

// ---- Where the points and weights of one call come from. Coordinates are returned in pixels of the level, the centre
// of the first pixel being 0.

// Pixel of a location in [0, 1], rounded once. The backward works out a sample's cell three times, and relies on finding
// the same one. A product and a difference would be the compiler's to contract, here and not there: then a sample on
// the centre of a pixel may be on either side of it.
__device__ __forceinline__ float2 pixel_at(float2 location, const Levels& levels, int level) {
  return make_float2(fmaf(location.x, levels.width[level], -0.5f), fmaf(location.y, levels.height[level], -0.5f));
}

// Locations in [0, 1] and weights, as the plain operator takes them. kCached: by way of the first-level cache, for
// kernels whose threads read neighbours in memory at different times.
template <bool kCached>
struct PlainPoints {
  static constexpr bool kSoftmax = false;
  const float* locations;
  const float* weights;
  float* log_sums = nullptr;

  template <typename T>
  static __device__ T load(const T* from) {
    return kCached ? __ldg(from) : __ldcg(from);
  }

  // `index` counts samples in (N, Lq, M, L, P), `query_row` counts queries in (N, Lq).
  __device__ float2 pixel(const Sizes& sizes, int64_t index, int64_t, int level) const {
    return pixel_at(load(reinterpret_cast<const float2*>(locations) + index), sizes.levels, level);
  }
  __device__ float weight(int64_t index, float) const { return load(weights + index); }
};
using GivenPoints = PlainPoints<false>;

// Reference points, offsets in pixels, and logits, as the fused operator takes them.
template <typename T>
struct OffsetPoints {
  static constexpr bool kSoftmax = true;
  const float* reference_points;
  const T* offsets;
  const T* logits;
  float* log_sums;  // (N, Lq, M): logarithm of the softmax's denominator, left by the forward for the backward

  __device__ float2 pixel(const Sizes& sizes, int64_t index, int64_t query_row, int level) const {
    const float2 offset = Storage<T>::load_pair(offsets + 2 * index);
    const float2 reference =
        __ldg(reinterpret_cast<const float2*>(reference_points) + query_row * sizes.levels.count + level);
    const float2 pixel = pixel_at(reference, sizes.levels, level);
    return make_float2(pixel.x + offset.x, pixel.y + offset.y);
  }
  __device__ float logit(int64_t index) const { return Storage<T>::load(logits + index); }
  __device__ float weight(int64_t index, float log_sum) const { return expf(logit(index) - log_sum); }
};

// Whether a sample touches the level at all; false for NaN.
__device__ __forceinline__ bool touches(float2 pixel, int height, int width) {
  return pixel.x > -1.f && pixel.x < width && pixel.y > -1.f && pixel.y < height;
}

}  // namespace mask2former_ops

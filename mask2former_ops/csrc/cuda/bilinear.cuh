// Bilinear sampling of a map at points in [0, 1], as PyTorch's `grid_sample` does it without `align_corners` and with
// the border for padding.
#pragma once

#include "common.cuh"

namespace mask2former_ops {

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(BFloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ __forceinline__ float as_float(Half x) { return __half2float(__ushort_as_half(x.bits)); }

// The four pixels around a point, and how far it is from the first to the second along each axis, in pixels. Beyond the
// centres of the outer pixels, the border is repeated; a coordinate that is not a number counts as zero.
struct Corners {
  int left, right, top, bottom;
  float to_right, to_bottom;
};

__device__ __forceinline__ Corners corners_at(float2 at, int height, int width) {
  const float x = fminf(fmaxf(fmaf(at.x, width, -0.5f), 0.f), width - 1.f);
  const float y = fminf(fmaxf(fmaf(at.y, height, -0.5f), 0.f), height - 1.f);
  const int left = static_cast<int>(x), top = static_cast<int>(y);
  return {left, min(left + 1, width - 1), top, min(top + 1, height - 1), x - left, y - top};
}

template <typename T>
__device__ __forceinline__ float sample(const T* map, int height, int width, float2 at) {
  const Corners near = corners_at(at, height, width);
  const T *upper = map + near.top * width, *lower = map + near.bottom * width;
  return (1 - near.to_bottom) *
             ((1 - near.to_right) * as_float(upper[near.left]) + near.to_right * as_float(upper[near.right])) +
         near.to_bottom *
             ((1 - near.to_right) * as_float(lower[near.left]) + near.to_right * as_float(lower[near.right]));
}

}  // namespace mask2former_ops

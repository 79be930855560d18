// The four pixels around a sample and the sums of their gradients, in the registers of a group of threads that walks
// over samples in the order of their cells.
#pragma once

#include <climits>
#include <type_traits>

#include "common.cuh"

namespace mask2former_ops {

__device__ __forceinline__ void add_four(float* target, const float* x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(target), make_float4(x[0], x[1], x[2], x[3]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) atomicAdd(target + i, x[i]);
#endif
}

// Pointer moved by a number of rows. A 32-bit product added to a 64-bit address is one instruction.
template <typename T>
__device__ __forceinline__ T* at_row(T* base, int row, uint32_t row_bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  const uint64_t bytes = static_cast<uint64_t>(static_cast<uint32_t>(row)) * row_bytes;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) + bytes);
}

// One level of an image for one thread: its channels of all pixels.
template <typename T>
struct Plane {
  const T* value;
  float* grad_value;
  uint32_t row_bytes, grad_row_bytes;
  int height, width;
};

// Two pixels, one above the other, and the sums of their gradients.
template <typename T>
struct Column {
  static constexpr int kChannels = Row<T>::kChannels;
  Row<T> pixels[2];
  float sums[2][kChannels];
  int x = INT_MIN;
  int upper;              // number of the upper pixel in its level
  unsigned existing = 0;  // one bit a pixel

  __device__ void flush(const Plane<T>& plane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!(existing >> i & 1)) continue;
      float* const to = at_row(plane.grad_value, upper + i * plane.width, plane.grad_row_bytes);
#pragma unroll
      for (int c = 0; c < kChannels; c += 4) add_four(to + c, sums[i] + c);
    }
  }

  __device__ void load(const Plane<T>& plane, int new_x, int y) {
    x = new_x;
    upper = y * plane.width + x;
    existing = x >= 0 && x < plane.width ? (y >= 0 ? 1u : 0u) | (y + 1 < plane.height ? 2u : 0u) : 0u;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (existing >> i & 1)
        pixels[i].load(at_row(plane.value, upper + i * plane.width, plane.row_bytes), 0);
      else
        pixels[i].clear();
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sums[i][c] = 0.f;
    }
  }
};

// The cell of a run's sample. Even columns of pixels are kept in columns[0], odd ones in columns[1]: cells are sorted
// row by row, and where the next one lies to the right, the column that they share stays where it is.
template <typename T>
struct Cell {
  static constexpr int kChannels = Row<T>::kChannels;
  Column<T> columns[2];
  int y = INT_MIN;

  __device__ void move(const Plane<T>& plane, int new_x, int new_y) {
    const bool other_row = new_y != y;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int column_x = new_x + ((new_x ^ side) & 1);
      if (!other_row && column_x == columns[side].x) continue;
      columns[side].flush(plane);
      columns[side].load(plane, column_x, new_y);
    }
    y = new_y;
  }

  // Adds a sample's row of grad_output to the sums. Returns this thread's part of the gradients by weight, x and y.
  __device__ float3 add(const Row<T>& row, bool odd, float x, float y, float weight) {
    const float across[2] = {odd ? x : 1.f - x, odd ? 1.f - x : x}, down[2] = {1.f - y, y};
    float gradient[kChannels], product[2][2];
    row.unpack(gradient);
    float by_weight = 0.f;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float pixel[kChannels], sum = 0.f;
        columns[side].pixels[i].unpack(pixel);
        const float bilinear = across[side] * down[i], scale = weight * bilinear;
        float* const sums = columns[side].sums[i];
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          sum = fmaf(gradient[c], pixel[c], sum);
          sums[c] = fmaf(scale, gradient[c], sums[c]);
        }
        product[side][i] = sum;
        by_weight = fmaf(bilinear, sum, by_weight);
      }
    }
    const float by_odd = down[0] * (product[1][0] - product[0][0]) + down[1] * (product[1][1] - product[0][1]);
    const float by_y = across[0] * (product[0][1] - product[0][0]) + across[1] * (product[1][1] - product[1][0]);
    return make_float3(by_weight, odd ? -by_odd : by_odd, by_y);
  }
};

}  // namespace mask2former_ops

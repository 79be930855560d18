// Sizes of one call, and the checks that keep every kernel inside its tensors.
//
// N images, S value tokens, M heads, D channels of one head, Lq queries, L levels, P points of one head on one level.
// value (N, S, M, D), locations or offsets (N, Lq, M, L, P, 2), weights or logits (N, Lq, M, L, P),
// output (N, Lq, M, D). The Python side checks too and words its errors for users; these guard direct calls.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstdint>
#include <string>

// ValueError in Python. The message is joined without C++ streams: a library linked by a C driver takes parts of the
// stream classes from whatever was loaded before it, and printing an array through them crashed.
#define MASK2FORMER_OPS_CHECK(condition, ...) \
  if (!(condition)) TORCH_CHECK_VALUE(false, ::mask2former_ops::message(__VA_ARGS__))

namespace mask2former_ops {

inline std::string text(const char* part) { return part; }
inline std::string text(int part) { return std::to_string(part); }
inline std::string text(int64_t part) { return std::to_string(part); }
inline std::string text(const at::Device& part) { return part.str(); }
inline std::string text(at::ScalarType part) { return c10::toString(part); }
inline std::string text(at::IntArrayRef part) {
  std::string joined = "[";
  for (size_t i = 0; i < part.size(); ++i) joined += (i ? ", " : "") + std::to_string(part[i]);
  return joined + "]";
}

template <typename... Parts>
std::string message(const Parts&... parts) {
  std::string joined;
  (joined.append(text(parts)), ...);
  return joined;
}

constexpr int kMaxLevels = 8;
constexpr int kMaxPoints = 8;
constexpr int kMaxHeadWidth = 128;

struct Levels {
  int count;
  int height[kMaxLevels];
  int width[kMaxLevels];
  int64_t start[kMaxLevels];  // first token of the level
};

struct Sizes {
  int64_t batch;
  int64_t tokens;
  int64_t queries;
  int heads;
  int head_width;
  int points;
  Levels levels;
};

// Type of coordinates, weights and sums: double for double, float for float, bfloat16 and half.
inline at::ScalarType arithmetic_type(const at::Tensor& value) {
  return value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline void check_like_value(const at::Tensor& tensor, const char* name, const at::Tensor& value, at::ScalarType type) {
  MASK2FORMER_OPS_CHECK(tensor.device() == value.device(), name, " must be on ", value.device(), ", got ",
                        tensor.device());
  MASK2FORMER_OPS_CHECK(tensor.scalar_type() == type, name, " must be ", type, " for a value of ", value.scalar_type(),
                        ", got ", tensor.scalar_type());
  MASK2FORMER_OPS_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// For operators without levels: shape, type and device, as of the first tensor, and that it is contiguous.
inline void check_like(const at::Tensor& tensor, const char* name, const at::Tensor& first, at::IntArrayRef sizes) {
  MASK2FORMER_OPS_CHECK(tensor.sizes() == sizes, name, " must have shape ", sizes, ", got ", tensor.sizes());
  MASK2FORMER_OPS_CHECK(tensor.scalar_type() == first.scalar_type() && tensor.device() == first.device(), name,
                        " must be ", first.scalar_type(), " on ", first.device(), ", got ", tensor.scalar_type(),
                        " on ", tensor.device());
  MASK2FORMER_OPS_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// The fast kernels read sixteen bytes at a time; a contiguous view may start anywhere in its storage.
inline bool is_aligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}
inline at::Tensor aligned(const at::Tensor& tensor) { return is_aligned(tensor) ? tensor : tensor.clone(); }

// (N, S, M * D) as (N, S, M, D), with the points' number of heads; others as they are, for `read_sizes` to check.
inline at::Tensor by_head(const at::Tensor& value, const at::Tensor& points) {
  if (value.dim() != 3 || points.dim() != 6 || points.size(2) == 0 || value.size(2) % points.size(2) != 0) return value;
  return value.unflatten(2, {points.size(2), value.size(2) / points.size(2)});
}

// Checks value, spatial_shapes and the tensor of points, and returns the sizes.
inline Sizes read_sizes(const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& points, const char* name) {
  MASK2FORMER_OPS_CHECK(value.dim() == 4, "value must have shape (N, S, M, D), got ", value.sizes());
  MASK2FORMER_OPS_CHECK(value.is_contiguous(), "value must be contiguous");
  MASK2FORMER_OPS_CHECK(!shapes.empty() && shapes.size() % 2 == 0 && shapes.size() <= 2 * kMaxLevels,
                        "spatial_shapes must hold 1 to ", kMaxLevels, " pairs (H, W), got ", shapes);
  Sizes sizes{};
  sizes.batch = value.size(0);
  sizes.tokens = value.size(1);
  sizes.heads = static_cast<int>(value.size(2));
  sizes.head_width = static_cast<int>(value.size(3));
  sizes.levels.count = static_cast<int>(shapes.size() / 2);
  int64_t tokens = 0;
  for (int level = 0; level < sizes.levels.count; ++level) {
    const int64_t height = shapes[2 * level], width = shapes[2 * level + 1];
    MASK2FORMER_OPS_CHECK(height > 0 && width > 0 && height < (1 << 24) && width < (1 << 24),
                          "spatial_shapes must hold sizes from 1 to 2^24, got ", shapes);
    sizes.levels.height[level] = static_cast<int>(height);
    sizes.levels.width[level] = static_cast<int>(width);
    sizes.levels.start[level] = tokens;
    tokens += height * width;
  }
  MASK2FORMER_OPS_CHECK(tokens == sizes.tokens, "spatial_shapes ", shapes, " add up to ", tokens,
                        " tokens, but value has S=", sizes.tokens);
  MASK2FORMER_OPS_CHECK(tokens < (int64_t{1} << 31), "value must have fewer than 2^31 tokens, got ", tokens);
  MASK2FORMER_OPS_CHECK(sizes.head_width > 0 && sizes.head_width <= kMaxHeadWidth && sizes.head_width % 4 == 0,
                        "value must have a head width that is a multiple of 4 up to ", kMaxHeadWidth, ", got ",
                        sizes.head_width);
  MASK2FORMER_OPS_CHECK(points.dim() == 6 && points.size(0) == sizes.batch && points.size(2) == sizes.heads &&
                            points.size(3) == sizes.levels.count && points.size(5) == 2,
                        name, " must have shape (N=", sizes.batch, ", Lq, M=", sizes.heads, ", L=", sizes.levels.count,
                        ", P, 2), got ", points.sizes());
  sizes.queries = points.size(1);
  sizes.points = static_cast<int>(points.size(4));
  MASK2FORMER_OPS_CHECK(sizes.points >= 1 && sizes.points <= kMaxPoints, name, " must have 1 to ", kMaxPoints,
                        " points, got ", sizes.points);
  MASK2FORMER_OPS_CHECK(sizes.queries < (int64_t{1} << 31) / kMaxPoints, name, " has too many queries: ", sizes.queries);
  return sizes;
}

inline void check_weights(const at::Tensor& weights, const char* name, const Sizes& sizes) {
  const std::array<int64_t, 5> expected{sizes.batch, sizes.queries, sizes.heads, sizes.levels.count, sizes.points};
  MASK2FORMER_OPS_CHECK(weights.sizes() == at::IntArrayRef(expected), name, " must have shape ", at::IntArrayRef(expected), ", got ", weights.sizes());
}

inline void check_reference_points(const at::Tensor& points, const Sizes& sizes) {
  const std::array<int64_t, 4> expected{sizes.batch, sizes.queries, sizes.levels.count, 2};
  MASK2FORMER_OPS_CHECK(points.sizes() == at::IntArrayRef(expected), "reference_points must have shape ", at::IntArrayRef(expected), ", got ",
                        points.sizes());
}

inline void check_log_sums(const at::Tensor& tensor, const Sizes& sizes) {
  const std::array<int64_t, 3> expected{sizes.batch, sizes.queries, sizes.heads};
  MASK2FORMER_OPS_CHECK(tensor.sizes() == at::IntArrayRef(expected), "log_sums must have shape ",
                        at::IntArrayRef(expected), ", got ", tensor.sizes());
}

inline void check_output(const at::Tensor& tensor, const char* name, const Sizes& sizes) {
  const std::array<int64_t, 3> expected{sizes.batch, sizes.queries, int64_t{sizes.heads} * sizes.head_width};
  MASK2FORMER_OPS_CHECK(tensor.sizes() == at::IntArrayRef(expected), name, " must have shape ", at::IntArrayRef(expected), ", got ", tensor.sizes());
}

}  // namespace mask2former_ops

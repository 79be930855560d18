// The fused operator in steps of whole tensors, around the plain one: for the CPU, and for sizes or types that the
// fused CUDA kernels leave out.
#pragma once

#include <ATen/ATen.h>

#include <tuple>

#include "problem.h"

namespace mask2former_ops {

// (L, 1, 2), filled on the device: a copy from the host could not be part of a CUDA graph.
inline at::Tensor pixel_sizes(const Sizes& sizes, const at::Tensor& like) {
  auto pixels = at::empty({sizes.levels.count, 1, 2}, like.options());
  for (int level = 0; level < sizes.levels.count; ++level) {
    pixels[level][0][0].fill_(1.0 / sizes.levels.width[level]);
    pixels[level][0][1].fill_(1.0 / sizes.levels.height[level]);
  }
  return pixels;
}

// (N, Lq, M): logarithm of the softmax's denominator, in the type of the reference points.
inline at::Tensor log_sums_of(const at::Tensor& reference_points, const at::Tensor& logits) {
  return at::logsumexp(logits.to(reference_points.scalar_type()).flatten(-2), -1);
}

inline std::tuple<at::Tensor, at::Tensor> locations_and_weights(const Sizes& sizes, const at::Tensor& reference_points,
                                                                const at::Tensor& offsets, const at::Tensor& logits,
                                                                const at::Tensor& log_sums) {
  const auto type = reference_points.scalar_type();
  auto reference = reference_points.unsqueeze(2).unsqueeze(4);
  auto locations = (reference + offsets.to(type) * pixel_sizes(sizes, reference_points)).contiguous();
  auto weights = at::exp(logits.to(type) - log_sums.unsqueeze(-1).unsqueeze(-1));
  return {locations, weights};
}

// Gradients of offsets and logits from those of locations and weights.
inline std::tuple<at::Tensor, at::Tensor> offset_and_logit_gradients(const Sizes& sizes, const at::Tensor& weights,
                                                                     const at::Tensor& grad_locations,
                                                                     const at::Tensor& grad_weights) {
  auto grad_offsets = grad_locations * pixel_sizes(sizes, grad_locations);
  auto weighted = (weights * grad_weights).flatten(-2);
  auto mean = weighted.sum(-1, /*keepdim=*/true);
  auto grad_logits = weighted - weights.flatten(-2) * mean;
  return {grad_offsets, grad_logits.view_as(weights)};
}

}  // namespace mask2former_ops

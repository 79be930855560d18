// Launchers, one file each. Arguments are checked by the operators in ms_deform_attn_cuda.cu.
#pragma once

#include <ATen/ATen.h>

#include "../problem.h"

namespace mask2former_ops {

// float, bfloat16 or half with head width 16, 32, 64 or 128 (forward.cu, backward.cu).
void fast_forward(const at::Tensor& value, const at::Tensor& locations, const at::Tensor& weights, at::Tensor& output,
                  const Sizes& sizes);
void fast_fused_forward(const at::Tensor& value, const at::Tensor& reference_points, const at::Tensor& offsets,
                        const at::Tensor& logits, at::Tensor& output, at::Tensor& log_sums, const Sizes& sizes);

// Whether the sorted backward can run: a level's cells must fit in a block's shared memory.
bool sorted_backward_fits(const Sizes& sizes);
// grad_value is float and zero on entry; the other gradients are written completely.
void fast_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& locations,
                   const at::Tensor& weights, at::Tensor& grad_value, at::Tensor& grad_locations,
                   at::Tensor& grad_weights, const Sizes& sizes);
void fast_fused_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& reference_points,
                         const at::Tensor& offsets, const at::Tensor& logits, const at::Tensor& log_sums,
                         at::Tensor& grad_value, at::Tensor& grad_offsets, at::Tensor& grad_logits,
                         const Sizes& sizes);

// Every width and type; locations, weights and gradients are double for double, else float; grad_value is zero on entry
// (generic.cu).
void generic_forward(const at::Tensor& value, const at::Tensor& locations, const at::Tensor& weights,
                     at::Tensor& output, const Sizes& sizes);
void generic_backward(const at::Tensor& grad_output, const at::Tensor& value, const at::Tensor& locations,
                      const at::Tensor& weights, at::Tensor& grad_value, at::Tensor& grad_locations,
                      at::Tensor& grad_weights, const Sizes& sizes);

}  // namespace mask2former_ops

// CUDA backend: checks arguments, chooses a kernel, registers the operators.

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "../composite.h"
#include "../problem.h"
#include "cuda_ops.h"

namespace mask2former_ops {
namespace {


bool has_fast_kernel(const at::Tensor& value, const Sizes& sizes) {
  const int width = sizes.head_width;
  const bool short_rows = int64_t{sizes.heads} * width < (1 << 24);  // their bytes and samples are counted in 32 bits
  return value.scalar_type() != at::kDouble && (width & (width - 1)) == 0 && width >= 16 && short_rows;
}

at::Tensor empty_output(const at::Tensor& value, const Sizes& sizes) {
  return at::empty({sizes.batch, sizes.queries, int64_t{sizes.heads} * sizes.head_width}, value.options());
}

Sizes check_plain(const at::Tensor& value, at::IntArrayRef spatial_shapes, const at::Tensor& sampling_locations,
                  const at::Tensor& attention_weights) {
  const Sizes sizes = read_sizes(value, spatial_shapes, sampling_locations, "sampling_locations");
  check_weights(attention_weights, "attention_weights", sizes);
  check_like_value(sampling_locations, "sampling_locations", value, arithmetic_type(value));
  check_like_value(attention_weights, "attention_weights", value, arithmetic_type(value));
  return sizes;
}

Sizes check_fused(const at::Tensor& value, at::IntArrayRef spatial_shapes, const at::Tensor& reference_points,
                  const at::Tensor& sampling_offsets, const at::Tensor& attention_logits) {
  const Sizes sizes = read_sizes(value, spatial_shapes, sampling_offsets, "sampling_offsets");
  check_weights(attention_logits, "attention_logits", sizes);
  check_reference_points(reference_points, sizes);
  check_like_value(reference_points, "reference_points", value, arithmetic_type(value));
  check_like_value(sampling_offsets, "sampling_offsets", value, value.scalar_type());
  check_like_value(attention_logits, "attention_logits", value, value.scalar_type());
  return sizes;
}

void check_gradient(const at::Tensor& grad_output, const at::Tensor& value, const Sizes& sizes) {
  check_output(grad_output, "grad_output", sizes);
  check_like_value(grad_output, "grad_output", value, value.scalar_type());
  at::globalContext().alertNotDeterministic("ms_deform_attn_backward_cuda");
}

at::Tensor forward_cuda(const at::Tensor& value, at::IntArrayRef spatial_shapes, const at::Tensor& sampling_locations,
                        const at::Tensor& attention_weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const Sizes sizes = check_plain(value, spatial_shapes, sampling_locations, attention_weights);
  auto output = empty_output(value, sizes);
  if (output.numel() == 0) return output;
  if (has_fast_kernel(value, sizes))
    fast_forward(aligned(value), aligned(sampling_locations), attention_weights, output, sizes);
  else
    generic_forward(value, sampling_locations, attention_weights, output, sizes);
  return output;
}

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

Gradients backward_cuda(const at::Tensor& grad_output, const at::Tensor& value, at::IntArrayRef spatial_shapes,
                        const at::Tensor& sampling_locations, const at::Tensor& attention_weights) {
  const c10::cuda::CUDAGuard guard(value.device());
  const Sizes sizes = check_plain(value, spatial_shapes, sampling_locations, attention_weights);
  check_gradient(grad_output, value, sizes);
  auto grad_value = at::zeros(value.sizes(), value.options().dtype(arithmetic_type(value)));
  auto grad_locations = at::empty_like(sampling_locations);
  auto grad_weights = at::empty_like(attention_weights);
  if (grad_output.numel() > 0) {
    if (has_fast_kernel(value, sizes) && sorted_backward_fits(sizes))
      fast_backward(aligned(grad_output), aligned(value), aligned(sampling_locations), attention_weights, grad_value,
                    grad_locations, grad_weights, sizes);
    else
      generic_backward(grad_output, value, sampling_locations, attention_weights, grad_value, grad_locations,
                       grad_weights, sizes);
  }
  return {grad_value.to(value.scalar_type()), grad_locations, grad_weights};
}

std::tuple<at::Tensor, at::Tensor> fused_forward_cuda(const at::Tensor& given_value, at::IntArrayRef spatial_shapes,
                              const at::Tensor& reference_points, const at::Tensor& sampling_offsets,
                              const at::Tensor& attention_logits) {
  const c10::cuda::CUDAGuard guard(given_value.device());
  const at::Tensor value = by_head(given_value, sampling_offsets);
  const Sizes sizes = check_fused(value, spatial_shapes, reference_points, sampling_offsets, attention_logits);
  if (!has_fast_kernel(value, sizes)) {
    auto log_sums = log_sums_of(reference_points, attention_logits);
    auto [locations, weights] =
        locations_and_weights(sizes, reference_points, sampling_offsets, attention_logits, log_sums);
    return {forward_cuda(value, spatial_shapes, locations, weights), log_sums};
  }
  auto output = empty_output(value, sizes);
  auto log_sums = at::empty({sizes.batch, sizes.queries, sizes.heads}, reference_points.options());
  if (output.numel() > 0)
    fast_fused_forward(aligned(value), aligned(reference_points), aligned(sampling_offsets), attention_logits, output,
                       log_sums, sizes);
  return {output, log_sums};
}

Gradients fused_backward_cuda(const at::Tensor& grad_output, const at::Tensor& given_value, at::IntArrayRef spatial_shapes,
                              const at::Tensor& reference_points, const at::Tensor& sampling_offsets,
                              const at::Tensor& attention_logits, const at::Tensor& log_sums) {
  const c10::cuda::CUDAGuard guard(given_value.device());
  const at::Tensor value = by_head(given_value, sampling_offsets);
  const Sizes sizes = check_fused(value, spatial_shapes, reference_points, sampling_offsets, attention_logits);
  check_log_sums(log_sums, sizes);
  check_like_value(log_sums, "log_sums", value, arithmetic_type(value));
  check_gradient(grad_output, value, sizes);
  const auto type = value.scalar_type();
  if (!has_fast_kernel(value, sizes) || !sorted_backward_fits(sizes)) {
    auto [locations, weights] =
        locations_and_weights(sizes, reference_points, sampling_offsets, attention_logits, log_sums);
    auto [grad_value, grad_locations, grad_weights] =
        backward_cuda(grad_output, value, spatial_shapes, locations, weights);
    auto [grad_offsets, grad_logits] = offset_and_logit_gradients(sizes, weights, grad_locations, grad_weights);
    return {grad_value.view_as(given_value), grad_offsets.to(type), grad_logits.to(type)};
  }
  auto grad_value = at::zeros(value.sizes(), value.options().dtype(at::kFloat));
  auto grad_offsets = at::empty_like(sampling_offsets);
  auto grad_logits = at::empty_like(attention_logits);
  if (grad_output.numel() > 0)
    fast_fused_backward(aligned(grad_output), aligned(value), aligned(reference_points), aligned(sampling_offsets),
                        attention_logits, log_sums, grad_value, grad_offsets, grad_logits, sizes);
  return {grad_value.to(type).view_as(given_value), grad_offsets, grad_logits};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) {
  library.impl("ms_deform_attn", forward_cuda);
  library.impl("ms_deform_attn_backward", backward_cuda);
  library.impl("ms_deform_attn_fused", fused_forward_cuda);
  library.impl("ms_deform_attn_fused_backward", fused_backward_cuda);
}

}  // namespace mask2former_ops

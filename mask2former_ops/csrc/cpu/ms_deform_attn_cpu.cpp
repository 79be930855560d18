// CPU backend: tasks over images, heads and queries (forward) or levels (backward), vectorised over channels.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include "../composite.h"
#include "../problem.h"

namespace mask2former_ops {
namespace {

template <typename T>
struct Problem {
  Sizes sizes;
  const T* value;
  const T* locations;
  const T* weights;
  const T* grad_output;
  T* output;
  T* grad_value;
  T* grad_locations;
  T* grad_weights;
};

// The same loops for each instruction set, chosen when the library runs, so that one binary serves every x86 machine.
namespace baseline {
#include "kernels.h"
}  // namespace baseline

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MASK2FORMER_OPS_X86 1
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#include "kernels.h"
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
namespace avx512 {
#include "kernels.h"
}  // namespace avx512
#pragma GCC pop_options
#endif

template <typename T>
struct Kernels {
  void (*forward)(const Problem<T>&, int64_t, int, int64_t, int64_t) = baseline::forward<T>;
  void (*backward)(const Problem<T>&, int64_t, int, int) = baseline::backward<T>;
};

template <typename T>
Kernels<T> best_kernels() {
  Kernels<T> kernels;
#ifdef MASK2FORMER_OPS_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    kernels.forward = avx512::forward<T>;
    kernels.backward = avx512::backward<T>;
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    kernels.forward = avx2::forward<T>;
    kernels.backward = avx2::backward<T>;
  }
#endif
  return kernels;
}

constexpr int64_t kQueriesPerTask = 512;

at::Tensor forward_cpu(const at::Tensor& value, at::IntArrayRef spatial_shapes, const at::Tensor& sampling_locations,
                       const at::Tensor& attention_weights) {
  const Sizes sizes = read_sizes(value, spatial_shapes, sampling_locations, "sampling_locations");
  const auto type = arithmetic_type(value);
  check_weights(attention_weights, "attention_weights", sizes);
  check_like_value(sampling_locations, "sampling_locations", value, type);
  check_like_value(attention_weights, "attention_weights", value, type);

  const at::Tensor wide_value = value.to(type);
  auto output = at::empty({sizes.batch, sizes.queries, int64_t{sizes.heads} * sizes.head_width}, wide_value.options());
  AT_DISPATCH_FLOATING_TYPES(type, "ms_deform_attn_cpu", [&] {
    static const Kernels<scalar_t> kernels = best_kernels<scalar_t>();
    Problem<scalar_t> problem{};
    problem.sizes = sizes;
    problem.value = wide_value.const_data_ptr<scalar_t>();
    problem.locations = sampling_locations.const_data_ptr<scalar_t>();
    problem.weights = attention_weights.const_data_ptr<scalar_t>();
    problem.output = output.mutable_data_ptr<scalar_t>();
    const int64_t chunks = (sizes.queries + kQueriesPerTask - 1) / kQueriesPerTask;
    at::parallel_for(0, sizes.batch * sizes.heads * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % chunks * kQueriesPerTask;
        const int64_t slice = task / chunks;
        kernels.forward(problem, slice / sizes.heads, static_cast<int>(slice % sizes.heads), first,
                        std::min(first + kQueriesPerTask, sizes.queries));
      }
    });
  });
  return output.to(value.scalar_type());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(const at::Tensor& grad_output, const at::Tensor& value,
                                                            at::IntArrayRef spatial_shapes,
                                                            const at::Tensor& sampling_locations,
                                                            const at::Tensor& attention_weights) {
  const Sizes sizes = read_sizes(value, spatial_shapes, sampling_locations, "sampling_locations");
  const auto type = arithmetic_type(value);
  check_weights(attention_weights, "attention_weights", sizes);
  check_output(grad_output, "grad_output", sizes);
  check_like_value(sampling_locations, "sampling_locations", value, type);
  check_like_value(attention_weights, "attention_weights", value, type);
  check_like_value(grad_output, "grad_output", value, value.scalar_type());

  const at::Tensor wide_value = value.to(type);
  const at::Tensor wide_grad_output = grad_output.to(type);
  auto grad_value = at::zeros_like(wide_value);
  auto grad_locations = at::empty_like(sampling_locations);
  auto grad_weights = at::empty_like(attention_weights);
  AT_DISPATCH_FLOATING_TYPES(type, "ms_deform_attn_backward_cpu", [&] {
    static const Kernels<scalar_t> kernels = best_kernels<scalar_t>();
    Problem<scalar_t> problem{};
    problem.sizes = sizes;
    problem.value = wide_value.const_data_ptr<scalar_t>();
    problem.locations = sampling_locations.const_data_ptr<scalar_t>();
    problem.weights = attention_weights.const_data_ptr<scalar_t>();
    problem.grad_output = wide_grad_output.const_data_ptr<scalar_t>();
    problem.grad_value = grad_value.mutable_data_ptr<scalar_t>();
    problem.grad_locations = grad_locations.mutable_data_ptr<scalar_t>();
    problem.grad_weights = grad_weights.mutable_data_ptr<scalar_t>();
    const int64_t slices = sizes.batch * sizes.heads;
    at::parallel_for(0, sizes.levels.count * slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t slice = task / sizes.levels.count;
        kernels.backward(problem, slice / sizes.heads, static_cast<int>(slice % sizes.heads),
                         static_cast<int>(task % sizes.levels.count));
      }
    });
  });
  return {grad_value.to(value.scalar_type()), grad_locations, grad_weights};
}

std::tuple<at::Tensor, at::Tensor> fused_forward_cpu(const at::Tensor& given_value,
                                                     at::IntArrayRef spatial_shapes,
                                                     const at::Tensor& reference_points,
                                                     const at::Tensor& sampling_offsets,
                                                     const at::Tensor& attention_logits) {
  const at::Tensor value = by_head(given_value, sampling_offsets);
  const Sizes sizes = read_sizes(value, spatial_shapes, sampling_offsets, "sampling_offsets");
  check_weights(attention_logits, "attention_logits", sizes);
  check_reference_points(reference_points, sizes);
  check_like_value(reference_points, "reference_points", value, arithmetic_type(value));
  auto log_sums = log_sums_of(reference_points, attention_logits);
  auto [locations, weights] =
      locations_and_weights(sizes, reference_points, sampling_offsets, attention_logits, log_sums);
  return {forward_cpu(value, spatial_shapes, locations, weights), log_sums};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> fused_backward_cpu(
    const at::Tensor& grad_output, const at::Tensor& given_value, at::IntArrayRef spatial_shapes,
    const at::Tensor& reference_points, const at::Tensor& sampling_offsets, const at::Tensor& attention_logits,
    const at::Tensor& log_sums) {
  const at::Tensor value = by_head(given_value, sampling_offsets);
  const Sizes sizes = read_sizes(value, spatial_shapes, sampling_offsets, "sampling_offsets");
  check_log_sums(log_sums, sizes);
  check_weights(attention_logits, "attention_logits", sizes);
  check_reference_points(reference_points, sizes);
  check_like_value(reference_points, "reference_points", value, arithmetic_type(value));
  auto [locations, weights] =
      locations_and_weights(sizes, reference_points, sampling_offsets, attention_logits, log_sums);
  auto [grad_value, grad_locations, grad_weights] =
      backward_cpu(grad_output, value, spatial_shapes, locations, weights);
  auto [grad_offsets, grad_logits] = offset_and_logit_gradients(sizes, weights, grad_locations, grad_weights);
  return {grad_value.view_as(given_value), grad_offsets.to(sampling_offsets.scalar_type()),
          grad_logits.to(attention_logits.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CPU, library) {
  library.impl("ms_deform_attn", forward_cpu);
  library.impl("ms_deform_attn_backward", backward_cpu);
  library.impl("ms_deform_attn_fused", fused_forward_cpu);
  library.impl("ms_deform_attn_fused_backward", fused_backward_cpu);
}

}  // namespace mask2former_ops

// The two products of a feed-forward network in training that touch its ReLU: the one in front of it, which also writes
// the bits of the features that are positive, and that of the backward pass, which reads them.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>

#include "../problem.h"
#include "linear.h"

namespace mask2former_ops {
namespace {

constexpr int64_t kByteBits = 8;
constexpr int64_t kFeatures = 128;  // hidden ones come in multiples, as cuBLASLt's bits do
constexpr int64_t kAlignment = 16;  // bytes

void check_like(const at::Tensor& tensor, const char* name, const at::Tensor& first, at::ScalarType type,
                at::IntArrayRef sizes) {
  MASK2FORMER_OPS_CHECK(tensor.sizes() == sizes, name, " must have shape ", sizes, ", got ", tensor.sizes());
  MASK2FORMER_OPS_CHECK(tensor.scalar_type() == type && tensor.device() == first.device(), name, " must be ", type,
                        " on ", first.device(), ", got ", tensor.scalar_type(), " on ", tensor.device());
  MASK2FORMER_OPS_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

void check_matrices(const at::Tensor& first, const char* name, const at::Tensor& weight, int64_t features) {
  MASK2FORMER_OPS_CHECK(first.dim() == 2 && weight.dim() == 2, name, " and weight must be matrices, got ",
                        first.sizes(), " and ", weight.sizes());
  MASK2FORMER_OPS_CHECK(first.scalar_type() == at::kBFloat16 || first.scalar_type() == at::kHalf, name,
                        " must be BFloat16 or Half, got ", first.scalar_type());
  MASK2FORMER_OPS_CHECK(features > 0 && features % kFeatures == 0, "weight must have a multiple of ", kFeatures,
                        " hidden features, got ", features);
  check_like(first, name, first, first.scalar_type(), first.sizes());
}

// A contiguous view may start anywhere in its storage.
at::Tensor aligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAlignment == 0 ? tensor : tensor.clone();
}

at::Tensor bit_numbers(const at::Tensor& like) { return at::arange(kByteBits, like.options().dtype(at::kByte)); }

std::tuple<at::Tensor, at::Tensor> linear_relu_cuda(const at::Tensor& x, const at::Tensor& weight,
                                                    const at::Tensor& bias) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t features = weight.dim() == 2 ? weight.size(0) : 0;
  check_matrices(x, "x", weight, features);
  check_like(weight, "weight", x, x.scalar_type(), {features, x.size(1)});
  check_like(bias, "bias", x, x.scalar_type(), {features});
  const auto from = aligned(x), matrix = aligned(weight), added = aligned(bias);
  Product product{from, matrix, added, at::empty({x.size(0), features}, x.options())};
  product.then = Then::kRelu;
  product.positive = at::empty({x.size(0), features / kByteBits}, x.options().dtype(at::kByte));
  if (multiply(product)) return {product.y, product.positive};
  auto hidden = at::addmm(bias, x, weight.t()).relu_();
  const auto bits = hidden.gt(0).view({x.size(0), features / kByteBits, kByteBits}).to(at::kByte);
  return {hidden, bits.bitwise_left_shift(bit_numbers(bits)).sum(-1, false, at::kByte)};
}

std::tuple<at::Tensor, at::Tensor> relu_gradient_cuda(const at::Tensor& grad, const at::Tensor& weight,
                                                      const at::Tensor& positive) {
  const c10::cuda::CUDAGuard guard(grad.device());
  const int64_t features = weight.dim() == 2 ? weight.size(1) : 0;
  check_matrices(grad, "grad_output", weight, features);
  check_like(weight, "weight", grad, grad.scalar_type(), {grad.size(1), features});
  check_like(positive, "positive", grad, at::kByte, {grad.size(0), features / kByteBits});
  const auto from = aligned(grad), matrix = aligned(weight), sum = at::empty({features}, grad.options());
  Product product{from, matrix, sum, at::empty({grad.size(0), features}, grad.options())};
  product.then = Then::kReluGradient;
  product.transposed = false;
  product.positive = aligned(positive);
  if (multiply(product)) return {product.y, sum};
  const auto bits = positive.unsqueeze(-1).bitwise_right_shift(bit_numbers(positive)).bitwise_and(1);
  auto masked = at::mm(grad, weight).masked_fill_(bits.view({grad.size(0), features}).eq(0), 0);
  return {masked, masked.sum(0)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mask2former_ops, CUDA, library) {
  library.impl("linear_relu", linear_relu_cuda);
  library.impl("relu_gradient", relu_gradient_cuda);
}

}  // namespace mask2former_ops

// Matrix products with what precedes or follows them, in one call of cuBLASLt.
#pragma once

#include <ATen/ATen.h>

namespace mask2former_ops {

enum class Then {
  kNothing,       // bias
  kGelu,          // bias, then the approximation by tanh of GELU
  kRelu,          // bias, then ReLU, of which `positive` gets the bits
  kReluGradient,  // zero where the bit in `positive` is; the columns' sums, rounded afterwards, are written to `bias`
};

// y = x weight^T, or x weight, and what follows, on the current device and stream. All tensors are contiguous and at
// multiples of 16 bytes, all but `positive` of one 16-bit type.
struct Product {
  const at::Tensor &x, &weight, &bias;  // (M, K); (N, K), or (K, N) if not transposed; (N)
  at::Tensor y;                         // (M, N)
  Then then = Then::kNothing;
  bool transposed = true;
  at::Tensor addend = {};    // (M, N), added before the sum is rounded; with kNothing
  at::Tensor positive = {};  // (M, N / 8) bytes, the lowest bit first; N is a multiple of 128
};

// Whether cuBLASLt can do this, and has.
bool multiply(const Product& product);

// y = x weight^T + bias, with GELU or an addend; PyTorch does what cuBLASLt cannot.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool gelu,
                  const at::Tensor& addend = {});

}  // namespace mask2former_ops

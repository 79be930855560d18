// A linear layer with what follows it, in one call of cuBLASLt.
#pragma once

#include <ATen/ATen.h>

namespace mask2former_ops {

// y = x weight^T + bias (M, N) in the type of x, on the current device and stream. x (M, K), weight (N, K), bias (N),
// all contiguous, of one 16-bit type and at multiples of 16 bytes.
// gelu: then the approximation by tanh of GELU. addend: (M, N) like x, added before the sum is rounded; not with gelu.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool gelu,
                  const at::Tensor& addend = {});

}  // namespace mask2former_ops

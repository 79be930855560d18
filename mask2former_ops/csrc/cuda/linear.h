// A linear layer with what follows it, in one call of cuBLASLt.
#pragma once

#include <ATen/ATen.h>

namespace mask2former_ops {

enum class Activation { kNone, kGelu, kRelu };  // GELU by its approximation with tanh

// y = x weight^T + bias (M, N) in the type of x, on the current device and stream. x (M, K), weight (N, K), bias (N),
// all contiguous, of one 16-bit type and at multiples of 16 bytes.
// activation: applied to the sum. addend: (M, N) like x, added before the sum is rounded; with kNone.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Activation activation,
                  const at::Tensor& addend = {});

}  // namespace mask2former_ops

// cuBLASLt takes a bias and a matrix to add, where cuBLAS's interface in PyTorch takes either. Both join the float32
// sums, which are rounded once, and no other kernel has to read and write the result.
//
// Which of its algorithms computes a product is decided once for every size, and remembered by the process: the fastest
// of those whose result has the bits of the first that cuBLASLt proposes, or, for small products and with
// USG_PSG_OPS_TIME_PRODUCTS=0, that first one. Without the comparison, the clock would decide about the bits, and a run
// that is resumed could differ from one that was not: algorithms that split K add its parts in another order, and the
// others, too, may take more or fewer products at a time, or let several warps share K. A split is summed in float32,
// after the product and in a fixed order; other ways to sum it are excluded. Made-up numbers are compared, in which
// every order of sums shows: a first image of one colour would hide it, and so would an addend that outweighs the sum.
//
// The third call with a size and a weight times it: the last one before a network is recorded as a CUDA graph. Of a
// folder of photographs, many sizes come only once, and timing took a fifth of the first pass over it.
//
// Measured on an H100, 16 images of 640x640 in ConvNeXt-L: all proposals have the same bits, and the 36 blocks take
// 19.2 ms with the fastest ones and 20.6 with the first; the choice takes 0.4 s.
//
// Proposals whose thread blocks run in clusters of more than four are left out. Beside other processes on one GPU, those
// of 2x4 blocks ended with "unspecified launch failure" on an H100 and an H200, the first proposal for a product among
// them (docs/performance.md has the numbers). A step takes as long without them.

#include "linear.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>

#include "../problem.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace mask2former_ops {
namespace {

constexpr size_t kWorkspace = size_t{32} << 20;
constexpr int kCandidates = 16;
constexpr int kTimedRuns = 3;
constexpr int kUntimedCalls = 2;
// Float32 sums in another order give other bits to 2 to 50 of 100,000 numbers in bfloat16 (normal numbers, K 192 to
// 6144). Of fewer numbers than these, equal bits would say little about another call, and there is little to gain.
constexpr int64_t kTimedNumbers = int64_t{1} << 22;

// The functions of the library that PyTorch has loaded. To link with it would need its path, which may lie within a
// Python environment, and a linker that keeps what no symbol asks for.
struct Library {
#define MASK2FORMER_OPS_EACH(_)                                                                           \
  _(Create) _(Matmul) _(MatmulAlgoGetHeuristic) _(MatmulDescCreate) _(MatmulDescDestroy)                  \
  _(MatmulDescSetAttribute) _(MatmulPreferenceCreate) _(MatmulPreferenceDestroy)                          \
  _(MatmulPreferenceSetAttribute) _(MatmulAlgoConfigGetAttribute) _(MatrixLayoutCreate) _(MatrixLayoutDestroy)
#define MASK2FORMER_OPS_DECLARE(name) decltype(&cublasLt##name) name = nullptr;
#define MASK2FORMER_OPS_FIND(name) \
  complete &= (name = reinterpret_cast<decltype(name)>(dlsym(file, "cublasLt" #name))) != nullptr;

  bool complete = false;
  MASK2FORMER_OPS_EACH(MASK2FORMER_OPS_DECLARE)

  Library() {
    const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    void* const file = dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD);
    complete = file != nullptr;
    if (file) { MASK2FORMER_OPS_EACH(MASK2FORMER_OPS_FIND) }
  }

#undef MASK2FORMER_OPS_EACH
#undef MASK2FORMER_OPS_DECLARE
#undef MASK2FORMER_OPS_FIND
};

const Library& lt() {
  static const Library library;
  return library;
}

void check(cublasStatus_t status, const char* call) {
  TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, message(call, " failed with status ", static_cast<int>(status)));
}

struct Destroy {
  void operator()(cublasLtMatmulDesc_t operation) const { lt().MatmulDescDestroy(operation); }
  void operator()(cublasLtMatrixLayout_t layout) const { lt().MatrixLayoutDestroy(layout); }
  void operator()(cublasLtMatmulPreference_t preference) const { lt().MatmulPreferenceDestroy(preference); }
};
using Operation = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy>;

template <typename T>
void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(lt().MatmulDescSetAttribute(operation.get(), attribute, &value, sizeof(T)),
        "cublasLtMatmulDescSetAttribute");
}

template <typename T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(lt().MatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(T)),
        "cublasLtMatmulPreferenceSetAttribute");
}

Layout column_major(cudaDataType_t type, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(lt().MatrixLayoutCreate(&layout, type, rows, columns, /*ld=*/rows), "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

cublasLtEpilogue_t epilogue(Activation activation) {
  switch (activation) {
    case Activation::kGelu: return CUBLASLT_EPILOGUE_GELU_BIAS;
    case Activation::kRelu: return CUBLASLT_EPILOGUE_RELU_BIAS;
    default: return CUBLASLT_EPILOGUE_BIAS;
  }
}

struct Algorithm {
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace;  // bytes
};

// Whether at most four thread blocks of it make a cluster; true if cuBLASLt does not say.
bool has_small_clusters(const cublasLtMatmulAlgo_t& algorithm) {
#if CUBLAS_VER_MAJOR >= 12
  uint16_t shape = CUBLASLT_CLUSTER_SHAPE_AUTO;
  size_t written = 0;
  if (lt().MatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &shape, sizeof(shape),
                                        &written) != CUBLAS_STATUS_SUCCESS)
    return true;
  for (const int small : {CUBLASLT_CLUSTER_SHAPE_AUTO, CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1,
                          CUBLASLT_CLUSTER_SHAPE_1x4x1, CUBLASLT_CLUSTER_SHAPE_2x1x1, CUBLASLT_CLUSTER_SHAPE_2x2x1,
                          CUBLASLT_CLUSTER_SHAPE_4x1x1})
    if (shape == small) return true;
  return false;
#else
  return true;
#endif
}

// cuBLASLt stores columns one after the other. To it, y is y^T (N, M), x is x^T (K, M) and weight is weight^T (K, N),
// so that y^T = (weight^T)^T x^T.
class Product {
 public:
  Product(cublasLtHandle_t handle, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
          Activation activation, const at::Tensor& addend)
      : handle_(handle), x_(x.const_data_ptr()), weight_(weight.const_data_ptr()),
        addend_(addend.defined() ? addend.const_data_ptr() : nullptr) {
    const auto type = x.scalar_type() == at::kBFloat16 ? CUDA_R_16BF : CUDA_R_16F;
    weight_layout_ = column_major(type, weight.size(1), weight.size(0));
    x_layout_ = column_major(type, x.size(1), x.size(0));
    y_layout_ = column_major(type, weight.size(0), x.size(0));
    cublasLtMatmulDesc_t operation = nullptr;
    check(lt().MatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    operation_.reset(operation);
    set(operation_, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(operation_, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue(activation));
    set(operation_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.const_data_ptr());
    set(operation_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
  }

  // What cuBLASLt proposes, by its own estimate the fastest first; nothing if it cannot. alignment: of all addresses.
  // Without those of large clusters, unless there are no others.
  std::vector<Algorithm> proposals(uint32_t alignment) const {
    cublasLtMatmulPreference_t created = nullptr;
    check(lt().MatmulPreferenceCreate(&created), "cublasLtMatmulPreferenceCreate");
    const Preference preference(created);
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const auto matrix : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(preference, matrix, alignment);
    std::array<cublasLtMatmulHeuristicResult_t, kCandidates> results{};
    int count = 0;
    const cublasStatus_t status = lt().MatmulAlgoGetHeuristic(
        handle_, operation_.get(), weight_layout_.get(), x_layout_.get(), y_layout_.get(), y_layout_.get(),
        preference.get(), kCandidates, results.data(), &count);
    if (status != CUBLAS_STATUS_SUCCESS) return {};
    std::vector<Algorithm> small, large;
    for (int i = 0; i < count; ++i) {
      if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
      auto& found = has_small_clusters(results[i].algo) ? small : large;
      found.push_back({results[i].algo, results[i].workspaceSize});
    }
    return small.empty() ? large : small;
  }

  cublasStatus_t run(const Algorithm& how, at::Tensor& y) const {
    const float alpha = 1, beta = addend_ ? 1 : 0;
    void* const to = y.mutable_data_ptr();
    // PyTorch's allocator hands it to nobody else on this stream before the product is done, in a graph neither.
    const auto workspace = at::empty({static_cast<int64_t>(how.workspace)}, y.options().dtype(at::kByte));
    return lt().Matmul(handle_, operation_.get(), &alpha, weight_, weight_layout_.get(), x_, x_layout_.get(), &beta,
                       addend_ ? addend_ : to, y_layout_.get(), to, y_layout_.get(), &how.algorithm,
                       workspace.mutable_data_ptr(), how.workspace, c10::cuda::getCurrentCUDAStream());
  }

 private:
  cublasLtHandle_t handle_;
  const void *x_, *weight_, *addend_;
  Layout x_layout_, weight_layout_, y_layout_;
  Operation operation_;
};

struct Timer {
  cudaEvent_t begin = nullptr, end = nullptr;
  Timer() {
    C10_CUDA_CHECK(cudaEventCreate(&begin));
    C10_CUDA_CHECK(cudaEventCreate(&end));
  }
  ~Timer() {
    C10_CUDA_CHECK_WARN(cudaEventDestroy(begin));
    C10_CUDA_CHECK_WARN(cudaEventDestroy(end));
  }
};

// Numbers of 16 bits in [-scale, scale) that follow no simple pattern, the same in every call.
at::Tensor made_up(at::IntArrayRef sizes, const at::TensorOptions& options, double scale) {
  auto hash = at::arange(c10::multiply_integers(sizes), options.dtype(at::kInt));
  hash.mul_(-1640531535).bitwise_xor_(at::bitwise_right_shift(hash, 15)).mul_(-2048144777);  // modulo 2^32
  return hash.bitwise_right_shift_(16).to(options).mul_(scale / (1 << 15)).view(sizes);
}

// The fastest of those that give the bits of the first one that works. Waits for the device.
Algorithm fastest(cublasLtHandle_t handle, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  Activation activation, const at::Tensor& addend, const std::vector<Algorithm>& proposals) {
  // Products of a deviation of about one, so that activations leave them as they are, or next to nothing.
  const auto own_x = made_up(x.sizes(), x.options(), 3), own_bias = at::zeros_like(bias);
  const auto own_weight = made_up(weight.sizes(), weight.options(), 1 / std::sqrt(static_cast<double>(x.size(1))));
  auto found = at::empty({x.size(0), weight.size(0)}, x.options());
  const auto own_addend = addend.defined() ? at::zeros_like(found) : addend;
  const Product product(handle, own_x, own_weight, own_bias, activation, own_addend);
  at::Tensor expected;
  const Timer timer;
  const auto stream = c10::cuda::getCurrentCUDAStream();
  size_t best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < proposals.size(); ++i) {
    if (product.run(proposals[i], found) != CUBLAS_STATUS_SUCCESS) continue;
    if (!expected.defined()) expected = found.clone();
    if (!at::equal(found.view(at::kShort), expected.view(at::kShort))) continue;
    C10_CUDA_CHECK(cudaEventRecord(timer.begin, stream));
    for (int run = 0; run < kTimedRuns; ++run) check(product.run(proposals[i], found), "cublasLtMatmul");
    C10_CUDA_CHECK(cudaEventRecord(timer.end, stream));
    C10_CUDA_CHECK(cudaEventSynchronize(timer.end));
    float elapsed = 0;
    C10_CUDA_CHECK(cudaEventElapsedTime(&elapsed, timer.begin, timer.end));
    if (elapsed < least) least = elapsed, best = i;
  }
  return proposals[best];
}

bool timing_is_wanted() {
  const char* const text = std::getenv("USG_PSG_OPS_TIME_PRODUCTS");
  return !text || std::strcmp(text, "0");
}

bool capturing() {
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

using Key = std::array<int64_t, 8>;  // device, type, M, N, K, activation, addend, alignment

struct Decision {
  std::optional<Algorithm> algorithm;  // none: cuBLASLt cannot do this
  bool timed = false;
  const void* weight = nullptr;  // of the first call
  int calls = 0;                 // with that weight
};

struct Decisions {
  std::mutex mutex;
  std::map<int, cublasLtHandle_t> handles;  // of devices
  std::map<Key, Decision> of;
};

Decisions& decisions() {
  static auto* const all = new Decisions;  // kept to the end: CUDA may be gone before static objects are
  return *all;
}

cublasLtHandle_t handle_of(int device) {
  const std::lock_guard lock(decisions().mutex);
  cublasLtHandle_t& handle = decisions().handles[device];
  if (!handle) check(lt().Create(&handle), "cublasLtCreate");
  return handle;
}

// How to compute a product, none if cuBLASLt cannot. choose: of proposals, by time.
template <typename Choose>
std::optional<Algorithm> decide(const Product& product, const Key& key, const void* weight, bool is_large,
                                const Choose& choose) {
  const std::lock_guard lock(decisions().mutex);
  const auto [place, is_new] = decisions().of.try_emplace(key);
  Decision& decision = place->second;
  if (is_new) decision.weight = weight;
  decision.calls += decision.weight == weight;
  // One that a graph was captured with is timed by a later call outside: its bits stay.
  const bool is_due = is_large && !decision.timed && decision.calls > kUntimedCalls;
  const bool timing = is_due && timing_is_wanted() && !capturing();
  if (!is_new && !timing) return decision.algorithm;
  const auto proposals = product.proposals(static_cast<uint32_t>(key.back()));
  if (!proposals.empty()) decision.algorithm = timing ? choose(proposals) : proposals[0];
  decision.timed = timing;
  return decision.algorithm;
}

// Whether cuBLASLt can do this; then y is written.
bool multiply(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Activation activation,
              const at::Tensor& addend, at::Tensor& y) {
  // If a stream is being captured, by this thread or another: what cuBLASLt sets up and timing waits for is not part of
  // it, and would end a capture of the usual, strict mode.
  const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);
  const int device = x.get_device();
  const auto handle = handle_of(device);
  const Product product(handle, x, weight, bias, activation, addend);
  uintptr_t addresses = 0;
  for (const at::Tensor& tensor : {x, weight, bias, addend, y})
    if (tensor.defined()) addresses |= reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const Key key = {device,
                   static_cast<int64_t>(x.scalar_type()),
                   x.size(0),
                   weight.size(0),
                   x.size(1),
                   static_cast<int64_t>(activation),
                   addend.defined(),
                   addresses % 256 ? 16 : 256};
  const auto choose = [&](const std::vector<Algorithm>& proposals) {
    try {
      return fastest(handle, x, weight, bias, activation, addend, proposals);
    } catch (const c10::OutOfMemoryError&) {
      return proposals[0];
    }
  };
  const auto algorithm = decide(product, key, weight.const_data_ptr(), y.numel() >= kTimedNumbers, choose);
  if (algorithm) check(product.run(*algorithm, y), "cublasLtMatmul");
  return algorithm.has_value();
}

bool can_multiply() { return lt().complete; }

}  // namespace
}  // namespace mask2former_ops
#else
namespace mask2former_ops {
namespace {

bool can_multiply() { return false; }

bool multiply(const at::Tensor&, const at::Tensor&, const at::Tensor&, Activation, const at::Tensor&, at::Tensor&) {
  return false;
}

}  // namespace
}  // namespace mask2former_ops
#endif

namespace mask2former_ops {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Activation activation,
                  const at::Tensor& addend) {
  if (x.numel() > 0 && weight.numel() > 0) {
    auto y = at::empty({x.size(0), weight.size(0)}, x.options());
    if (can_multiply() && multiply(x, weight, bias, activation, addend, y)) return y;
    TORCH_WARN_ONCE("mask2former_ops was built without cuBLASLt, or cannot use it here: PyTorch computes its products");
  }
  if (activation != Activation::kNone)
    return at::_addmm_activation(bias, x, weight.t(), 1, 1, /*use_gelu=*/activation == Activation::kGelu);
  auto y = at::addmm(bias, x, weight.t());
  return addend.defined() ? y.add_(addend) : y;
}

}  // namespace mask2former_ops

// Loops of the CPU backend. No include guard: ms_deform_attn_cpu.cpp includes this file once per instruction set,
// each time inside another namespace, so that the compiler vectorises the same loops over channels for each.

// One sample: its four pixels, the bilinear weights, and which pixels exist.
template <typename T>
struct Sample {
  bool inside;
  bool exists[4];    // top left, top right, bottom left, bottom right
  int64_t token[4];  // clamped into the level where the pixel does not exist
  T x, y;            // fractions of the way to the right and to the bottom pixel
  T weight[4];       // zero where the pixel does not exist
};

template <typename T>
inline Sample<T> locate(const Problem<T>& problem, int level, const T* location) {
  const int height = problem.sizes.levels.height[level], width = problem.sizes.levels.width[level];
  const T x = location[0] * width - T(0.5), y = location[1] * height - T(0.5);
  Sample<T> sample;
  sample.inside = x > -1 && x < width && y > -1 && y < height;  // false for NaN too
  if (!sample.inside) return sample;
  const int left = static_cast<int>(std::floor(x)), top = static_cast<int>(std::floor(y));
  sample.x = x - left;
  sample.y = y - top;
  for (int corner = 0; corner < 4; ++corner) {
    const int column = left + (corner & 1), row = top + (corner >> 1);
    sample.exists[corner] = column >= 0 && column < width && row >= 0 && row < height;
    const int64_t safe_column = std::min(std::max(column, 0), width - 1);
    const int64_t safe_row = std::min(std::max(row, 0), height - 1);
    sample.token[corner] = problem.sizes.levels.start[level] + safe_row * width + safe_column;
    const T weight = (corner & 1 ? sample.x : 1 - sample.x) * (corner >> 1 ? sample.y : 1 - sample.y);
    sample.weight[corner] = sample.exists[corner] ? weight : T(0);
  }
  return sample;
}

// Output of queries [first, last) for one image and head. kWidth is D, or 0 where only the run knows it.
template <typename T, int kWidth>
void forward_queries(const Problem<T>& problem, int64_t image, int head, int64_t first, int64_t last) {
  const Sizes& sizes = problem.sizes;
  const int width = kWidth ? kWidth : sizes.head_width;
  const int64_t stride = int64_t{sizes.heads} * width;
  const T* value = problem.value + image * sizes.tokens * stride + head * width;
  const int samples = sizes.levels.count * sizes.points;
  for (int64_t query = first; query < last; ++query) {
    const int64_t row = (image * sizes.queries + query) * sizes.heads + head;
    const T* location = problem.locations + row * samples * 2;
    const T* weight = problem.weights + row * samples;
    T sum[kWidth ? kWidth : kMaxHeadWidth] = {};
    for (int index = 0; index < samples; ++index) {
      const Sample<T> sample = locate(problem, index / sizes.points, location + 2 * index);
      if (!sample.inside) continue;
      T scale[4];
      const T* pixel[4];
      for (int corner = 0; corner < 4; ++corner) {
        scale[corner] = weight[index] * sample.weight[corner];
        pixel[corner] = value + sample.token[corner] * stride;
      }
      for (int c = 0; c < width; ++c)
        sum[c] += scale[0] * pixel[0][c] + scale[1] * pixel[1][c] + scale[2] * pixel[2][c] + scale[3] * pixel[3][c];
    }
    std::copy(sum, sum + width, problem.output + row * width);
  }
}

// Enough independent sums for the widest vectors; 32 channels are two blocks of them.
constexpr int kPartialSums = 16;

template <typename T>
inline T total(T (&partial)[kPartialSums]) {
  for (int half = kPartialSums / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) partial[lane] += partial[lane + half];
  return partial[0];
}

// All gradients of one image, head and level; no other call writes the same elements, so no atomics are needed.
template <typename T, int kWidth>
void backward_level(const Problem<T>& problem, int64_t image, int head, int level) {
  const Sizes& sizes = problem.sizes;
  const int width = kWidth ? kWidth : sizes.head_width;
  const int64_t stride = int64_t{sizes.heads} * width;
  const int64_t slice = image * sizes.tokens * stride + head * width;
  const int samples = sizes.levels.count * sizes.points;
  const T zeros[kWidth ? kWidth : kMaxHeadWidth] = {};
  for (int64_t query = 0; query < sizes.queries; ++query) {
    const int64_t row = (image * sizes.queries + query) * sizes.heads + head;
    T upstream[kWidth ? kWidth : kMaxHeadWidth];
    std::copy(problem.grad_output + row * width, problem.grad_output + (row + 1) * width, upstream);
    for (int point = 0; point < sizes.points; ++point) {
      const int64_t index = row * samples + level * sizes.points + point;
      const Sample<T> sample = locate(problem, level, problem.locations + 2 * index);
      T* grad_location = problem.grad_locations + 2 * index;
      if (!sample.inside) {
        grad_location[0] = grad_location[1] = problem.grad_weights[index] = T(0);
        continue;
      }
      const T weight = problem.weights[index], x = sample.x, y = sample.y;
      const T* pixel[4];
      for (int corner = 0; corner < 4; ++corner) {
        const int64_t offset = slice + sample.token[corner] * stride;
        pixel[corner] = sample.exists[corner] ? problem.value + offset : zeros;
        if (!sample.exists[corner]) continue;
        T* grad_pixel = problem.grad_value + offset;
        const T scale = weight * sample.weight[corner];
        for (int c = 0; c < width; ++c) grad_pixel[c] += scale * upstream[c];
      }
      // <grad_output, interpolated pixel> and its derivatives to the right and downwards, as partial sums.
      T along[kPartialSums] = {}, along_x[kPartialSums] = {}, along_y[kPartialSums] = {};
      for (int block = 0; block < width; block += kPartialSums) {
        const int lanes = kWidth ? kPartialSums : std::min(kPartialSums, width - block);
        for (int lane = 0; lane < lanes; ++lane) {
          const int c = block + lane;
          const T top = pixel[1][c] - pixel[0][c], bottom = pixel[3][c] - pixel[2][c];
          const T upper = pixel[0][c] + x * top, lower = pixel[2][c] + x * bottom;
          along[lane] += upstream[c] * (upper + y * (lower - upper));
          along_x[lane] += upstream[c] * (top + y * (bottom - top));
          along_y[lane] += upstream[c] * (lower - upper);
        }
      }
      problem.grad_weights[index] = total(along);
      grad_location[0] = weight * total(along_x) * sizes.levels.width[level];
      grad_location[1] = weight * total(along_y) * sizes.levels.height[level];
    }
  }
}

// Entry points for one instruction set.
template <typename T>
void forward(const Problem<T>& problem, int64_t image, int head, int64_t first, int64_t last) {
  if (problem.sizes.head_width == 32)
    forward_queries<T, 32>(problem, image, head, first, last);
  else
    forward_queries<T, 0>(problem, image, head, first, last);
}

template <typename T>
void backward(const Problem<T>& problem, int64_t image, int head, int level) {
  if (problem.sizes.head_width == 32)
    backward_level<T, 32>(problem, image, head, level);
  else
    backward_level<T, 0>(problem, image, head, level);
}

// The vector kernels of layer_kernels.h, included once per target by foreach_target.h.

// The sum of a[i] * b[i].
template <typename A, typename B>
STORE_ENGINE_TARGET inline float dot(const A* a, const B* b, int64_t size) {
  Floats sums[kParts] = {};
  for (int64_t i = 0; i < size; i += kLanes) {
    for (int64_t p = 0; p < kParts && i + p * kWidth < size; ++p) {
      const int64_t at = i + p * kWidth;
      sums[p] = multiply_add(load_next(a + at, size - at), load_next(b + at, size - at), sums[p]);
    }
  }
  float lanes[kLanes];
  std::memcpy(lanes, sums, sizeof(lanes));
  return fold_lanes<kLanes>(lanes, [](float x, float y) { return x + y; });
}

// out += factor * x.
template <typename T>
STORE_ENGINE_TARGET inline void add_scaled(const T* x, float factor, int64_t size, float* out) {
  const Floats factors = broadcast(factor);
  for (int64_t i = 0; i < size; i += kWidth) {
    const Floats before = load_next(out + i, size - i);
    store_next(multiply_add(factors, load_next(x + i, size - i), before), size - i, out + i);
  }
}

// out = factor * x * weight; without a weight (null), factor * x.
template <typename T, typename Out>
STORE_ENGINE_TARGET inline void scale(const T* x, const float* weight, float factor, int64_t size,
                                      Out* out) {
  const Floats factors = broadcast(factor);
  for (int64_t i = 0; i < size; i += kWidth) {
    Floats scaled = factors * load_next(x + i, size - i);
    if (weight != nullptr) scaled *= load_next(weight + i, size - i);
    store_next(scaled, size - i, out + i);
  }
}

// 1 / sqrt(mean(x^2) + eps).
template <typename T>
STORE_ENGINE_TARGET inline float inverse_rms(const T* x, float eps, int64_t size) {
  return 1.0f / std::sqrt(dot(x, x, size) / static_cast<float>(size) + eps);
}

// out = x / sqrt(mean(x^2) + eps) * weight.
template <typename T>
STORE_ENGINE_TARGET inline void rms_norm(const T* x, const float* weight, float eps, int64_t size,
                                         T* out) {
  scale(x, weight, inverse_rms(x, eps, size), size, out);
}

// One head of q or k: normed, its pairs (i, i + half) rotated by the angles, times `factor`.
template <typename T>
STORE_ENGINE_TARGET inline void read_head(const T* x, const HeadNorm& head_norm,
                                          const float* cosine, const float* sine, float factor,
                                          float* out) {
  const int64_t size = head_norm.head_dim, half = size / 2;
  const float* norm = head_norm.norm;
  if (norm != nullptr) factor *= inverse_rms(x, head_norm.norm_eps, size);
  const Floats factors = broadcast(factor);
  for (int64_t i = 0; i < half; i += kWidth) {
    const int64_t rest = half - i;
    Floats first = load_next(x + i, rest), second = load_next(x + half + i, rest);
    if (norm != nullptr) {
      first *= load_next(norm + i, rest);
      second *= load_next(norm + half + i, rest);
    }
    const Floats c = factors * load_next(cosine + i, rest);
    const Floats s = factors * load_next(sine + i, rest);
    store_next(first * c - second * s, rest, out + i);
    store_next(second * c + first * s, rest, out + half + i);
  }
}

// Rows of `size`, `stride` apart, one behind the other.
template <typename T>
STORE_ENGINE_TARGET inline void read_rows(const T* rows, int64_t stride, int64_t num_rows,
                                          int64_t size, float* out) {
  for (int64_t i = 0; i < num_rows; ++i, rows += stride, out += size) {
    scale(rows, nullptr, 1.0f, size, out);
  }
}

// kRows rows of `multiply`, kVectors vectors of each.
template <int kRows, int kVectors>
STORE_ENGINE_TARGET inline void multiply_block(const Product& p, int64_t row, int64_t lane) {
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + lane;
  float* c = p.c + row * p.num_lanes + lane;
  Floats sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = p.is_sum ? load(c + i * p.num_lanes + v * kWidth) : Floats{};
    }
  }
  for (int64_t k = 0; k < p.depth; ++k, a += p.a_column, b += p.num_lanes) {
    Floats right[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * kWidth);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Floats left = broadcast(a[i * p.a_row]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[i][v] = multiply_add(left, right[v], sums[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) store(sums[i][v], c + i * p.num_lanes + v * kWidth);
  }
}

template <int kRows, int kVectors>
STORE_ENGINE_TARGET inline void multiply_panel(const Product& p, int64_t lane) {
  int64_t row = 0;
  for (; row + kRows <= p.num_rows; row += kRows) multiply_block<kRows, kVectors>(p, row, lane);
  for (; row + 4 <= p.num_rows; row += 4) multiply_block<4, kVectors>(p, row, lane);
  for (; row < p.num_rows; ++row) multiply_block<1, kVectors>(p, row, lane);
}

// See Product. As many sums at a time as the registers hold.
STORE_ENGINE_TARGET inline void multiply(const Product& p) {
  int64_t lane = 0;
  if constexpr (kParts == 1) {
    for (; lane + 4 * kWidth <= p.num_lanes; lane += 4 * kWidth) multiply_panel<6, 4>(p, lane);
    for (; lane + 2 * kWidth <= p.num_lanes; lane += 2 * kWidth) multiply_panel<12, 2>(p, lane);
  }
  for (; lane < p.num_lanes; lane += kLanes) multiply_panel<12 / kParts, kParts>(p, lane);
}

// Turns a block of scores into weights, as one step of a softmax over several blocks; each lane is
// a row of its own. `scores` is (num_slots, num_lanes); lane i sees the first num_seen[i] slots, or
// all of them if num_seen is null. Updates each lane's maximum and sum so far; what was summed
// before must be multiplied by `correction`.
STORE_ENGINE_TARGET inline void softmax_block(float* scores, int64_t num_slots, int64_t num_lanes,
                                              const int32_t* num_seen, float* max, float* sum,
                                              float* correction) {
  for (int64_t lane = 0; lane < num_lanes; lane += kWidth) {
    Ints seen = Ints{} + static_cast<int32_t>(num_slots);
    if (num_seen != nullptr) std::memcpy(&seen, num_seen + lane, sizeof(seen));
    const Floats before = load(max + lane);
    Floats largest = before;
    float* column = scores + lane;
    for (int32_t slot = 0; slot < num_slots; ++slot) {
      Floats x = load(column + slot * num_lanes);
      if (num_seen != nullptr) x = slot < seen ? x : Floats{} - kInfinity;
      largest = x > largest ? x : largest;
    }
    Floats total = {};
    for (int32_t slot = 0; slot < num_slots; ++slot) {
      const Floats x = load(column + slot * num_lanes);
      Floats weight = x == x ? exp(x - largest) : x;  // exp does not keep every NaN
      if (num_seen != nullptr) weight = slot < seen ? weight : Floats{};
      total += weight;
      store(weight, column + slot * num_lanes);
    }
    const Floats factor = exp(before - largest);
    store(factor, correction + lane);
    store(multiply_add(load(sum + lane), factor, total), sum + lane);
    store(largest, max + lane);
  }
}

// rows[i][lane] *= factor[lane], rows (num_rows, num_lanes).
STORE_ENGINE_TARGET inline void multiply_lanes(const float* factor, int64_t num_rows,
                                               int64_t num_lanes, float* rows) {
  for (int64_t i = 0; i < num_rows; ++i, rows += num_lanes) {
    for (int64_t lane = 0; lane < num_lanes; lane += kWidth) {
      store(load(rows + lane) * load(factor + lane), rows + lane);
    }
  }
}

template <typename T>
struct Kernels<LayerKernels<T>> {
  static constexpr LayerKernels<T> table{rms_norm<T>,   read_head<T>,  read_rows<T>,
                                         dot<float, T>, add_scaled<T>, scale<float, T>,
                                         multiply,      softmax_block, multiply_lanes};
};

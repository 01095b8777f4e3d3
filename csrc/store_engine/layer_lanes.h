// The vector kernels of layer_kernels.h, for for_each_target.h.

STORE_ENGINE_TARGET inline void store(Floats lanes, float* row) {
  std::memcpy(row, &lanes, sizeof(lanes));
}

// One row of floats to bfloat16, rounded to nearest, ties to even; NaN stays NaN.
STORE_ENGINE_TARGET inline void narrow_bfloat16(const float* __restrict wide, int64_t size,
                                                uint16_t* __restrict row) {
  for (int64_t i = 0; i < size; ++i) {
    uint32_t bits;
    std::memcpy(&bits, wide + i, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    row[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
}

// The sum of a[i] * b[i].
STORE_ENGINE_TARGET inline float dot(const float* a, const float* b, int64_t size) {
  Floats sums[kParts] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t p = 0; p < kParts; ++p) {
      sums[p] = multiply_add(load(a + i + p * kWidth), load(b + i + p * kWidth), sums[p]);
    }
  }
  float lanes[kLanes];
  std::memcpy(lanes, sums, sizeof(lanes));
  float total = fold_lanes<kLanes>(lanes, [](float x, float y) { return x + y; });
  for (; i < size; ++i) total += a[i] * b[i];
  return total;
}

// y += factor * x.
STORE_ENGINE_TARGET inline void add_scaled(const float* __restrict x, float factor, int64_t size,
                                           float* __restrict y) {
  for (int64_t i = 0; i < size; ++i) y[i] += factor * x[i];
}

// out = scale * x * weight.
STORE_ENGINE_TARGET inline void scale_by(const float* __restrict x, const float* __restrict weight,
                                         float scale, int64_t size, float* __restrict out) {
  for (int64_t i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

// Rotates the pairs (i, i + half) of x by the angles of the cosines and sines, in place.
STORE_ENGINE_TARGET inline void rotate(const float* __restrict cosine, const float* __restrict sine,
                                       int64_t half, float* __restrict x) {
  float* __restrict y = x + half;
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = y[i];
    x[i] = first * cosine[i] - second * sine[i];
    y[i] = second * cosine[i] + first * sine[i];
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
      Floats weight = exp(load(column + slot * num_lanes) - largest);
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

constexpr LayerKernels kLayerKernels{widen_bfloat16, narrow_bfloat16, dot,
                                     add_scaled,     scale_by,        rotate,
                                     multiply,       softmax_block,   multiply_lanes};

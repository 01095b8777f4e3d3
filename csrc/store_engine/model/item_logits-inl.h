// The vector kernels of item_logits.h, included once per target by foreach_target.h.

// The dot products of the state and kRows rows.
template <int64_t kRows, typename T>
STORE_ENGINE_TARGET inline void dot_rows(const float* state, const T* const* rows, int64_t size,
                                         float* out) {
  Floats sums[kRows][kParts] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma GCC unroll 4
    for (int64_t p = 0; p < kParts; ++p) {
      const Floats x = load(state + i + p * kWidth);
#pragma GCC unroll 8
      for (int64_t r = 0; r < kRows; ++r) {
        sums[r][p] = multiply_add(x, load(rows[r] + i + p * kWidth), sums[r][p]);
      }
    }
  }
  for (int64_t p = 0; p < kParts && i + p * kWidth < size; ++p) {
    const int64_t at = i + p * kWidth;
    const Floats x = load_next(state + at, size - at);
    for (int64_t r = 0; r < kRows; ++r) {
      sums[r][p] = multiply_add(x, load_next(rows[r] + at, size - at), sums[r][p]);
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    float lanes[kLanes];
    std::memcpy(lanes, sums[r], sizeof(lanes));
    out[r] = fold_lanes<kLanes>(lanes, [](float x, float y) { return x + y; });
  }
}

// The dot products of the state and kDotRows rows, as many at a time as the registers hold.
template <typename T>
STORE_ENGINE_TARGET inline void dots(const float* state, const T* const* rows, int64_t size,
                                     float* out) {
  constexpr int64_t kRows = kParts == 1 ? 8 : 4;
  for (int64_t r = 0; r < kDotRows; r += kRows) dot_rows<kRows>(state, rows + r, size, out + r);
}

template <typename T>
struct Kernels<ItemLogitKernels<T>> {
  static constexpr ItemLogitKernels<T> table{dots<T>};
};

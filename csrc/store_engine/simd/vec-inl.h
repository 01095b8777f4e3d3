// What all targets have in common, included once per target by foreach_target.h: load and store of
// rows of floats, or of uint16_t that hold the bits of bfloat16, and exp.

STORE_ENGINE_TARGET inline Floats load(const float* row) {
  Floats lanes;
  std::memcpy(&lanes, row, sizeof(lanes));
  return lanes;
}

STORE_ENGINE_TARGET inline void store(Floats lanes, float* row) {
  std::memcpy(row, &lanes, sizeof(lanes));
}

// Rows of the model's dtype are floats, or uint16_t for the bits of bfloat16, the upper half of a
// float's. Storing rounds to nearest, ties to even; NaN stays NaN.
STORE_ENGINE_TARGET inline Floats load(const uint16_t* row) {
  Halves halves;
  std::memcpy(&halves, row, sizeof(halves));
  return (Floats)(__builtin_convertvector(halves, UInts) << 16);
}

STORE_ENGINE_TARGET inline void store(Floats lanes, uint16_t* row) {
  const UInts bits = (UInts)lanes;
  UInts upper = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  upper = lanes == lanes ? upper : UInts{} + 0x7fc0;
  const Halves halves = __builtin_convertvector(upper, Halves);
  std::memcpy(row, &halves, sizeof(halves));
}

// The next lanes of a row that has `size` numbers left: zeros beyond its end; and the way back.
template <typename T>
STORE_ENGINE_TARGET inline Floats load_next(const T* row, int64_t size) {
  if (size >= kWidth) return load(row);
  T lanes[kWidth] = {};
  std::memcpy(lanes, row, static_cast<size_t>(size) * sizeof(T));
  return load(lanes);
}

template <typename T>
STORE_ENGINE_TARGET inline void store_next(Floats lanes, int64_t size, T* row) {
  if (size >= kWidth) return store(lanes, row);
  T all[kWidth];
  store(lanes, all);
  std::memcpy(row, all, static_cast<size_t>(size) * sizeof(T));
}

// exp(x) for x <= 0, relative error 1e-7; below e^-69 it is that constant, lost in a sum >= 1.
// 2^f by a minimax polynomial on [-1/2, 1/2] that is exactly 1 at 0.
STORE_ENGINE_TARGET inline Floats exp(Floats x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  Floats t = x * 1.44269504f;            // log2(e)
  t = t < -100.0f ? Floats{} - 100.0f : t;
  const Floats shifted = t + kRound;
  const Floats f = t - (shifted - kRound);
  Floats power = f * 0x1.5bba14p-10f + 0x1.3cea88p-7f;
  power = power * f + 0x1.c6b752p-5f;
  power = power * f + 0x1.ebf9bcp-3f;
  power = power * f + 0x1.62e42ap-1f;
  power = power * f + 1.0f;
  // the low bits of `shifted` hold the integer n: times 2^n, by adding to the exponent
  return (Floats)((UInts)power + ((UInts)shifted << 23));
}

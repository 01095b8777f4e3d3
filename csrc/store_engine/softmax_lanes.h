// The vector kernels of softmax.h, for for_each_target.h.
//
// The order of every rounding is fixed: 16 lanes, no fused multiply-add (-ffp-contract=off), one
// reduction tree. So neither the instruction set nor the batch nor the threads change a bit.

STORE_ENGINE_TARGET inline Floats load(const float* row) {
  Floats lanes;
  std::memcpy(&lanes, row, sizeof(lanes));
  return lanes;
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

// The largest logit of the row, or NaN if one of them is NaN or +inf.
STORE_ENGINE_TARGET inline float row_max(const float* row, int64_t size) {
  Floats largest[kParts];
  Ints is_good[kParts];
  for (int64_t p = 0; p < kParts; ++p) {
    largest[p] = Floats{} - kInfinity;
    is_good[p] = Ints{} - 1;
  }
  LastGroup last(row, size);
  for (int64_t i = 0; i < size; i += kLanes) {
    const float* group = i + kLanes <= size ? row + i : last.lanes;
    for (int64_t p = 0; p < kParts; ++p) {
      const Floats x = load(group + p * kWidth);
      is_good[p] &= x < kInfinity;
      largest[p] = x > largest[p] ? x : largest[p];
    }
  }
  float lanes[kLanes];
  int32_t good[kLanes];
  std::memcpy(lanes, largest, sizeof(lanes));
  std::memcpy(good, is_good, sizeof(good));
  const bool is_all_good = fold_lanes<kLanes>(good, [](int32_t a, int32_t b) { return a & b; });
  if (!is_all_good) return std::numeric_limits<float>::quiet_NaN();
  return fold_lanes<kLanes>(lanes, [](float a, float b) { return a > b ? a : b; });
}

// log(sum(exp(row))) given the row's maximum; never below it, so no log-probability is positive.
STORE_ENGINE_TARGET inline float log_sum_exp(const float* row, int64_t size, float max) {
  if (!(max > -kInfinity)) return max;  // NaN too
  Floats sum[kParts] = {};
  LastGroup last(row, size);
  for (int64_t i = 0; i < size; i += kLanes) {
    const float* group = i + kLanes <= size ? row + i : last.lanes;
    for (int64_t p = 0; p < kParts; ++p) sum[p] += exp(load(group + p * kWidth) - max);
  }
  float lanes[kLanes];
  std::memcpy(lanes, sum, sizeof(lanes));
  const double total = fold_lanes<kLanes>(lanes, [](float a, float b) { return a + b; });
  return static_cast<float>(max + std::log(total));
}

// Bit i % 16 of is_above[i / 16] says whether score + (row[i] - lse) >= threshold.
STORE_ENGINE_TARGET inline void mark_above(const float* row, int64_t size, float score, float lse,
                                           float threshold, uint16_t* is_above) {
  LastGroup last(row, size);
  for (int64_t i = 0; i < size; i += kLanes) {
    const float* group = i + kLanes <= size ? row + i : last.lanes;
    uint32_t bits = 0;
    for (int64_t p = 0; p < kParts; ++p) {
      const Floats scores = score + (load(group + p * kWidth) - lse);
      bits |= to_bits(scores >= threshold) << (p * kWidth);
    }
    is_above[i / kLanes] = static_cast<uint16_t>(bits);
  }
}

// bfloat16 is the upper half of a float.
STORE_ENGINE_TARGET inline void widen_bfloat16(const uint16_t* row, int64_t size, float* wide) {
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
    std::memcpy(wide + i, &bits, sizeof(bits));
  }
}

constexpr SoftmaxKernels kSoftmaxKernels{kTargetName, row_max, log_sum_exp, mark_above,
                                         widen_bfloat16};

// The vector kernels of softmax.h, included once per target by foreach_target.h.
//
// The order of every rounding is fixed: 16 lanes, no fused multiply-add (-ffp-contract=off), one
// reduction tree. So neither the instruction set nor the batch nor the threads change a bit.

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

// row[codes[i]] in lane i, put together in a register: written to memory first, one by one, they
// could not be loaded together until all the writes are done.
template <typename Code, size_t... i>
STORE_ENGINE_TARGET inline Floats gather(const float* row, const Code* codes,
                                         std::index_sequence<i...>) {
  return Floats{row[codes[i]]...};
}

// Which of up to 64 codes, which ascend, score high enough: bit i says whether
// score + (row[codes[i]] - lse) >= threshold.
template <typename Code>
STORE_ENGINE_TARGET inline uint64_t codes_above(const float* row, const Code* codes, int64_t size,
                                                float score, float lse, float threshold) {
  uint64_t is_above = 0;
  if (size < kLanes) {
    for (int64_t i = 0; i < size; ++i) {
      is_above |= uint64_t{score + (row[codes[i]] - lse) >= threshold} << i;
    }
    return is_above;
  }
  const int64_t span = codes[size - 1] - codes[0] + 1;
  if (size < span && span <= size + size / 4) {  // few are missing: is there any in all of them?
    Ints any = {};
    for (int64_t next = 0; next < span; next += kLanes) {
      const float* group = row + codes[0] + std::min(next, span - kLanes);
      for (int64_t p = 0; p < kParts; ++p) {
        any |= score + (load(group + p * kWidth) - lse) >= threshold;
      }
    }
    if (to_bits(any) == 0) return 0;
  }
  for (int64_t next = 0; next < size; next += kLanes) {
    const int64_t begin = std::min(next, size - kLanes);  // the last two groups may overlap
    const Code* group = codes + begin;
    const bool is_run = group[kLanes - 1] - group[0] == kLanes - 1;
    for (int64_t p = 0; p < kParts; ++p) {
      const Floats logits =
          is_run ? load(row + group[p * kWidth])
                 : gather(row, group + p * kWidth, std::make_index_sequence<kWidth>());
      const uint64_t bits = to_bits(score + (logits - lse) >= threshold);
      is_above |= bits << (begin + p * kWidth);
    }
  }
  return is_above;
}

// bfloat16 is the upper half of a float.
STORE_ENGINE_TARGET inline void widen_bfloat16(const uint16_t* row, int64_t size, float* wide) {
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
    std::memcpy(wide + i, &bits, sizeof(bits));
  }
}

template <>
struct Kernels<SoftmaxKernels> {
  static constexpr SoftmaxKernels table{row_max, log_sum_exp, widen_bfloat16, codes_above<uint8_t>,
                                        codes_above<uint16_t>};
};

// Log-softmax of one row of logits, vectorised, the instruction set chosen at run time.
//
// Results are bit for bit the same on every machine: see softmax_lanes.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "store_engine/lanes.h"

namespace store_engine {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The last, partial group of a row, filled up with -inf: that adds nothing to a maximum or a sum.
struct LastGroup {
  LastGroup(const float* row, int64_t size) {
    const int64_t rest = size % kLanes;
    if (rest == 0) return;  // it is not looked at
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < rest ? row[size - rest + i] : -kInfinity;
  }
  float lanes[kLanes];
};

// Folds lanes in halves, always in the same order.
template <int64_t kSize, typename T, typename Fold>
__attribute__((always_inline)) inline T fold_lanes(const T* lanes, const Fold& fold) {
  if constexpr (kSize == 1) {
    return lanes[0];
  } else {
    T half[kSize / 2];
    for (int64_t i = 0; i < kSize / 2; ++i) half[i] = fold(lanes[i], lanes[i + kSize / 2]);
    return fold_lanes<kSize / 2>(half, fold);
  }
}

// The kernels of one instruction set; softmax_lanes.h says what each computes.
struct SoftmaxKernels {
  const char* target;
  float (*row_max)(const float* row, int64_t size);
  float (*log_sum_exp)(const float* row, int64_t size, float max);
  void (*widen_bfloat16)(const uint16_t* row, int64_t size, float* wide);
  template <typename Code>
  using CodesAbove = uint64_t (*)(const float* row, const Code* codes, int64_t size, float score,
                                  float lse, float threshold);
  CodesAbove<uint8_t> narrow_above;
  CodesAbove<uint16_t> wide_above;

  CodesAbove<uint8_t> above(const uint8_t*) const { return narrow_above; }
  CodesAbove<uint16_t> above(const uint16_t*) const { return wide_above; }
};

#define STORE_ENGINE_KERNELS "store_engine/softmax_lanes.h"
#include "store_engine/for_each_target.h"

// The kernels that may be used here, fastest first.
inline std::vector<SoftmaxKernels> softmax_kernels() {
  std::vector<SoftmaxKernels> kernels;
#ifdef __x86_64__
  if (simd() >= Simd::kAvx512) kernels.push_back(avx512::kSoftmaxKernels);
  if (simd() >= Simd::kAvx2) kernels.push_back(avx2::kSoftmaxKernels);
#endif
  kernels.push_back(baseline::kSoftmaxKernels);
  return kernels;
}

}  // namespace store_engine

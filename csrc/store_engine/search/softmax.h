// Log-softmax of one row of logits, in vector instructions.
//
// Results are the same bits on every machine: softmax-inl.h says why.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "store_engine/simd/vec.h"

namespace store_engine {

// The last, partial group of a row, filled up with -inf: that adds nothing to a maximum or a sum.
struct LastGroup {
  LastGroup(const float* row, int64_t size) {
    const int64_t rest = size % kLanes;
    if (rest == 0) return;  // it is not looked at
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < rest ? row[size - rest + i] : -kInfinity;
  }
  float lanes[kLanes];
};

// The kernels of one target; softmax-inl.h says what each computes.
struct SoftmaxKernels {
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

}  // namespace store_engine

namespace store_engine::simd {
#define STORE_ENGINE_KERNELS "store_engine/search/softmax-inl.h"
#include "store_engine/simd/foreach_target.h"
}  // namespace store_engine::simd

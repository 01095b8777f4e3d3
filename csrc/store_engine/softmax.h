// Log-softmax of one row of logits, vectorised, the instruction set chosen at run time.
//
// Results are bit for bit the same on every machine: see softmax_lanes.h.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "store_engine/dispatch.h"

namespace store_engine {

constexpr int64_t kLanes = 16;
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
  void (*mark_above)(const float* row, int64_t size, float score, float lse, float threshold,
                     uint16_t* is_above);
  void (*widen_bfloat16)(const uint16_t* row, int64_t size, float* wide);
};

// The vectors of a target that holds `width` lanes in a register. GCC and Clang: operators work
// lane by lane, a comparison yields 0 or -1.
#define STORE_ENGINE_LANES(width)                               \
  constexpr int64_t kWidth = width;                             \
  typedef float Floats __attribute__((vector_size(4 * width))); \
  typedef int32_t Ints __attribute__((vector_size(4 * width))); \
  typedef uint32_t UInts __attribute__((vector_size(4 * width)))

// to_bits: bit i of the result says whether lane i is true.

#define STORE_ENGINE_TARGET
namespace baseline {
STORE_ENGINE_LANES(4);
inline uint32_t to_bits(Ints is_true) {
#ifdef __x86_64__
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)is_true));
#else
  is_true &= Ints{1, 2, 4, 8};
  return static_cast<uint32_t>(is_true[0] | is_true[1] | is_true[2] | is_true[3]);
#endif
}
#include "store_engine/softmax_lanes.h"
constexpr SoftmaxKernels kKernels{"baseline", row_max, log_sum_exp, mark_above, widen_bfloat16};
}  // namespace baseline
#undef STORE_ENGINE_TARGET

#ifdef __x86_64__
#define STORE_ENGINE_TARGET __attribute__((target("avx2")))
namespace avx2 {
STORE_ENGINE_LANES(8);
STORE_ENGINE_TARGET inline uint32_t to_bits(Ints is_true) {
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)is_true));
}
#include "store_engine/softmax_lanes.h"
constexpr SoftmaxKernels kKernels{"avx2", row_max, log_sum_exp, mark_above, widen_bfloat16};
}  // namespace avx2
#undef STORE_ENGINE_TARGET

#define STORE_ENGINE_TARGET __attribute__((target("avx512f,avx512dq")))
namespace avx512 {
STORE_ENGINE_LANES(16);
STORE_ENGINE_TARGET inline uint32_t to_bits(Ints is_true) {
  return _mm512_movepi32_mask((__m512i)is_true);
}
#include "store_engine/softmax_lanes.h"
constexpr SoftmaxKernels kKernels{"avx512", row_max, log_sum_exp, mark_above, widen_bfloat16};
}  // namespace avx512
#undef STORE_ENGINE_TARGET
#endif  // __x86_64__

// The kernels that may be used here, fastest first.
inline std::vector<SoftmaxKernels> softmax_kernels() {
  std::vector<SoftmaxKernels> kernels;
#ifdef __x86_64__
  if (simd() >= Simd::kAvx512) kernels.push_back(avx512::kKernels);
  if (simd() >= Simd::kAvx2) kernels.push_back(avx2::kKernels);
#endif
  kernels.push_back(baseline::kKernels);
  return kernels;
}

}  // namespace store_engine

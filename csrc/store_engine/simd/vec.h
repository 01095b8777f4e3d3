// The vectors of each target, in the target's namespace: what NAME-inl.h files are written in.
//
// Floats, Ints and UInts hold kWidth lanes of one register, Halves as many of 16 bits. GCC and
// Clang: operators work lane by lane, a comparison yields 0 or -1. to_bits: bit i of the result
// says whether lane i is true. multiply_add(a, b, c): a * b + c, rounded once where the instruction
// set can. vec-inl.h has what is the same for all targets: load, store and exp.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "store_engine/simd/dispatch.h"

namespace store_engine {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows are worked on in groups of as many lanes as the widest register has, on every target.
constexpr int64_t kLanes = 16;

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

}  // namespace store_engine

namespace store_engine::simd {

#define STORE_ENGINE_LANES(width)                                 \
  constexpr int64_t kWidth = width;                               \
  constexpr int64_t kParts = kLanes / kWidth;                     \
  typedef float Floats __attribute__((vector_size(4 * width)));   \
  typedef int32_t Ints __attribute__((vector_size(4 * width)));   \
  typedef uint32_t UInts __attribute__((vector_size(4 * width))); \
  typedef uint16_t Halves __attribute__((vector_size(2 * width)))

namespace baseline {
STORE_ENGINE_LANES(4);
inline Floats broadcast(float x) { return Floats{x, x, x, x}; }
#ifdef __x86_64__
inline uint32_t to_bits(Ints is_true) {
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)is_true));
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
#else
inline uint32_t to_bits(Ints is_true) {
  is_true &= Ints{1, 2, 4, 8};
  return static_cast<uint32_t>(is_true[0] | is_true[1] | is_true[2] | is_true[3]);
}
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#ifdef __ARM_NEON
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
#endif
}  // namespace baseline

#ifdef __x86_64__
namespace avx2 {
STORE_ENGINE_LANES(8);
__attribute__((target("avx2,fma"))) inline Floats broadcast(float x) {
  return (Floats)_mm256_set1_ps(x);
}
__attribute__((target("avx2,fma"))) inline uint32_t to_bits(Ints is_true) {
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)is_true));
}
__attribute__((target("avx2,fma"))) inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
}  // namespace avx2

namespace avx512 {
STORE_ENGINE_LANES(16);
__attribute__((target("avx512f,avx512dq"))) inline Floats broadcast(float x) {
  return (Floats)_mm512_set1_ps(x);
}
__attribute__((target("avx512f,avx512dq"))) inline uint32_t to_bits(Ints is_true) {
  return _mm512_movepi32_mask((__m512i)is_true);
}
__attribute__((target("avx512f,avx512dq"))) inline Floats multiply_add(Floats a, Floats b,
                                                                       Floats c) {
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
}  // namespace avx512
#endif  // __x86_64__

#define STORE_ENGINE_KERNELS "store_engine/simd/vec-inl.h"
#include "store_engine/simd/foreach_target.h"

}  // namespace store_engine::simd

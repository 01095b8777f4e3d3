// Finds the n-th set bit of a bit vector, the step that trie/child_index.h spends most time in.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <cstdint>

#include "store_engine/simd/dispatch.h"

namespace store_engine {

struct BitKernels {
  // The `skip`-th set bit, counting from 0, at or after `position`; there must be one.
  int64_t (*select_bit)(const uint64_t* words, int64_t position, int64_t skip);
};

}  // namespace store_engine

namespace store_engine::simd {

namespace baseline {
inline int64_t select_bit(const uint64_t* words, int64_t position, int64_t skip) {
  constexpr uint64_t kOnes = 0x0101010101010101;
  int64_t word = position / 64;
  uint64_t bits = words[word] >> (position % 64) << (position % 64);
  for (;; bits = words[++word]) {
    // byte i of `sums` is the number of bits set in bytes 0..i
    uint64_t sums = bits - ((bits >> 1) & 0x55 * kOnes);
    sums = (sums & 0x33 * kOnes) + ((sums >> 2) & 0x33 * kOnes);
    sums = ((sums + (sums >> 4)) & 0x0f * kOnes) * kOnes;
    const auto count = static_cast<int64_t>(sums >> 56);
    if (count > skip) {
      int64_t shift = 0;
      while (static_cast<int64_t>(sums >> shift & 0xff) <= skip) shift += 8;
      if (shift > 0) skip -= static_cast<int64_t>(sums >> (shift - 8) & 0xff);
      bits = bits >> shift << shift;
      for (; skip > 0; --skip) bits &= bits - 1;
      return word * 64 + __builtin_ctzll(bits);
    }
    skip -= count;
  }
}

template <>
struct Kernels<BitKernels> {
  static constexpr BitKernels table{select_bit};
};
}  // namespace baseline

#ifdef __x86_64__
namespace avx2 {
__attribute__((target("popcnt,bmi2"))) inline int64_t select_bit(const uint64_t* words,
                                                                 int64_t position, int64_t skip) {
  int64_t word = position / 64;
  uint64_t bits = words[word] >> (position % 64) << (position % 64);
  for (int64_t count; (count = __builtin_popcountll(bits)) <= skip; bits = words[++word]) {
    skip -= count;
  }
  return word * 64 + __builtin_ctzll(_pdep_u64(uint64_t{1} << skip, bits));
}

template <>
struct Kernels<BitKernels> {
  static constexpr BitKernels table{select_bit};
};
}  // namespace avx2

namespace avx512 {
template <>
struct Kernels<BitKernels> : avx2::Kernels<BitKernels> {};  // AVX-512 has nothing better
}  // namespace avx512
#endif  // __x86_64__

}  // namespace store_engine::simd

// Bits of 64-bit words, and ranges of numbers.
#pragma once

#include <cstdint>

namespace store_engine {

// A half-open range of node ids or of positions.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The lowest `count` bits, 1 to 64 of them.
inline uint64_t low_bits(int64_t count) { return ~uint64_t{0} >> (64 - count); }

// Bit i says whether first + i is in the range, which overlaps the 64 numbers from `first` on.
inline uint64_t bits_within(int64_t first, Range range) {
  uint64_t bits = ~uint64_t{0};
  if (first < range.begin) bits <<= range.begin - first;
  if (range.end - first < 64) bits &= low_bits(range.end - first);
  return bits;
}

// Calls use(first + i) for each bit i that is set, ascending.
template <typename Use>
__attribute__((always_inline)) inline void for_each_set_bit(int64_t first, uint64_t bits,
                                                            const Use& use) {
  for (; bits != 0; bits &= bits - 1) use(first + __builtin_ctzll(bits));
}

// Returns the first set bit at or after `position`; there must be one.
inline int64_t next_bit(const uint64_t* words, int64_t position) {
  int64_t word = position / 64;
  uint64_t bits = words[word] >> (position % 64) << (position % 64);
  while (bits == 0) bits = words[++word];
  return word * 64 + __builtin_ctzll(bits);
}

}  // namespace store_engine

// A bitmap of a fixed size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "store_engine/base/bits.h"

namespace store_engine {

class Bitmap {
 public:
  Bitmap() = default;
  explicit Bitmap(int64_t size) : size_(size), words_(size / 64 + 1) {}

  int64_t size() const { return size_; }
  bool operator[](int64_t i) const { return words_[i / 64] >> (i % 64) & 1; }
  void set(int64_t i) { words_[i / 64] |= uint64_t{1} << (i % 64); }
  void clear(int64_t i) { words_[i / 64] &= ~(uint64_t{1} << (i % 64)); }

  // Bits 64 * i to 64 * i + 63; those past the end are 0.
  const uint64_t* words() const { return words_.data(); }
  // Returns the bits of word i that are in the range, which overlaps the word.
  uint64_t bits_of(int64_t i, Range range) const { return words_[i] & bits_within(i * 64, range); }
  size_t nbytes() const { return words_.size() * sizeof(uint64_t); }

  // Returns whether a bit of the range is set; the range is not empty.
  bool any(Range range) const {
    const int64_t first = range.begin / 64, last = (range.end - 1) / 64;
    const uint64_t head = ~uint64_t{0} << (range.begin % 64);
    const uint64_t tail = ~uint64_t{0} >> (63 - (range.end - 1) % 64);
    if (first == last) return (words_[first] & head & tail) != 0;
    uint64_t found = (words_[first] & head) | (words_[last] & tail);
    for (int64_t i = first + 1; i < last && found == 0; ++i) found = words_[i];
    return found != 0;
  }
  // Returns the first bit of the range that is set, or the end of the range.
  int64_t first(Range range) const {
    for (int64_t word = range.begin / 64; word * 64 < range.end; ++word) {
      const uint64_t bits = bits_of(word, range);
      if (bits != 0) return word * 64 + __builtin_ctzll(bits);
    }
    return range.end;
  }
  // Returns the number of bits of the range that are set.
  int64_t count(Range range) const {
    int64_t count = 0;
    for (int64_t word = range.begin / 64; word * 64 < range.end; ++word) {
      count += __builtin_popcountll(bits_of(word, range));
    }
    return count;
  }
  int64_t count() const {
    int64_t count = 0;
    for (const uint64_t word : words_) count += __builtin_popcountll(word);
    return count;
  }
  // Calls use(i) for each bit of the range that is set, ascending.
  template <typename Use>
  void for_each(Range range, const Use& use) const {
    for (int64_t word = range.begin / 64; word * 64 < range.end; ++word) {
      for_each_set_bit(word * 64, bits_of(word, range), use);
    }
  }

  // These work bit by bit; both bitmaps have the same size.
  Bitmap operator&(const Bitmap& other) const {
    Bitmap result = *this;
    for (size_t i = 0; i < words_.size(); ++i) result.words_[i] &= other.words_[i];
    return result;
  }
  Bitmap operator|(const Bitmap& other) const {
    Bitmap result = *this;
    for (size_t i = 0; i < words_.size(); ++i) result.words_[i] |= other.words_[i];
    return result;
  }
  Bitmap operator~() const {
    Bitmap result = *this;
    for (uint64_t& word : result.words_) word = ~word;
    result.words_.back() &= ~(~uint64_t{0} << (size_ % 64));
    return result;
  }

 private:
  int64_t size_ = 0;
  std::vector<uint64_t> words_ = std::vector<uint64_t>(1);
};

}  // namespace store_engine

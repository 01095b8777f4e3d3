// Random inputs for the C++ tests, and how many of them.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

// How often a random test is repeated: the environment's ROUNDS, else `usual`.
inline int64_t rounds(int64_t usual) {
  const char* asked = std::getenv("ROUNDS");
  return asked == nullptr ? usual : std::stoll(asked);
}

// Of a file that this process alone writes.
inline std::string temporary_path() {
  return std::filesystem::temp_directory_path() / ("store_engine-" + std::to_string(::getpid()));
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // In [low, high].
  int64_t number(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[number(0, static_cast<int64_t>(values.size()) - 1)];
  }
  std::vector<int64_t> codebook_sizes() {
    std::vector<int64_t> sizes(static_cast<size_t>(one_of({1, 2, 3, 4, 16})));
    for (int64_t& size : sizes) size = one_of({1, 2, 3, 17, 256, 300});
    return sizes;
  }
  // (num_items, codebook_sizes.size()), few different ones where the codebooks are large.
  std::vector<int32_t> sids(int64_t num_items, const std::vector<int64_t>& codebook_sizes) {
    const int64_t spread = one_of({2, 9, 1000});
    std::vector<int32_t> sids;
    for (int64_t i = 0; i < num_items; ++i) {
      for (const int64_t size : codebook_sizes) {
        sids.push_back(static_cast<int32_t>(number(0, std::min(size, spread) - 1)));
      }
    }
    return sids;
  }
  std::vector<float> logits(int64_t size) {
    std::normal_distribution<float> normal(0, 2);
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = normal(engine_);
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

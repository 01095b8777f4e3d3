// Inputs of the core's attention, at random, in buffers of just their size: an address sanitizer
// sees each step beyond one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "inputs.h"
#include "store_engine/model/cached_attention.h"

// What the model's dtype stands for, and the way back: bfloat16 cuts the lower half off.
inline double to_double(float x) { return x; }
inline double to_double(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, sizeof(x));
  return x;
}

template <typename T>
std::vector<T> to_dtype(const std::vector<float>& values) {
  if constexpr (std::is_same_v<T, float>) {
    return values;
  } else {
    std::vector<T> bits(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      uint32_t wide;
      std::memcpy(&wide, &values[i], sizeof(wide));
      bits[i] = static_cast<T>(wide >> 16);
    }
    return bits;
  }
}

// Of histories: sizes[i] new tokens behind num_known[i] others.
inline store_engine::TokenBlock history_block(const std::vector<int64_t>& sizes,
                                              const std::vector<int64_t>& num_known) {
  store_engine::TokenBlock block;
  block.begins.resize(sizes.size() + 1);
  std::partial_sum(sizes.begin(), sizes.end(), block.begins.begin() + 1);
  block.first_slots = block.num_context = num_known;
  return block;
}

// Of beam trees, each `width` wide and `depth` deep from slot `first` on, level by level: the last
// levels' beams, each of which follows one of the level before at random.
inline store_engine::TokenBlock beam_block(Random& random, const std::vector<int64_t>& num_context,
                                           int64_t first, int64_t width, int64_t depth) {
  const std::vector<int64_t> sizes(num_context.size(), width);
  const std::vector<int64_t> first_slots(sizes.size(), first + (depth - 1) * width);
  store_engine::TokenBlock block = history_block(sizes, first_slots);
  block.num_context = num_context;
  block.depth = depth;
  block.ancestors.resize(static_cast<size_t>(block.num_tokens() * depth));
  for (int64_t token = 0; token < block.num_tokens(); ++token) {
    for (int64_t level = 0; level < depth; ++level) {
      const bool is_itself = level == depth - 1;
      const int64_t beam = is_itself ? token % width : random.number(0, width - 1);
      block.ancestors[token * depth + level] = first + level * width + beam;
    }
  }
  return block;
}

// One layer and its part of the cache. T: float, or uint16_t for the bits of bfloat16.
template <typename T>
struct AttentionInputs {
  AttentionInputs(Random& random, const store_engine::AttentionShape& shape,
                  const store_engine::TokenBlock& block, bool has_norms)
      : shape(shape), block(block) {
    const int64_t num_tokens = block.num_tokens(), head_dim = shape.head_dim;
    const int64_t cache_size = block.batch() * shape.num_slots * shape.num_kv_heads * head_dim;
    qkv = numbers(random, num_tokens * (shape.num_heads + 2 * shape.num_kv_heads) * head_dim);
    keys = numbers(random, cache_size);
    values = numbers(random, cache_size);
    cosine = random.logits(num_tokens * head_dim / 2);  // of angles
    sine.resize(cosine.size());
    for (size_t i = 0; i < sine.size(); ++i) {
      sine[i] = std::sin(cosine[i]);
      cosine[i] = std::cos(cosine[i]);
    }
    if (has_norms) {
      q_norm = random.logits(head_dim);
      k_norm = random.logits(head_dim);
    }
    out.resize(static_cast<size_t>(num_tokens * shape.num_heads * head_dim));
  }
  void ask_for_last_only() {
    is_last_only = true;
    out = std::vector<T>(static_cast<size_t>(block.batch() * shape.num_heads * shape.head_dim));
  }
  void attend(int64_t num_threads) {
    const auto weights = [](const std::vector<float>& norm) {
      return norm.empty() ? nullptr : norm.data();
    };
    const store_engine::AttentionLayer<T> layer{
        qkv.data(),      keys.data(),     values.data(), cosine.data(), sine.data(),
        weights(q_norm), weights(k_norm), norm_eps,      is_last_only,  out.data()};
    store_engine::attend(shape, block, layer, num_threads);
  }

  store_engine::AttentionShape shape;
  store_engine::TokenBlock block;
  std::vector<T> qkv, keys, values, out;  // as AttentionLayer has them
  std::vector<float> cosine, sine;
  std::vector<float> q_norm, k_norm;  // empty: none
  const float norm_eps = 1e-5f;
  bool is_last_only = false;

 private:
  // With a deviation of 1: scores of a few units, as a model's.
  static std::vector<T> numbers(Random& random, int64_t size) {
    std::vector<float> values = random.logits(size);
    for (float& value : values) value *= 0.5f;
    return to_dtype<T>(values);
  }
};

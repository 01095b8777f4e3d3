// The core's attention and norm against plain loops in double, on random shapes, histories and beam
// trees: for sanitizers, which see what Python tests cannot. ROUNDS=2000 test_attention for more of
// them (default 50).
#include <doctest/doctest.h>

#include <future>
#include <limits>
#include <numeric>

#include "attention.h"
#include "each_round.h"
#include "inputs.h"

using namespace store_engine;

namespace {

using Doubles = std::vector<double>;

// Of float32 sums of some hundred terms of about 1; then the result is rounded to T.
template <typename T>
bool is_close(T got, double want) {
  const double rounding = std::is_same_v<T, float> ? 1e-5 : 0x1p-8;
  return std::abs(to_double(got) - want) <= 1e-5 + rounding * std::abs(want);
}

// One head of q or k: normed and rotated, as HeadTransform says.
template <typename T>
Doubles turned(const AttentionInputs<T>& in, int64_t token, int64_t head,
               const std::vector<float>& norm) {
  const int64_t head_dim = in.shape.head_dim, half = head_dim / 2;
  const int64_t heads = in.shape.num_heads + 2 * in.shape.num_kv_heads;
  Doubles x;
  for (int64_t d = 0; d < head_dim; ++d) {
    x.push_back(to_double(in.qkv[(token * heads + head) * head_dim + d]));
  }
  if (!norm.empty()) {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / head_dim;
    for (int64_t d = 0; d < head_dim; ++d) x[d] *= norm[d] / std::sqrt(mean + in.norm_eps);
  }
  for (int64_t d = 0; d < half; ++d) {
    const double first = x[d], second = x[half + d];
    const double cosine = in.cosine[token * half + d], sine = in.sine[token * half + d];
    x[d] = first * cosine - second * sine;
    x[half + d] = second * cosine + first * sine;
  }
  return x;
}

// Where a head of a slot begins in the keys or values.
template <typename T>
int64_t cache_at(const AttentionInputs<T>& in, int64_t request, int64_t slot, int64_t kv_head) {
  const AttentionShape& shape = in.shape;
  return ((request * shape.num_slots + slot) * shape.num_kv_heads + kv_head) * shape.head_dim;
}

// The slots that the n-th token of a request sees.
std::vector<int64_t> seen_by(const TokenBlock& block, int64_t request, int64_t nth) {
  const int64_t token = block.begins[request] + nth;
  const int64_t num_before = block.num_context[request] + (block.depth == 0 ? nth + 1 : 0);
  std::vector<int64_t> slots(static_cast<size_t>(num_before));
  std::iota(slots.begin(), slots.end(), 0);
  const auto ancestors = block.ancestors.begin() + token * block.depth;
  slots.insert(slots.end(), ancestors, ancestors + block.depth);
  return slots;
}

// The definition, for one query head of one token, from the cache as it is.
template <typename T>
Doubles attended(const AttentionInputs<T>& in, int64_t request, int64_t nth, int64_t head) {
  const int64_t head_dim = in.shape.head_dim;
  const int64_t kv_head = head / (in.shape.num_heads / in.shape.num_kv_heads);
  const Doubles query = turned(in, in.block.begins[request] + nth, head, in.q_norm);
  const std::vector<int64_t> seen = seen_by(in.block, request, nth);
  Doubles weights;
  for (const int64_t slot : seen) {
    const int64_t at = cache_at(in, request, slot, kv_head);
    double score = 0;
    for (int64_t d = 0; d < head_dim; ++d) score += query[d] * to_double(in.keys[at + d]);
    weights.push_back(score / std::sqrt(head_dim));
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  for (double& weight : weights) weight = std::exp(weight - largest);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  Doubles result(static_cast<size_t>(head_dim));
  for (size_t i = 0; i < seen.size(); ++i) {
    const int64_t at = cache_at(in, request, seen[i], kv_head);
    for (int64_t d = 0; d < head_dim; ++d) {
      result[d] += weights[i] / total * to_double(in.values[at + d]);
    }
  }
  return result;
}

// Attends on a thread of its own, whose scratch memory is new and of just the size.
template <typename T>
void attend_afresh(AttentionInputs<T>& in, int64_t num_threads) {
  std::async(std::launch::async, [&] { in.attend(num_threads); }).get();
}

// The new tokens' keys and values are in the cache, which is else as it was.
template <typename T>
void check_cache(const AttentionInputs<T>& in, std::vector<T> keys, std::vector<T> values) {
  const int64_t head_dim = in.shape.head_dim, num_kv_heads = in.shape.num_kv_heads;
  for (int64_t request = 0; request < in.block.batch(); ++request) {
    const int64_t begin = in.block.begins[request], end = in.block.begins[request + 1];
    for (int64_t token = begin; token < end; ++token) {
      const int64_t slot = in.block.first_slots[request] + token - begin;
      for (int64_t kv_head = 0; kv_head < num_kv_heads; ++kv_head) {
        const int64_t head = in.shape.num_heads + kv_head;
        const int64_t at = cache_at(in, request, slot, kv_head);
        const Doubles key = turned(in, token, head, in.k_norm);
        const int64_t heads = in.shape.num_heads + 2 * num_kv_heads;
        const T* value = in.qkv.data() + (token * heads + head + num_kv_heads) * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) {
          if (!is_close(in.keys[at + d], key[d])) FAIL("key of token ", token, " at ", d);
          keys[at + d] = in.keys[at + d];
          values[at + d] = value[d];
        }
      }
    }
  }
  REQUIRE(in.keys == keys);
  REQUIRE(in.values == values);
}

template <typename T>
void check_results(const AttentionInputs<T>& in) {
  const T* got = in.out.data();
  for (int64_t request = 0; request < in.block.batch(); ++request) {
    const int64_t num_tokens = in.block.begins[request + 1] - in.block.begins[request];
    for (int64_t nth = in.is_last_only ? num_tokens - 1 : 0; nth < num_tokens; ++nth) {
      for (int64_t head = 0; head < in.shape.num_heads; ++head) {
        for (const double want : attended(in, request, nth, head)) {
          if (!is_close(*got, want)) {
            FAIL("request ", request, " token ", nth, " head ", head, ": ", to_double(*got),
                 " is not ", want);
          }
          ++got;
        }
      }
    }
  }
  REQUIRE(got == in.out.data() + in.out.size());
}

// Fills what no token sees with the largest number there is.
template <typename T>
void poison_unseen(AttentionInputs<T>& in) {
  const T poison = to_dtype<T>({std::numeric_limits<float>::max()})[0];
  const int64_t slot_size = in.shape.num_kv_heads * in.shape.head_dim;
  for (int64_t request = 0; request < in.block.batch(); ++request) {
    std::vector<bool> is_seen(static_cast<size_t>(in.shape.num_slots));
    const int64_t num_tokens = in.block.begins[request + 1] - in.block.begins[request];
    for (int64_t nth = 0; nth < num_tokens; ++nth) {
      for (const int64_t slot : seen_by(in.block, request, nth)) is_seen[slot] = true;
    }
    for (int64_t slot = 0; slot < in.shape.num_slots; ++slot) {
      if (is_seen[slot]) continue;
      const int64_t at = cache_at(in, request, slot, 0);
      std::fill_n(in.keys.begin() + at, slot_size, poison);
      std::fill_n(in.values.begin() + at, slot_size, poison);
    }
  }
}

AttentionShape random_shape(Random& random) {
  const int64_t num_kv_heads = random.number(1, 3);
  const int64_t group = random.one_of({1, 1, 2, 3, 7});
  const int64_t head_dim = random.one_of({2, 8, 20, 32, 64, 130});
  return {group * num_kv_heads, num_kv_heads, head_dim, 0};
}

// Counts around the edges of registers (16 lanes), blocks of slots (48) and tiles of queries (64).
int64_t random_count(Random& random) {
  return random.one_of<int64_t>({1, 2, 15, 16, 17, 47, 48, 49, 63, 64, 65});
}

TokenBlock random_histories(Random& random) {
  std::vector<int64_t> sizes(static_cast<size_t>(random.number(1, 3))), num_known(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    sizes[i] = random_count(random);
    num_known[i] = random.number(0, 1) * random_count(random);
  }
  return history_block(sizes, num_known);
}

TokenBlock random_beams(Random& random) {
  std::vector<int64_t> num_context(static_cast<size_t>(random.number(1, 3)));
  for (int64_t& size : num_context) size = random_count(random);
  const int64_t first = *std::max_element(num_context.begin(), num_context.end());
  const int64_t width = random.one_of<int64_t>({1, 5, 16, 22, 64, 65});
  const int64_t depth = width <= 5 ? random.one_of({1, 16}) : random.number(1, 4);
  return beam_block(random, num_context, first + random.number(0, 2), width, depth);
}

// With the slots that its tokens need, or a few more.
template <typename T>
AttentionInputs<T> random_inputs(Random& random, const TokenBlock& block) {
  AttentionShape shape = random_shape(random);
  for (int64_t request = 0; request < block.batch(); ++request) {
    const int64_t num_tokens = block.begins[request + 1] - block.begins[request];
    shape.num_slots = std::max(shape.num_slots, block.first_slots[request] + num_tokens);
  }
  shape.num_slots += random.number(0, 1) * random.number(1, 60);
  return {random, shape, block, random.number(0, 2) == 0};
}

template <typename T>
void check_attention(Random& random, const TokenBlock& block) {
  AttentionInputs<T> in = random_inputs<T>(random, block);
  if (random.number(0, 3) == 0) in.ask_for_last_only();
  poison_unseen(in);
  const std::vector<T> keys = in.keys, values = in.values;
  attend_afresh(in, random.number(1, 4));
  check_cache(in, keys, values);
  check_results(in);
}

template <typename T>
void check_norm(Random& random) {
  const int64_t num_rows = random.one_of({0, 1, 2, 7});
  const int64_t size = random.one_of({1, 2, 15, 16, 17, 63, 64, 65, 576, 1000});
  const float eps = random.one_of({1e-6f, 1e-2f});
  const std::vector<T> x = to_dtype<T>(random.logits(num_rows * size));
  const std::vector<float> weight = random.logits(size);
  std::vector<T> out(x.size());
  rms_norm(x.data(), weight.data(), eps, num_rows, size, out.data(), random.number(1, 4));
  for (int64_t row = 0; row < num_rows; ++row) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) sum += std::pow(to_double(x[row * size + i]), 2);
    const double scale = 1 / std::sqrt(sum / static_cast<double>(size) + eps);
    for (int64_t i = 0; i < size; ++i) {
      const double want = to_double(x[row * size + i]) * scale * weight[i];
      if (!is_close(out[row * size + i], want)) FAIL("row ", row, " at ", i, " of ", size);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("attention is what plain loops say, and sees nothing else", T, float, uint16_t) {
  SUBCASE("of histories") {
    for_each_round(50,
                   [](Random& random) { check_attention<T>(random, random_histories(random)); });
  }
  SUBCASE("of beams") {
    for_each_round(50, [](Random& random) { check_attention<T>(random, random_beams(random)); });
  }
}

TEST_CASE_TEMPLATE("a later token has no part in those before it", T, float, uint16_t) {
  for (const int64_t size : {2, 16, 17, 49, 65}) {
    CAPTURE(size);
    Random random(static_cast<uint64_t>(size));
    AttentionInputs<T> in(random, {4, 2, 20, 70}, history_block({size}, {5}), false);
    AttentionInputs<T> changed = in;
    const T huge = to_dtype<T>({std::numeric_limits<float>::max() / 4})[0];
    std::fill_n(changed.qkv.end() - 4 * 20, 4 * 20, huge);  // keys and values of the last
    attend_afresh(in, 2);
    attend_afresh(changed, 2);
    const auto end = in.out.end() - 4 * 20;
    REQUIRE(std::equal(in.out.begin(), end, changed.out.begin()));
    REQUIRE(!std::equal(end, in.out.end(), changed.out.end() - 4 * 20));
  }
}

TEST_CASE_TEMPLATE("no request, no work", T, float, uint16_t) {
  Random random(0);
  AttentionInputs<T> in(random, {4, 2, 8, 10}, history_block({}, {}), true);
  in.attend(2);
  CHECK(in.out.empty());
}

TEST_CASE_TEMPLATE("a norm is what plain loops say", T, float, uint16_t) {
  for_each_round(50, check_norm<T>);
}

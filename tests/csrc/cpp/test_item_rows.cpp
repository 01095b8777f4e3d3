// What knows items by their rows, item_logits and evidence with what is summed and walked beside
// it, against plain loops: for sanitizers.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attention.h"
#include "each_round.h"
#include "inputs.h"
#include "store_engine/model/item_logits.h"
#include "store_engine/search/best_of_sum.h"
#include "store_engine/search/evidence.h"
#include "store_engine/search/prefixes_beside.h"

using namespace store_engine;

namespace {

template <typename T>
void check_dots(const ItemLogitKernels<T>& kernels, Random& random, int64_t size) {
  const std::vector<float> state = random.logits(size);
  const std::vector<T> rows = to_dtype<T>(random.logits(size * kDotRows));
  const T* each[kDotRows];
  for (int64_t r = 0; r < kDotRows; ++r) each[r] = rows.data() + r * size;
  float got[kDotRows], alone[kDotRows];
  kernels.dots(state.data(), each, size, got);
  for (int64_t r = 0; r < kDotRows; ++r) {
    double want = 0, sum = 0;
    for (int64_t i = 0; i < size; ++i) {
      want += state[i] * to_double(each[r][i]);
      sum += std::abs(state[i] * to_double(each[r][i]));
    }
    REQUIRE(std::abs(got[r] - want) <= 1e-6 * sum);
    const std::vector<const T*> same(kDotRows, each[r]);
    kernels.dots(state.data(), same.data(), size, alone);
    for (const float x : alone) REQUIRE(x == got[r]);
  }
}

template <typename T>
void check_item_logits(Random& random) {
  const int64_t num_rows = random.number(1, 40), hidden = random.one_of({1, 7, 16, 33});
  const int64_t num_prefixes = random.number(1, 5), fanout = random.number(0, 20);
  const int64_t batch = random.number(0, 3), width = random.number(1, 4);
  const bool is_shared = random.number(0, 1) == 1;
  const std::vector<T> rows = to_dtype<T>(random.logits(num_rows * hidden));
  const std::vector<T> states =
      to_dtype<T>(random.logits(batch * (is_shared ? 1 : width) * hidden));
  std::vector<int32_t> slots(static_cast<size_t>(num_prefixes * fanout));
  for (int32_t& slot : slots) slot = static_cast<int32_t>(random.number(-1, num_rows - 1));
  std::vector<int64_t> prefixes(static_cast<size_t>(batch * width));
  for (int64_t& prefix : prefixes) prefix = random.number(-1, num_prefixes - 1);
  std::vector<float> out(static_cast<size_t>(batch * width * fanout));
  item_logits(ItemRows<T>{rows.data(), slots.data(), num_rows, hidden, num_prefixes, fanout},
              PrefixStates<T>{states.data(), prefixes.data(), batch, width, is_shared},
              random.number(1, 3), out.data());
  for (int64_t i = 0; i < batch * width * fanout; ++i) {
    const int64_t beam = i / fanout, prefix = prefixes[beam];
    const int64_t slot = prefix < 0 ? 0 : slots[prefix * fanout + i % fanout];
    double want = slot < 0 ? -kInfinity : 0;
    for (int64_t d = 0; prefix >= 0 && slot >= 0 && d < hidden; ++d) {
      const int64_t state = is_shared ? beam / width : beam;
      want += to_double(states[state * hidden + d]) * to_double(rows[slot * hidden + d]);
    }
    REQUIRE((out[i] == want || std::abs(out[i] - want) < 1e-4));
  }
}

// A square matrix in CSR form, rows of up to 9 entries; a column may be there twice.
struct Matrix {
  Matrix(Random& random, int64_t num_items) : begins(1, 0) {
    for (int64_t row = 0; row < num_items; ++row) {
      for (int64_t i = random.number(0, 9); i > 0; --i) {
        indices.push_back(static_cast<int32_t>(random.number(0, num_items - 1)));
      }
      begins.push_back(static_cast<int64_t>(indices.size()));
    }
    data = random.logits(begins.back());
  }
  std::vector<int64_t> begins;
  std::vector<int32_t> indices;
  std::vector<float> data;
};

// The sums of one history, in the core's order.
std::map<int64_t, float> sums_of(const Matrix& matrix, const RecentEvents& events,
                                 int64_t request) {
  std::map<int64_t, float> sums;
  const int64_t begin = events.offsets[request], end = events.offsets[request + 1];
  const int64_t num_items = static_cast<int64_t>(matrix.begins.size()) - 1;
  float weight = 1;
  for (int64_t event = end - 1; event >= begin && end - event <= events.num_recent; --event) {
    const int64_t row = events.rows[event];
    for (int64_t i = 0; row >= 0 && row < num_items && i < matrix.begins[row + 1]; ++i) {
      if (i >= matrix.begins[row]) sums[matrix.indices[i]] += weight * matrix.data[i];
    }
    weight *= events.decay;
  }
  return sums;
}

void check_evidence(Random& random) {
  const int64_t num_items = random.one_of({1, 2, 50, 500}), k = random.one_of({1, 20, 600});
  const int64_t batch = random.number(0, 3), num_threads = random.number(1, 3);
  const Matrix matrix(random, num_items);
  std::vector<int64_t> offsets(1, 0), rows;
  for (int64_t i = 0; i < batch; ++i) {
    offsets.push_back(offsets.back() + random.number(0, 30));
    while (static_cast<int64_t>(rows.size()) < offsets.back()) {
      rows.push_back(random.number(-1, num_items));
    }
  }
  const RecentEvents events{rows.data(), offsets.data(), batch, 0.7f, random.number(1, 25)};
  const EvidenceMatrix evidence(matrix.begins.data(), num_items, matrix.indices.data(),
                                matrix.data.data(), matrix.begins.back());
  std::vector<int64_t> found(static_cast<size_t>(batch * k)), asked(found);
  std::vector<float> scores(found.size()), asked_scores(found.size());
  top_evidence(evidence, events, nullptr, num_threads, {k, found.data(), scores.data()});
  for (int64_t& row : asked) row = random.number(-1, num_items);
  score_evidence(evidence, events, asked.data(), k, num_threads, asked_scores.data());
  const int64_t num_terms = random.number(1, 9);
  std::vector<uint16_t> halfs(matrix.data.size() * static_cast<size_t>(num_terms));
  for (uint16_t& half : halfs) half = static_cast<uint16_t>(random.number(0, 0x7bff));
  const std::vector<float> decays(static_cast<size_t>(num_terms), events.decay);
  std::vector<float> term_sums(asked.size() * static_cast<size_t>(num_terms));
  sum_terms(evidence, {halfs.data(), num_terms, decays.data()}, events, asked.data(), k,
            num_threads, term_sums.data());
  Matrix of_term = matrix;
  const int64_t term = random.number(0, num_terms - 1);
  for (size_t i = 0; i < of_term.data.size(); ++i) {
    of_term.data[i] =
        from_half(halfs[i * static_cast<size_t>(num_terms) + static_cast<size_t>(term)]);
  }
  for (int64_t i = 0; i < batch; ++i) {
    const std::map<int64_t, float> sums = sums_of(of_term, events, i);
    for (int64_t j = 0; j < k; ++j) {
      const auto sum = sums.find(asked[i * k + j]);
      REQUIRE(term_sums[(i * k + j) * num_terms + term] == (sum == sums.end() ? 0 : sum->second));
    }
  }
  for (int64_t i = 0; i < batch; ++i) {
    const std::map<int64_t, float> sums = sums_of(matrix, events, i);
    std::vector<std::pair<float, int64_t>> best;
    for (const auto& [item, sum] : sums) best.emplace_back(-sum, item);
    std::sort(best.begin(), best.end());
    best.resize(static_cast<size_t>(k), {kInfinity, -1});
    for (int64_t j = 0; j < k; ++j) {
      REQUIRE(found[i * k + j] == best[j].second);
      REQUIRE(scores[i * k + j] == -best[j].first);
      const auto sum = sums.find(asked[i * k + j]);
      REQUIRE(asked_scores[i * k + j] == (sum == sums.end() ? 0.0f : sum->second));
    }
  }
}

void check_best_of_sum(Random& random) {
  const int64_t num_items = random.one_of({1, 7, 60}), num_levels = random.number(0, 3);
  const int64_t batch = random.number(0, 3), width = random.number(0, 40);
  const int64_t k = random.one_of({1, 10, 60}), num_threads = random.number(1, 3);
  std::vector<int32_t> sids;
  for (int64_t i = 0; i < num_items * num_levels; ++i) {
    sids.push_back(static_cast<int32_t>(random.number(0, 2)));
  }
  std::vector<int64_t> rows;
  std::vector<float> logprobs, evidence;
  for (int64_t i = 0; i < batch * width; ++i) {
    rows.push_back(random.number(-1, num_items - 1));
    logprobs.push_back(-static_cast<float>(random.number(0, 3)));
    evidence.push_back(static_cast<float>(random.number(0, 3)));
  }
  std::vector<int64_t> best(static_cast<size_t>(batch * k));
  std::vector<float> its_logprobs(best.size()), its_evidence(best.size());
  best_of_sum(
      {rows.data(), logprobs.data(), evidence.data(), sids.data(), batch, width, num_levels},
      num_threads, {k, best.data(), its_logprobs.data(), its_evidence.data()});
  for (int64_t i = 0; i < batch; ++i) {
    std::map<int64_t, int64_t> first;  // of an item, where it stands first
    for (int64_t j = i * width; j < (i + 1) * width; ++j) {
      if (rows[j] >= 0) first.emplace(rows[j], j);
    }
    using Key = std::tuple<float, std::vector<int32_t>, int64_t, int64_t>;
    std::vector<Key> keys;
    for (const auto& [row, at] : first) {
      const auto own = sids.begin() + row * num_levels;
      keys.emplace_back(-(logprobs[at] + evidence[at]), std::vector(own, own + num_levels), row,
                        at);
    }
    std::sort(keys.begin(), keys.end());
    for (int64_t j = 0; j < k; ++j) {
      const bool is_one = j < static_cast<int64_t>(keys.size());
      const int64_t at = is_one ? std::get<3>(keys[j]) : 0;
      REQUIRE(best[i * k + j] == (is_one ? rows[at] : -1));
      REQUIRE(its_logprobs[i * k + j] == (is_one ? logprobs[at] : -kInfinity));
      REQUIRE(its_evidence[i * k + j] == (is_one ? evidence[at] : 0.0f));
    }
  }
}

void check_prefixes_beside(Random& random) {
  const int64_t batch = random.number(0, 3), width = random.number(0, 20);
  const int64_t size = random.number(0, 20);
  std::vector<int64_t> parents, tokens, places, codes, found(static_cast<size_t>(batch * size));
  for (int64_t i = 0; i < batch * width; ++i) {
    parents.push_back(random.number(-1, 5));
    tokens.push_back(parents.back() < 0 ? -1 : random.number(0, 5));
  }
  for (int64_t i = 0; i < batch * size; ++i) {
    places.push_back(random.number(-1, 5));
    codes.push_back(random.number(0, 5));
  }
  const PrefixesBeside beside = prefixes_beside(
      {parents.data(), tokens.data(), places.data(), codes.data(), batch, width, size},
      found.data());
  for (int64_t i = 0; i < batch; ++i) {
    std::vector<std::pair<int64_t, int64_t>> block;
    for (int64_t j = i * width; j < (i + 1) * width; ++j) block.emplace_back(parents[j], tokens[j]);
    for (int64_t j = i * size; j < (i + 1) * size; ++j) {
      const std::pair<int64_t, int64_t> own{places[j], codes[j]};
      const auto at = std::find(block.begin(), block.end(), own) - block.begin();
      REQUIRE(found[j] == (places[j] < 0 ? -1 : at));
      if (places[j] < 0 || at < static_cast<int64_t>(block.size())) continue;
      const int64_t to = i * beside.num_new + at - width;
      REQUIRE(beside.parents[to] == own.first);
      REQUIRE(beside.codes[to] == own.second);
      block.push_back(own);
    }
    for (int64_t j = static_cast<int64_t>(block.size()) - width; j < beside.num_new; ++j) {
      REQUIRE(beside.codes[i * beside.num_new + j] == -1);
    }
  }
}

}  // namespace

TEST_CASE("dot products of every target are those of double, wherever a row stands") {
  Random random(0);
  for (const int64_t size : {1, 3, 4, 8, 15, 16, 17, 64, 100}) {
    for (int i = 0; i <= static_cast<int>(simd::chosen_target()); ++i) {
      CAPTURE(std::string(simd::kTargetNames[i]));
      const auto target = static_cast<simd::Target>(i);
      check_dots(simd::kernels_for<ItemLogitKernels<float>>(target), random, size);
      check_dots(simd::kernels_for<ItemLogitKernels<uint16_t>>(target), random, size);
    }
  }
}

TEST_CASE("the logits of items are their rows times the state") {
  for_each_round(200, check_item_logits<float>);
  for_each_round(200, check_item_logits<uint16_t>);
}

TEST_CASE("evidence is that of summing every entry") { for_each_round(200, check_evidence); }

TEST_CASE("the best by a sum are those of a sort") { for_each_round(200, check_best_of_sum); }

TEST_CASE("prefixes beside beams are those that no beam is, each once") {
  for_each_round(200, check_prefixes_beside);
}

// A decode whose logits depend on the level and the code alone, and the same by looking at every
// item: with a beam that is wide enough, the two must agree to the last bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "check.h"
#include "store_engine/beam_search.h"

// An item's score, SID and row; in the order in which a search returns them.
struct Found {
  float score;
  std::vector<int32_t> sid;
  int64_t row;
  bool operator<(const Found& other) const {  // items with one SID keep their order
    return std::tie(other.score, sid) < std::tie(score, other.sid);
  }
  bool operator==(const Found& other) const {
    return score == other.score && sid == other.sid && row == other.row;
  }
};

using Logits = std::vector<std::vector<float>>;  // by level

inline Logits random_logits(Random& random, const store_engine::Snapshot& snapshot) {
  Logits logits;
  for (int64_t level = 0; level < snapshot.num_levels(); ++level) {
    logits.push_back(random.logits(snapshot.codebook_size(level)));
  }
  return logits;
}

// All items that request 0 of the filter (null: any) may be given, through beam_step, for a batch
// of `batch` equal requests that must find the same.
inline std::vector<Found> search(const store_engine::Snapshot& snapshot, const Logits& logits,
                                 const store_engine::ItemFilter* filter, int64_t batch,
                                 int64_t num_threads) {
  const int64_t width = snapshot.num_rows() + 1, num_levels = snapshot.num_levels();
  std::vector<float> scores(batch);
  std::vector<int64_t> nodes(batch), num_valid(batch, 1);
  std::vector<std::vector<int32_t>> prefixes(1);  // of request 0
  int64_t beam_width = 1;
  for (int64_t level = 0; level < num_levels; ++level) {
    std::vector<float> of_beams;
    for (int64_t i = 0; i < batch * beam_width; ++i) {
      of_beams.insert(of_beams.end(), logits[level].begin(), logits[level].end());
    }
    const store_engine::Beams beams{batch,           beam_width,      snapshot.codebook_size(level),
                                    of_beams.data(), nullptr,         scores.data(),
                                    nodes.data(),    num_valid.data()};
    std::vector<float> next_scores(batch * width);
    std::vector<int64_t> parents(batch * width), tokens(batch * width), next(batch * width),
        next_valid(batch);
    store_engine::beam_step(
        snapshot, level, beams, filter, store_engine::Normalize::kVocab, num_threads,
        {width, next_scores.data(), parents.data(), tokens.data(), next.data(), next_valid.data()});
    std::vector<std::vector<int32_t>> longer;
    for (int64_t slot = 0; slot < next_valid[0]; ++slot) {
      longer.push_back(prefixes[parents[slot]]);
      longer.back().push_back(static_cast<int32_t>(tokens[slot]));
    }
    for (int64_t i = 1; i < batch; ++i) {
      CHECK(std::equal(next.begin(), next.begin() + width, next.begin() + i * width));
    }
    prefixes = longer;
    scores = next_scores;
    nodes = next;
    num_valid = next_valid;
    beam_width = width;
  }
  std::vector<Found> found;
  const int64_t depth = num_levels + 1;
  for (int64_t slot = 0; slot < num_valid[0]; ++slot) {
    std::vector<int64_t> rows;
    if (filter == nullptr) {
      snapshot.append_leaf_rows(nodes[slot], {snapshot.alive_nodes(depth)}, {}, rows);
    } else {
      snapshot.append_leaf_rows(nodes[slot], filter->base_mask(0, depth),
                                filter->delta_mask(0, depth), rows);
    }
    CHECK(!rows.empty());
    for (const int64_t row : rows) found.push_back({scores[slot], prefixes[slot], row});
  }
  return found;
}

// The same without a trie: every item whose row is_allowed, scored in float as beam_step does it.
template <typename IsAllowed>
std::vector<Found> score_all(const store_engine::Snapshot& snapshot, const Logits& logits,
                             const IsAllowed& is_allowed) {
  const auto kernels = store_engine::softmax_kernels().front();
  const store_engine::SortedItems items = snapshot.items();
  std::vector<Found> found;
  for (int64_t i = 0; i < items.size(); ++i) {
    const int64_t item_row = snapshot.find(items.ids[i]);
    if (!is_allowed(item_row)) continue;
    const std::vector<int32_t> sid(items.sid(i), items.sid(i) + items.num_levels);
    float score = 0;
    for (int64_t level = 0; level < items.num_levels; ++level) {
      const std::vector<float>& row = logits[level];
      const auto size = static_cast<int64_t>(row.size());
      const float max = kernels.row_max(row.data(), size);
      score += row[sid[level]] - kernels.log_sum_exp(row.data(), size, max);
    }
    found.push_back({score, sid, item_row});
  }
  std::stable_sort(found.begin(), found.end());
  return found;
}

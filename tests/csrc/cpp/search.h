// A decode whose logits depend on the level and the code alone, and the same by looking at every
// item: with a beam that is wide enough, the two must agree to the last bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "inputs.h"
#include "store_engine/search/beam_search.h"

// A check for other threads and for the fuzz target, where doctest's do not serve. What it throws
// is not what the core throws.
inline void require(bool is_true, const char* what) {
  if (!is_true) throw std::runtime_error(std::string("wrong: ") + what);
}

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

// The beams of a batch: at first the root alone, later the children that beam_step put here.
struct BeamSlots {
  BeamSlots(int64_t batch, int64_t width)
      : batch(batch),
        width(width),
        scores(batch * width),
        parents(batch * width),
        tokens(batch * width),
        nodes(batch * width),
        num_valid(batch, 1) {}
  // `logits` for each of the slots.
  store_engine::Beams beams(const std::vector<float>& logits) const {
    const auto vocab_size = static_cast<int64_t>(logits.size()) / (batch * width);
    return {batch,   width,         vocab_size,   logits.data(),
            nullptr, scores.data(), nodes.data(), num_valid.data()};
  }
  store_engine::BeamStepOut out() {
    return {width, scores.data(), parents.data(), tokens.data(), nodes.data(), num_valid.data()};
  }

  int64_t batch, width;
  std::vector<float> scores;
  std::vector<int64_t> parents, tokens, nodes, num_valid;
};

// All items that request 0 of the filter (null: any) may be given, through beam_step, for a batch
// of `batch` equal requests that must find the same.
inline std::vector<Found> search(const store_engine::Snapshot& snapshot, const Logits& logits,
                                 const store_engine::ItemFilter* filter, int64_t batch,
                                 int64_t num_threads) {
  const int64_t width = snapshot.num_rows() + 1, num_levels = snapshot.num_levels();
  BeamSlots slots(batch, 1);
  std::vector<std::vector<int32_t>> prefixes(1);  // of request 0
  for (int64_t level = 0; level < num_levels; ++level) {
    std::vector<float> of_slots;
    for (int64_t i = 0; i < batch * slots.width; ++i) {
      of_slots.insert(of_slots.end(), logits[level].begin(), logits[level].end());
    }
    BeamSlots next(batch, width);
    store_engine::beam_step(snapshot, level, slots.beams(of_slots), filter,
                            store_engine::Normalize::kCodebook, num_threads, next.out());
    std::vector<std::vector<int32_t>> longer;
    for (int64_t slot = 0; slot < next.num_valid[0]; ++slot) {
      longer.push_back(prefixes[next.parents[slot]]);
      longer.back().push_back(static_cast<int32_t>(next.tokens[slot]));
    }
    const auto nodes = next.nodes.begin();
    for (int64_t i = 1; i < batch; ++i) {
      require(std::equal(nodes, nodes + width, nodes + i * width), "equal requests find the same");
    }
    prefixes = longer;
    slots = next;
  }
  std::vector<Found> found;
  const int64_t level = num_levels + 1;
  for (int64_t slot = 0; slot < slots.num_valid[0]; ++slot) {
    std::vector<int64_t> rows;
    if (filter == nullptr) {
      snapshot.append_leaf_rows(slots.nodes[slot], {snapshot.alive_nodes(level)}, {}, rows);
    } else {
      snapshot.append_leaf_rows(slots.nodes[slot], filter->base_mask(0, level),
                                filter->delta_mask(0, level), rows);
    }
    require(!rows.empty(), "every leaf that is found has a row that is allowed");
    for (const int64_t row : rows) found.push_back({slots.scores[slot], prefixes[slot], row});
  }
  return found;
}

// The same without a trie: every item whose row is_allowed, scored in float as beam_step does it.
template <typename IsAllowed>
std::vector<Found> score_all(const store_engine::Snapshot& snapshot, const Logits& logits,
                             const IsAllowed& is_allowed) {
  const auto& kernels = store_engine::simd::kernels<store_engine::SoftmaxKernels>();
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

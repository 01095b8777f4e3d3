// The best items of each request where the codes of a SID are independent of each other: the score
// of an item is the sum over the levels of its code's log-probability.
//
// A walk of the trie, depth first and best child first: what the items below a node have in common
// is summed once. A subtree is left out when even the best code of every level below could not lift
// it to the k-th best item so far. Nodes with one child, as most are in the deeper levels, are
// passed through in a loop. At worst O(nodes): where SIDs are long, for then the bound says little.
// Source: RPG's parallel decoding, https://arxiv.org/abs/2506.05781.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "store_engine/base/bits.h"
#include "store_engine/base/parallel_for.h"
#include "store_engine/search/allowed_children.h"
#include "store_engine/search/item_filter.h"
#include "store_engine/search/ranking_out.h"
#include "store_engine/search/softmax.h"
#include "store_engine/search/top_k.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine {

// The walk for one request, with the scratch memory of one thread.
class ItemRanking {
 public:
  // logprobs[level] is (batch, codebook_size of the level).
  ItemRanking(const Snapshot& snapshot, const std::vector<const float*>& logprobs,
              const ItemFilter* filter, int64_t size)
      : snapshot_(snapshot),
        logprobs_(logprobs),
        filter_(filter),
        levels_(logprobs.size()),
        cuts_(logprobs.size() + 1),
        top_(size) {}

  // Throws std::invalid_argument naming the request and level that holds NaN or +inf.
  void run(int64_t request, const RankingOut& out);

 private:
  static constexpr int64_t kFew = 8;  // children offered without a look at their scores

  struct Child {
    float score;
    int64_t node;
  };
  struct Level {
    const float* row;      // of the request
    double rest, size;     // sums from this level on of the best codes' scores, and of their sizes
    NodeMask base, delta;  // of the children
    std::vector<Child> children;  // of the node that the walk is at
  };
  void read(int64_t request);
  NodeMask base_mask(int64_t request, int64_t level) const {
    return filter_ != nullptr ? filter_->base_mask(request, level)
                              : NodeMask{snapshot_.alive_nodes(level)};
  }
  NodeMask delta_mask(int64_t request, int64_t level) const {
    return filter_ != nullptr ? filter_->delta_mask(request, level) : NodeMask{};
  }
  // Whether an item below a node of `level` may be among the best.
  bool is_possible(int64_t level, float score) const { return score >= cuts_[level]; }
  void set_cuts();
  // Makes room for `count` more leaves.
  void reserve(size_t count) {
    top_.reserve(count);
    if (top_.threshold() != cuts_.back()) set_cuts();
  }
  void descend(int64_t level, Child node);
  bool follow_only_children(int64_t& level, Child& node);
  template <typename Token>
  void offer_leaves(const AllowedChildren<Token>& children, const Child& node);
  template <typename Token>
  void collect(int64_t level, const AllowedChildren<Token>& children, const Child& node);

  const Snapshot& snapshot_;
  const std::vector<const float*>& logprobs_;
  const ItemFilter* const filter_;  // null: everything is allowed
  std::vector<Level> levels_;
  std::vector<float> cuts_;  // by level from 0 to num_levels: nodes that score less lead nowhere
  TopK top_;                 // of leaves
  std::vector<int64_t> rows_;
  const SoftmaxKernels kernels_ = simd::kernels<SoftmaxKernels>();
};

inline void ItemRanking::read(int64_t request) {
  double rest = 0, size = 0;
  for (int64_t level = snapshot_.num_levels() - 1; level >= 0; --level) {
    const int64_t num_codes = snapshot_.codebook_size(level);
    Level& of = levels_[level];
    of.row = logprobs_[level] + request * num_codes;
    const float max = kernels_.row_max(of.row, num_codes);
    if (!(max < kInfinity)) {
      throw std::invalid_argument("request " + std::to_string(request) + ": level " +
                                  std::to_string(level) + ": log-probability NaN or +inf");
    }
    of.rest = rest += max;
    of.size = size += std::abs(max);
    of.base = base_mask(request, level + 1);
    of.delta = delta_mask(request, level + 1);
  }
  top_.clear();
  set_cuts();
}

// The threshold, less what the best codes of the levels below can add, and with room for how the
// sums of up to 16 floats may be rounded.
inline void ItemRanking::set_cuts() {
  const double threshold = top_.threshold();
  for (size_t level = 0; level < levels_.size(); ++level) {
    const Level& of = levels_[level];
    const double cut = threshold - of.rest - 2e-6 * (std::abs(threshold) + 2 * of.size);
    cuts_[level] = static_cast<float>(
        std::max(cut, static_cast<double>(std::numeric_limits<float>::lowest())));
  }
  cuts_.back() = top_.threshold();
}

// Goes down from a node, which leads to an item that the request may get, as long as there is one
// child. Returns whether what it comes to is worth a look.
inline bool ItemRanking::follow_only_children(int64_t& level, Child& node) {
  for (; level < snapshot_.num_levels(); ++level) {
    const Range children = snapshot_.base->index(level).children(node.node);
    if (children.size() != 1) break;
    node.node = children.begin;
    snapshot_.base->with_tokens(
        level, [&](const auto* tokens) { node.score += levels_[level].row[tokens[node.node]]; });
    if (!is_possible(level + 1, node.score)) return false;
  }
  return true;
}

template <typename Token>
void ItemRanking::offer_leaves(const AllowedChildren<Token>& children, const Child& node) {
  const float* row = levels_.back().row;
  const auto select = [&](const Token* codes, int64_t size) {
    reserve(static_cast<size_t>(size));
    if (size < kFew) return low_bits(size);
    return kernels_.above(codes)(row, codes, size, node.score, 0.0f, top_.threshold());
  };
  const auto offer = [&](int64_t leaf, int64_t code) {
    top_.offer(node.score + row[code], leaf, 0, 0);
  };
  children.for_each_selected(snapshot_.children(snapshot_.num_levels() - 1, node.node), select,
                             offer);
}

// Puts those children that can lead to a good item into their level's list, best first.
template <typename Token>
void ItemRanking::collect(int64_t level, const AllowedChildren<Token>& children,
                          const Child& node) {
  Level& of = levels_[level];
  of.children.clear();
  const auto select = [](const Token*, int64_t size) { return low_bits(size); };
  const auto use = [&](int64_t child, int64_t code) {
    const float score = node.score + of.row[code];
    if (is_possible(level + 1, score)) of.children.push_back({score, child});
  };
  children.for_each_selected(snapshot_.children(level, node.node), select, use);
  const auto by_score = [](const Child& a, const Child& b) { return a.score > b.score; };
  std::sort(of.children.begin(), of.children.end(), by_score);
}

inline void ItemRanking::descend(int64_t level, Child node) {
  const int64_t num_levels = snapshot_.num_levels();
  if (level > 0 && snapshot_.delta == nullptr) {  // the root may lead nowhere
    if (!follow_only_children(level, node)) return;
    if (level == num_levels) {
      reserve(1);
      top_.offer(node.score, node.node, 0, 0);
      return;
    }
  }
  const bool is_last = level + 1 == num_levels;
  Level& of = levels_[level];
  snapshot_.base->with_tokens(level, [&](const auto* tokens) {
    using Token = std::remove_cv_t<std::remove_pointer_t<decltype(tokens)>>;
    const AllowedChildren<Token> children(snapshot_, level, of.base, of.delta);
    if (is_last) {
      offer_leaves(children, node);
    } else {
      collect(level, children, node);
    }
  });
  if (is_last) return;
  for (const Child& child : of.children) {
    if (!is_possible(level + 1, child.score)) break;
    descend(level + 1, child);
  }
}

inline void ItemRanking::run(int64_t request, const RankingOut& out) {
  read(request);
  descend(0, {0.0f, 0});
  const int64_t num_leaves = top_.sort(), level = snapshot_.num_levels() + 1;
  int64_t num_found = 0;
  for (int64_t i = 0; i < num_leaves && num_found < out.size; ++i) {
    rows_.clear();
    snapshot_.append_leaf_rows(top_[i].node, base_mask(request, level), delta_mask(request, level),
                               rows_);
    for (size_t j = 0; j < rows_.size() && num_found < out.size; ++j) {
      out.put(request, num_found++, rows_[j], top_[i].score());
    }
  }
  out.end(request, num_found);
}

// Ranks the items that the filter (null: all) allows; of equals the lower SID, then row.
inline void rank_items(const Snapshot& snapshot, const std::vector<const float*>& logprobs,
                       int64_t batch, const ItemFilter* filter, int64_t num_threads,
                       const RankingOut& out) {
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(batch, options, [&](int64_t, int64_t begin, int64_t end) {
    ItemRanking ranking(snapshot, logprobs, filter, out.size);
    for (int64_t request = begin; request < end; ++request) ranking.run(request, out);
  });
}

}  // namespace store_engine

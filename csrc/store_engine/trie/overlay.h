// Numbers the nodes of two tries as one trie of the items of both would number them.
//
// A catalogue that changes is a large trie, the base, and a small one beside it, the delta. A node
// that both have is one node. The numbers keep SID order, so ties fall as in one trie. The number
// of a base node is its own plus the number of nodes before it that only the delta has. The overlay
// holds three words per delta node and nothing that grows with the base. To make it takes O(delta
// nodes * log(base nodes)).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "store_engine/trie/child_index.h"
#include "store_engine/trie/item_trie.h"

namespace store_engine {

class Overlay {
 public:
  Overlay(const ItemTrie& base, const ItemTrie& delta);

  // Returns the number of nodes of a level in [0, num_levels] that only the delta has.
  int64_t num_new(int64_t level) const { return levels_[level].new_before.back(); }

  // Returns the first delta node numbered `node` or higher; one past the last if there is none.
  int64_t lower_bound(int64_t level, int64_t node) const {
    const Level& nodes = levels_[level];
    const auto begin = nodes.number.begin();
    const size_t stretch = static_cast<size_t>(node >> nodes.shift);
    return std::lower_bound(begin + nodes.first[stretch], begin + nodes.first[stretch + 1], node) -
           begin;
  }
  int64_t number(int64_t level, int64_t delta_node) const {
    return levels_[level].number[delta_node];
  }
  // Returns how many of the delta nodes before this one are new; it may be one past the last.
  int64_t num_new_before(int64_t level, int64_t delta_node) const {
    return levels_[level].new_before[delta_node];
  }
  bool is_new(int64_t level, int64_t delta_node) const {
    const std::vector<uint32_t>& before = levels_[level].new_before;
    return before[delta_node + 1] > before[delta_node];
  }
  // Returns the same node in the base; if it is new, the first base node after it.
  int64_t base_node(int64_t level, int64_t delta_node) const {
    return number(level, delta_node) - num_new_before(level, delta_node);
  }
  // Returns the number of a base node. `siblings` are the delta nodes under the same parent, or the
  // place where they would be; the call cuts them down to those after the node, so that the next
  // base node is found faster.
  int64_t number_of_base(int64_t level, int64_t node, Range& siblings) const {
    for (int64_t step = 1; siblings.begin < siblings.end; step *= 2) {  // far ahead, if need be
      const int64_t last = std::min(siblings.begin + step, siblings.end) - 1;
      if (base_node(level, last) > node) {
        siblings.begin = first_after(level, node, {siblings.begin, last});
        break;
      }
      siblings.begin = last + 1;
    }
    return node + num_new_before(level, siblings.begin);
  }
  size_t nbytes() const {
    size_t total = 0;
    for (const Level& level : levels_) {
      total += (level.number.size() + level.new_before.size() + level.first.size()) * 4;
    }
    return total;
  }

 private:
  struct Level {
    std::vector<uint32_t> number;      // of each delta node, ascending
    std::vector<uint32_t> new_before;  // (num_nodes + 1,)
    // Where in `number` each stretch of 2^shift numbers begins, and after the last the end: with
    // about as many stretches as delta nodes, a search reads few of them.
    std::vector<uint32_t> first;
    int shift = 0;

    void index(int64_t num_nodes);  // of base and delta together
  };
  // Returns the first of some delta nodes that comes after a base node, or the end.
  int64_t first_after(int64_t level, int64_t node, Range range) const {
    while (range.begin < range.end) {
      const int64_t middle = range.begin + range.size() / 2;
      if (base_node(level, middle) <= node) {
        range.begin = middle + 1;
      } else {
        range.end = middle;
      }
    }
    return range.end;
  }

  std::vector<Level> levels_;  // by level, the root's too
};

inline void Overlay::Level::index(int64_t num_nodes) {
  while (num_nodes >> shift > static_cast<int64_t>(number.size())) ++shift;
  first.assign(static_cast<size_t>(num_nodes >> shift) + 2, 0);
  for (const uint32_t node : number) ++first[(node >> shift) + 1];
  for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
}

inline Overlay::Overlay(const ItemTrie& base, const ItemTrie& delta)
    : levels_(delta.num_levels() + 1) {
  levels_[0].number = {0};
  levels_[0].new_before = {0, 0};
  levels_[0].index(1);
  for (int64_t level = 0; level < delta.num_levels(); ++level) {
    Level& below = levels_[level + 1];
    below.number.reserve(delta.num_nodes(level + 1));
    below.new_before.reserve(delta.num_nodes(level + 1) + 1);
    below.new_before.push_back(0);
    base.with_tokens(level, [&](const auto* base_tokens) {
      using Token = std::remove_cv_t<std::remove_pointer_t<decltype(base_tokens)>>;
      const Token* delta_tokens = delta.tokens<Token>(level);
      delta.index(level).for_each([&](int64_t node, Range children) {
        // where the children would stand among the base's
        Range twins{base.num_nodes(level + 1), base.num_nodes(level + 1)};
        const int64_t twin = base_node(level, node);
        if (twin < base.num_nodes(level)) twins = base.index(level).children(twin);
        if (is_new(level, node)) twins.end = twins.begin;
        for (int64_t child = children.begin; child < children.end; ++child) {
          const Token code = delta_tokens[child];
          const Token* end = base_tokens + twins.end;
          twins.begin = std::lower_bound(base_tokens + twins.begin, end, code) - base_tokens;
          const bool has_twin = twins.begin < twins.end && base_tokens[twins.begin] == code;
          const uint32_t num_new = below.new_before.back();
          below.number.push_back(static_cast<uint32_t>(twins.begin) + num_new);
          below.new_before.push_back(num_new + (has_twin ? 0 : 1));
        }
      });
    });
    below.index(base.num_nodes(level + 1) + below.new_before.back());
  }
}

}  // namespace store_engine

// Marks the nodes of a trie that lead to an item of a set: one bit per node of every level.
//
// A question about a node reads one bit, whatever its level and however few items are in the set;
// the children of a node are neighbouring bits. To make a NodeSet takes O(nodes). It has at most
// 0.4 bytes per item for four levels of uniform codes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "store_engine/base/bitmap.h"
#include "store_engine/base/bits.h"
#include "store_engine/trie/item_trie.h"

namespace store_engine {

// Nodes per level from 0 to num_levels + 1, ascending; the last level has the positions.
using NodeLists = std::vector<std::vector<uint32_t>>;

class NodeSet {
 public:
  // Marks the nodes that have some of `positions` below them.
  NodeSet(const ItemTrie& trie, std::shared_ptr<const Bitmap> positions);

  // Returns the nodes of a level in [1, num_levels + 1]; the last level has the positions.
  const Bitmap& at(int64_t level) const { return *nodes_[level]; }
  // Returns this set without some of its positions, which ascend. Copies the bits, and takes
  // O(log nodes) per position.
  NodeSet without(const ItemTrie& trie, std::vector<uint32_t> positions) const;
  // Returns the bytes of all bits, those of the positions included.
  size_t nbytes() const;

 private:
  std::vector<std::shared_ptr<const Bitmap>> nodes_;  // [0] is null; shared where they are equal
};

// Returns the nodes that lose their last item when the items at `positions` are removed. The
// positions ascend, differ and are in `allowed`; null: every position is.
inline NodeLists dead_nodes(const ItemTrie& trie, const NodeSet* allowed,
                            std::vector<uint32_t> positions) {
  NodeLists dead(trie.num_levels() + 2);
  dead.back() = std::move(positions);
  for (int64_t level = trie.num_levels(); level > 0; --level) {
    const std::vector<uint32_t>& below = dead[level + 1];
    for (size_t i = 0; i < below.size();) {
      const int64_t node = trie.index(level).parent(below[i]);
      const Range children = trie.index(level).children(node);
      int64_t num_dead = 0;
      for (; i < below.size() && below[i] < children.end; ++i) ++num_dead;
      const int64_t num_alive =
          allowed == nullptr ? children.size() : allowed->at(level + 1).count(children);
      if (num_dead == num_alive) dead[level].push_back(static_cast<uint32_t>(node));
    }
  }
  return dead;
}

inline NodeSet::NodeSet(const ItemTrie& trie, std::shared_ptr<const Bitmap> positions)
    : nodes_(trie.num_levels() + 2) {
  nodes_.back() = std::move(positions);
  for (int64_t level = trie.num_levels(); level > 0; --level) {
    const ChildIndex& index = trie.index(level);
    const std::shared_ptr<const Bitmap>& below = nodes_[level + 1];
    if (index.is_identity()) {
      nodes_[level] = below;
      continue;
    }
    auto nodes = std::make_shared<Bitmap>(trie.num_nodes(level));
    index.for_each([&](int64_t node, Range children) {
      if (below->any(children)) nodes->set(node);
    });
    nodes_[level] = std::move(nodes);
  }
}

inline NodeSet NodeSet::without(const ItemTrie& trie, std::vector<uint32_t> positions) const {
  const NodeLists dead = dead_nodes(trie, this, std::move(positions));
  NodeSet rest = *this;
  for (size_t level = nodes_.size() - 1; level > 0; --level) {
    if (level + 1 < nodes_.size() && nodes_[level] == nodes_[level + 1]) {
      rest.nodes_[level] = rest.nodes_[level + 1];
      continue;
    }
    auto nodes = std::make_shared<Bitmap>(*nodes_[level]);
    for (const uint32_t node : dead[level]) nodes->clear(node);
    rest.nodes_[level] = std::move(nodes);
  }
  return rest;
}

inline size_t NodeSet::nbytes() const {
  size_t total = 0;
  for (size_t level = 1; level < nodes_.size(); ++level) {
    if (nodes_[level] != nodes_[level - 1]) total += nodes_[level]->nbytes();
  }
  return total;
}

// The nodes of one level that a request may use: those whose bit is set, except `dead`.
struct NodeMask {
  const Bitmap* alive = nullptr;                // null: all
  const std::vector<uint32_t>* dead = nullptr;  // null: none

  bool allows_all() const { return alive == nullptr && dead == nullptr; }
  bool operator[](int64_t node) const {
    return (alive == nullptr || (*alive)[node]) &&
           (dead == nullptr || !std::binary_search(dead->begin(), dead->end(), node));
  }
  // Returns the first node of a range that may be used, or the end of the range.
  int64_t first(Range range) const {
    for (int64_t node = range.begin;; ++node) {
      if (alive != nullptr) node = alive->first({node, range.end});
      if (node == range.end || dead == nullptr) return node;
      if (!std::binary_search(dead->begin(), dead->end(), node)) return node;
    }
  }
  // Calls use(first, bits) for the nodes of a range, 64 at most at a time: bit i says that node
  // first + i is in the range and may be used. Some bit is set.
  template <typename Use>
  void for_each_word(Range range, const Use& use) const;
  // Calls use(node) for the nodes of a range that may be used, ascending.
  template <typename Use>
  void for_each(Range range, const Use& use) const {
    for_each_word(range,
                  [&use](int64_t first, uint64_t bits) { for_each_set_bit(first, bits, use); });
  }
};

template <typename Use>
void NodeMask::for_each_word(Range range, const Use& use) const {
  static const std::vector<uint32_t> kNone;
  const std::vector<uint32_t>& gone = dead == nullptr ? kNone : *dead;
  auto next = std::lower_bound(gone.begin(), gone.end(), range.begin);
  for (int64_t first = range.begin / 64 * 64; first < range.end; first += 64) {
    uint64_t bits = bits_within(first, range);
    if (alive != nullptr) bits &= alive->words()[first / 64];
    for (; next != gone.end() && *next < first + 64; ++next) {
      bits &= ~(uint64_t{1} << (*next - first));
    }
    if (bits != 0) use(first, bits);
  }
}

}  // namespace store_engine

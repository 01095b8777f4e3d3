// Finds the SID below a node where there is only one that a request may get. Its other codes are
// forced, so a search need not ask a model for them.
//
// Every child that a request may use leads to a leaf that it may get. So two such children are two
// leaves, and a single one is the whole way: the walk goes down from a node as long as it finds one
// child, and gives up at the second. It reads nothing below a node with two children. Per level it
// looks once where all children may be used, else at most at the bits of a node's children.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "store_engine/base/bits.h"
#include "store_engine/search/item_filter.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine {

// The one child of a node of `level` that a request may use; -1 if there are several or none.
inline int64_t unique_child(const ItemFilter& filter, int64_t request, int64_t level,
                            int64_t node) {
  const Snapshot& snapshot = filter.snapshot();
  const ChildRanges children = snapshot.children(level, node);
  const NodeMask mask = filter.base_mask(request, level + 1);
  const Range base = children.base;
  const auto next_in_base = [mask, base](int64_t child) { return mask.first({child, base.end}); };
  if (snapshot.delta == nullptr) {
    const int64_t child = next_in_base(base.begin);
    return child < base.end && next_in_base(child + 1) == base.end ? child : -1;
  }

  // a child that both tries have is found twice, under one number
  const Overlay& overlay = snapshot.delta->overlay;
  const NodeMask delta_mask = filter.delta_mask(request, level + 1);
  const Range delta = children.delta;
  int64_t unique = -1;
  for (int64_t child = delta_mask.first(delta); child < delta.end;
       child = delta_mask.first({child + 1, delta.end})) {
    if (unique >= 0) return -1;
    unique = overlay.number(level + 1, child);
  }
  Range siblings = delta;
  for (int64_t child = next_in_base(base.begin); child < base.end;
       child = next_in_base(child + 1)) {
    const int64_t number = overlay.number_of_base(level + 1, child, siblings);
    if (unique >= 0 && unique != number) return -1;
    unique = number;
  }
  return unique;
}

// Finds the one leaf that request i may get below each of nodes[i * width + j], and the last code
// of its SID; both are -1 if there are several leaves or none. The nodes are of `level`, which is
// in [0, num_levels), or -1 for none. Throws std::invalid_argument naming the request and beam
// whose node does not exist.
inline void unique_leaves(const ItemFilter& filter, int64_t level, const int64_t* nodes,
                          int64_t width, int64_t* leaves, int64_t* tokens) {
  const Snapshot& snapshot = filter.snapshot();
  const int64_t num_nodes = snapshot.num_nodes(level);
  for (int64_t i = 0; i < filter.batch() * width; ++i) {
    int64_t node = nodes[i];
    if (node < -1 || node >= num_nodes) {
      throw std::invalid_argument("request " + std::to_string(i / width) + ": beam " +
                                  std::to_string(i % width) + ": node " + std::to_string(node) +
                                  " is neither -1 nor in [0, " + std::to_string(num_nodes) + ")");
    }
    for (int64_t at = level; node >= 0 && at < snapshot.num_levels(); ++at) {
      node = unique_child(filter, i / width, at, node);
    }
    leaves[i] = node;
    tokens[i] = node < 0 ? -1 : snapshot.code(snapshot.num_levels(), node);
  }
}

}  // namespace store_engine

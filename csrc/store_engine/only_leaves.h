// Where only one SID that a request may be given begins with a prefix: which one. Its other codes
// are forced, so that a search need not ask a model for them.
//
// Whatever may be used leads to a leaf that may be given. Two children that may be used are
// therefore two leaves, and one child is the whole way: from each node the walk goes down while it
// finds one child, and ends at the second. Nothing is read below what is found twice; per level one
// look where all children may be used, else at most the bits of a node's children.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "store_engine/item_filter.h"
#include "store_engine/snapshot.h"

namespace store_engine {

// The only child that a request may use of a node of `depth`, or -1.
inline int64_t only_child(const ItemFilter& filter, int64_t request, int64_t depth, int64_t node) {
  const Snapshot& snapshot = filter.snapshot();
  const Snapshot::Children children = snapshot.children(depth, node);
  const NodeMask mask = filter.base_mask(request, depth + 1);
  const Range base = children.base;
  const auto next_in_base = [mask, base](int64_t child) { return mask.first({child, base.end}); };
  if (snapshot.delta == nullptr) {
    const int64_t child = next_in_base(base.begin);
    return child < base.end && next_in_base(child + 1) == base.end ? child : -1;
  }

  // one that both have is found twice, under one number
  const Overlay& overlay = snapshot.delta->overlay;
  const NodeMask delta_mask = filter.delta_mask(request, depth + 1);
  const Range delta = children.delta;
  int64_t only = -1;
  for (int64_t child = delta_mask.first(delta); child < delta.end;
       child = delta_mask.first({child + 1, delta.end})) {
    if (only >= 0) return -1;
    only = overlay.number(depth + 1, child);
  }
  Range siblings = delta;
  for (int64_t child = next_in_base(base.begin); child < base.end;
       child = next_in_base(child + 1)) {
    const int64_t number = overlay.number_of_base(depth + 1, child, siblings);
    if (only >= 0 && only != number) return -1;
    only = number;
  }
  return only;
}

// Finds the only leaf that request i may be given below each of nodes[i * width + j], nodes of
// `depth` or -1 for none, and the last code of its SID; both are -1 if there are several or none.
// `depth` is in [0, num_levels). Throws std::invalid_argument naming the request and beam whose
// node does not exist.
inline void only_leaves(const ItemFilter& filter, int64_t depth, const int64_t* nodes,
                        int64_t width, int64_t* leaves, int64_t* tokens) {
  const Snapshot& snapshot = filter.snapshot();
  const int64_t num_nodes = snapshot.num_nodes(depth);
  for (int64_t i = 0; i < filter.batch() * width; ++i) {
    int64_t node = nodes[i];
    if (node < -1 || node >= num_nodes) {
      throw std::invalid_argument("request " + std::to_string(i / width) + ": beam " +
                                  std::to_string(i % width) + ": node " + std::to_string(node) +
                                  " is neither -1 nor in [0, " + std::to_string(num_nodes) + ")");
    }
    for (int64_t level = depth; node >= 0 && level < snapshot.num_levels(); ++level) {
      node = only_child(filter, i / width, level, node);
    }
    leaves[i] = node;
    tokens[i] = node < 0 ? -1 : snapshot.code(snapshot.num_levels(), node);
  }
}

}  // namespace store_engine

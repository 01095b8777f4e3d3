// What a search reads: a trie and, for a live catalogue, the changes since that was built.
//
// Nothing in a snapshot ever changes, so any number of threads may read one without a lock.
//   base    the trie of most items;
//   alive   a NodeSet of the items of the base that were not removed;
//   delta   a small trie of the items added since, and its Overlay on the base.
// Nodes are numbered as in one trie of both, including nodes with only removed items. The rows of
// the base come first, then those of the delta.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "store_engine/base/bitmap.h"
#include "store_engine/base/bits.h"
#include "store_engine/trie/child_index.h"
#include "store_engine/trie/compacted_items.h"
#include "store_engine/trie/id_table.h"
#include "store_engine/trie/item_trie.h"
#include "store_engine/trie/node_set.h"
#include "store_engine/trie/overlay.h"
#include "store_engine/trie/sorted_items.h"

namespace store_engine {

// Items added since the base was built.
struct Delta {
  Delta(const ItemTrie& base, SortedItems sorted, const std::vector<int64_t>& codebook_sizes)
      : items(std::move(sorted)),
        ids(items.ids),
        trie({items.sids.data(), items.size(), codebook_sizes}, {}),
        overlay(base, trie) {}

  size_t nbytes() const {
    return items.sids.size() * sizeof(int32_t) + items.ids.size() * sizeof(int64_t) + ids.nbytes() +
           trie.nbytes() + overlay.nbytes();
  }

  SortedItems items;
  IdTable ids;
  ItemTrie trie;
  Overlay overlay;
};

// The children of a node, among the base's nodes and among the delta's.
struct ChildRanges {
  Range base, delta;
  int64_t size() const { return base.size() + delta.size(); }
};

struct Snapshot {
  std::shared_ptr<const ItemTrie> base;
  std::shared_ptr<const NodeSet> alive = nullptr;  // null: all
  std::shared_ptr<const Delta> delta = nullptr;    // null: none
  std::shared_ptr<const IdTable> ids = nullptr;    // of the base; null: rows have no ids
  int64_t num_dead = 0;                            // removed items of the base
  std::shared_ptr<LazyCompactedItems> compacted_items = nullptr;  // null: the base has no ids

  // The children of a node of a level in [0, num_levels]; at the last these are positions.
  ChildRanges children(int64_t level, int64_t node) const;
  // Returns the last code of the SID prefix of a node of a level in [1, num_levels].
  int64_t code(int64_t level, int64_t node) const;

  int64_t num_items() const { return num_rows() - num_dead; }
  int64_t num_rows() const { return base->num_items() + num_added(); }
  int64_t num_added() const { return delta == nullptr ? 0 : delta->items.size(); }
  // Counts items that were added or removed since the base was built.
  int64_t num_changes() const { return num_added() + num_dead; }
  int64_t num_levels() const { return base->num_levels(); }
  int64_t codebook_size(int64_t level) const { return base->codebook_size(level); }
  // Counts the nodes of a level in [0, num_levels].
  int64_t num_nodes(int64_t level) const {
    return base->num_nodes(level) + (delta == nullptr ? 0 : delta->overlay.num_new(level));
  }
  // The base's nodes of a level in [1, num_levels + 1] that lead to an item; null: all.
  const Bitmap* alive_nodes(int64_t level) const {
    return alive == nullptr ? nullptr : &alive->at(level);
  }
  // Appends the rows under a leaf whose positions the masks allow, by ascending id if they have
  // ids, else by row.
  void append_leaf_rows(int64_t leaf, NodeMask base_mask, NodeMask delta_mask,
                        std::vector<int64_t>& rows) const;
  // Returns the bytes of all arrays.
  size_t nbytes() const {
    return base->nbytes() + (alive == nullptr ? 0 : alive->nbytes()) +
           (delta == nullptr ? 0 : delta->nbytes()) + (ids == nullptr ? 0 : ids->nbytes()) +
           (compacted_items == nullptr ? 0 : compacted_items->nbytes());
  }
  // Returns whether the item of a row in [0, num_rows) is still there.
  bool has(int64_t row) const {
    if (alive == nullptr || row >= base->num_items()) return true;
    return alive->at(num_levels() + 1)[base->position_of(row)];
  }
  bool operator==(const Snapshot& other) const {
    return base == other.base && alive == other.alive && delta == other.delta;
  }

  // The rest is for snapshots of live catalogues: their base has ids.

  // Returns the row of an item, or -1.
  int64_t find(int64_t id) const {
    const int64_t added = delta == nullptr ? -1 : delta->ids.find(id);
    if (added >= 0) return base->num_items() + added;
    const int64_t row = ids->find(id);
    return row >= 0 && has(row) ? row : -1;
  }
  int64_t id(int64_t row) const {
    return row < base->num_items() ? (*ids)[row] : delta->ids[row - base->num_items()];
  }
  SortedItems items() const;
  // All items in one trie, made by the first call and kept as long as the snapshot or a copy of it.
  const CompactedItems& compacted() const {
    return compacted_items->get([this] { return items(); });
  }
};

inline ChildRanges Snapshot::children(int64_t level, int64_t node) const {
  if (delta == nullptr) return {base->index(level).children(node), {0, 0}};
  const Overlay& overlay = delta->overlay;
  const ChildIndex& index = delta->trie.index(level);
  const int64_t in_delta = overlay.lower_bound(level, node);
  if (in_delta == delta->trie.num_nodes(level)) {
    const int64_t end = delta->trie.num_nodes(level + 1);
    return {base->index(level).children(node - overlay.num_new(level)), {end, end}};
  }
  Range added = index.children(in_delta);
  if (overlay.number(level, in_delta) != node) {
    added.end = added.begin;
  } else if (overlay.is_new(level, in_delta)) {
    const int64_t place = level < num_levels() ? overlay.base_node(level + 1, added.begin) : 0;
    return {{place, place}, added};
  }
  return {base->index(level).children(node - overlay.num_new_before(level, in_delta)), added};
}

inline int64_t Snapshot::code(int64_t level, int64_t node) const {
  const auto code_in = [level](const ItemTrie& trie, int64_t its_node) {
    return trie.with_tokens(level - 1,
                            [its_node](const auto* tokens) { return int64_t{tokens[its_node]}; });
  };
  if (delta == nullptr) return code_in(*base, node);
  const Overlay& overlay = delta->overlay;
  const int64_t in_delta = overlay.lower_bound(level, node);
  if (in_delta < delta->trie.num_nodes(level) && overlay.number(level, in_delta) == node) {
    return code_in(delta->trie, in_delta);
  }
  return code_in(*base, node - overlay.num_new_before(level, in_delta));
}

inline void Snapshot::append_leaf_rows(int64_t leaf, NodeMask base_mask, NodeMask delta_mask,
                                       std::vector<int64_t>& rows) const {
  const auto begin = static_cast<std::ptrdiff_t>(rows.size());
  const ChildRanges positions = children(num_levels(), leaf);
  base_mask.for_each(positions.base,
                     [&](int64_t position) { rows.push_back(base->row_at(position)); });
  const auto middle = static_cast<std::ptrdiff_t>(rows.size());
  delta_mask.for_each(positions.delta,
                      [&](int64_t position) { rows.push_back(base->num_items() + position); });
  std::inplace_merge(rows.begin() + begin, rows.begin() + middle, rows.end(),
                     [this](int64_t a, int64_t b) { return id(a) < id(b); });
}

inline SortedItems Snapshot::items() const {
  SortedItems kept{num_levels(), {}, {}};
  kept.reserve(num_items());
  const std::vector<int32_t> sids = base->sids();
  const NodeMask mask{alive_nodes(num_levels() + 1)};
  mask.for_each({0, base->num_items()}, [&](int64_t position) {
    kept.push_back(sids.data() + position * num_levels(), (*ids)[position]);
  });
  return delta == nullptr ? kept : merge_items(kept, delta->items);
}

}  // namespace store_engine

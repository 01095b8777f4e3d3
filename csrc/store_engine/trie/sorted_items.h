// Items in SID order, items with the same SID by item id. A set of items has only this order,
// whatever the additions and removals that led to it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/trie/item_trie.h"
#include "store_engine/trie/sort_sids.h"

namespace store_engine {

struct SortedItems {
  int64_t num_levels = 0;
  std::vector<int32_t> sids;  // (num_items, num_levels)
  std::vector<int64_t> ids;   // (num_items,)

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
  const int32_t* sid(int64_t i) const { return sids.data() + i * num_levels; }
  void push_back(const int32_t* sid, int64_t id) {
    sids.insert(sids.end(), sid, sid + num_levels);
    ids.push_back(id);
  }
  void reserve(int64_t size) {
    sids.reserve(static_cast<size_t>(size * num_levels));
    ids.reserve(static_cast<size_t>(size));
  }
};

// Sorts items. The codes must have been checked.
inline SortedItems sort_items(const Sids& sids, const int64_t* ids, int64_t num_threads) {
  const int64_t size = sids.num_items, num_levels = sids.num_levels();
  SortedItems by_id{num_levels, {}, {}};
  const int32_t* codes = sids.codes;
  if (!std::is_sorted(ids, ids + size)) {
    std::vector<uint32_t> rows(size);
    std::iota(rows.begin(), rows.end(), 0);
    std::sort(rows.begin(), rows.end(), [ids](uint32_t a, uint32_t b) { return ids[a] < ids[b]; });
    by_id.reserve(size);
    for (const uint32_t row : rows) by_id.push_back(sids.row(row), ids[row]);
    codes = by_id.sids.data();
    ids = by_id.ids.data();
  }
  const Sids in_id_order{codes, size, sids.codebook_sizes};
  const SidOrder order = order_sids(in_id_order, num_threads);  // equal SIDs stay in id order
  SortedItems sorted{num_levels, {}, {}};
  sorted.reserve(size);
  for (int64_t i = 0; i < size; ++i) {
    sorted.push_back(in_id_order.row(order.row_at(i)), ids[order.row_at(i)]);
  }
  return sorted;
}

// Merges two lists that have no item in common.
inline SortedItems merge_items(const SortedItems& a, const SortedItems& b) {
  SortedItems merged{a.num_levels, {}, {}};
  merged.reserve(a.size() + b.size());
  int64_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    bool takes_a = j == b.size();
    if (!takes_a && i < a.size()) {
      const int32_t *x = a.sid(i), *y = b.sid(j);
      const auto [p, q] = std::mismatch(x, x + a.num_levels, y);
      takes_a = p == x + a.num_levels ? a.ids[i] < b.ids[j] : *p < *q;
    }
    const SortedItems& from = takes_a ? a : b;
    int64_t& next = takes_a ? i : j;
    merged.push_back(from.sid(next), from.ids[next]);
    ++next;
  }
  return merged;
}

// Returns the items i for which stays(i) is true.
template <typename Stays>
SortedItems keep_items(const SortedItems& items, const Stays& stays) {
  SortedItems kept{items.num_levels, {}, {}};
  for (int64_t i = 0; i < items.size(); ++i) {
    if (stays(i)) kept.push_back(items.sid(i), items.ids[i]);
  }
  return kept;
}

}  // namespace store_engine

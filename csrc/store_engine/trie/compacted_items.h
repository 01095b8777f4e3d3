// A snapshot's items in one trie without changes, for readers of a trie's arrays.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "store_engine/trie/item_trie.h"
#include "store_engine/trie/sorted_items.h"

namespace store_engine {

// Row r of the trie is the item ids[r]; ids ascend.
struct CompactedItems {
  std::vector<int64_t> ids;
  ItemTrie trie;

  size_t nbytes() const { return trie.nbytes() + ids.size() * sizeof(int64_t); }
};

inline CompactedItems compact_items(const SortedItems& items,
                                    const std::vector<int64_t>& codebook_sizes,
                                    const ItemTrie::Options& options) {
  std::vector<uint32_t> order(items.ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&items](uint32_t a, uint32_t b) { return items.ids[a] < items.ids[b]; });
  SortedItems by_id{items.num_levels, {}, {}};
  by_id.reserve(items.size());
  for (const uint32_t i : order) by_id.push_back(items.sid(i), items.ids[i]);
  ItemTrie trie({by_id.sids.data(), by_id.size(), codebook_sizes}, options);
  return {std::move(by_id.ids), std::move(trie)};
}

// CompactedItems that are made when first asked for, once for all copies of a snapshot.
class LazyCompactedItems {
 public:
  LazyCompactedItems(std::vector<int64_t> codebook_sizes, const ItemTrie::Options& options)
      : codebook_sizes_(std::move(codebook_sizes)), options_(options) {}

  // get_items() returns the snapshot's SortedItems.
  template <typename GetItems>
  const CompactedItems& get(const GetItems& get_items) {
    std::call_once(once_, [&] {
      made_ = std::make_unique<const CompactedItems>(
          compact_items(get_items(), codebook_sizes_, options_));
      is_made_ = true;
    });
    return *made_;
  }
  size_t nbytes() const { return is_made_ ? made_->nbytes() : 0; }

 private:
  const std::vector<int64_t> codebook_sizes_;
  const ItemTrie::Options options_;
  std::once_flag once_;
  std::atomic<bool> is_made_{false};
  std::unique_ptr<const CompactedItems> made_;
};

}  // namespace store_engine

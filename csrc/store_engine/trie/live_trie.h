// A catalogue that changes while others search it.
//
// Searches read snapshots (snapshot.h), which never change. add() and remove() make the next one
// from the last, in O(changes since the last merge) and O(num_items / 64) words, and publish it by
// exchanging a pointer. So readers never wait for a change, and see all of a call or nothing of it.
// Once there are `max_changes`, a thread merges them into a new base and carries over what happens
// meanwhile. Whatever the history, a search in a snapshot finds what it finds in a trie that is
// built from the same items.
//
// In a forked child the catalogue is as it was in the parent at the moment of the fork. A merge
// that was under way there is forgotten: its changes stay where they are, and the next change or
// compact() starts another.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "store_engine/base/bitmap.h"
#include "store_engine/base/fork.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine {

class LiveTrie {
 public:
  struct Options {
    ItemTrie::Options trie;
    int64_t max_changes = 0;  // 0: 1/64 of the items, at least 4096
  };

  // Throws std::invalid_argument naming a code out of range or an item id that is there twice.
  LiveTrie(const Sids& sids, const int64_t* ids, const Options& options);
  LiveTrie(const LiveTrie&) = delete;
  LiveTrie& operator=(const LiveTrie&) = delete;
  ~LiveTrie() {  // waits for a merge under way
    if (sync_->merger.joinable()) sync_->merger.join();
  }

  // Throw std::invalid_argument for a code out of range, an item that is there already, or one that
  // is not there; then nothing has changed.
  void add(const int32_t* sids, const int64_t* ids, int64_t num_items);
  void remove(const int64_t* ids, int64_t num_items);
  // Merges all changes now, and returns when that is done.
  void compact();

  std::shared_ptr<const Snapshot> snapshot() const {
    const Lock lock(sync_->current);
    return current_;
  }
  const std::vector<int64_t>& codebook_sizes() const { return codebook_sizes_; }

 private:
  using Lock = std::unique_lock<std::mutex>;

  Snapshot make_base(const SortedItems& items) const;
  // Returns `last` with other items in its delta.
  Snapshot with_delta(Snapshot last, SortedItems items) const;
  // Returns `last` without these rows of its base.
  Snapshot without(Snapshot last, std::vector<uint32_t> rows) const;
  void publish(Snapshot next) {
    next.compacted_items = std::make_shared<LazyCompactedItems>(codebook_sizes_, options_.trie);
    std::shared_ptr<const Snapshot> last = std::make_shared<const Snapshot>(std::move(next));
    const Lock lock(sync_->current);
    current_.swap(last);  // `last` is freed after the lock
  }
  void merge_if_due();
  // Builds a base of all that `from` has and publishes it with the changes since. is_merging_ was
  // set under the lock under which `from` was read.
  void merge(const Snapshot& from);

  // The locks and the thread, which mean nothing in a forked child.
  struct Sync {
    std::mutex writing;  // held while the next snapshot is made
    std::mutex current;  // held while the pointer to the current one is copied or exchanged
    std::condition_variable merged;
    std::thread merger;
  };
  void before_fork() {
    sync_->writing.lock();
    sync_->current.lock();
  }
  void after_fork_in_parent() {
    sync_->current.unlock();
    sync_->writing.unlock();
  }
  void after_fork_in_child() {
    // kept but never touched again: its threads are lost, and waiting for them would never end
    static_cast<void>(sync_.release());
    sync_ = std::make_unique<Sync>();
    is_merging_ = false;
    removed_.clear();
  }

  const std::vector<int64_t> codebook_sizes_;
  const Options options_;
  std::unique_ptr<Sync> sync_ = std::make_unique<Sync>();
  std::shared_ptr<const Snapshot> current_;  // under sync_->current; its writers hold both locks
  bool is_merging_ = false;                  // this and the next: under sync_->writing
  std::vector<int64_t> removed_;             // ids, since the merge under way began
  // last: while it exists, the members above do
  const ForkGuard fork_guard_{{[this] { before_fork(); }, [this] { after_fork_in_parent(); },
                               [this] { after_fork_in_child(); }}};
};

inline LiveTrie::LiveTrie(const Sids& sids, const int64_t* ids, const Options& options)
    : codebook_sizes_(sids.codebook_sizes), options_(options) {
  check_sids(sids, options.trie.num_threads);
  publish(make_base(sort_items(sids, ids, options.trie.num_threads)));
}

inline Snapshot LiveTrie::make_base(const SortedItems& items) const {
  Snapshot snapshot;
  snapshot.base = std::make_shared<ItemTrie>(Sids{items.sids.data(), items.size(), codebook_sizes_},
                                             options_.trie);
  snapshot.ids = std::make_shared<IdTable>(items.ids);
  return snapshot;
}

inline Snapshot LiveTrie::with_delta(Snapshot last, SortedItems items) const {
  last.delta = nullptr;
  if (items.size() > 0) {
    last.delta = std::make_shared<Delta>(*last.base, std::move(items), codebook_sizes_);
  }
  return last;
}

inline Snapshot LiveTrie::without(Snapshot last, std::vector<uint32_t> rows) const {
  if (rows.empty()) return last;
  const ItemTrie& base = *last.base;
  std::sort(rows.begin(), rows.end());  // the base is in SID order: rows are positions
  last.num_dead += static_cast<int64_t>(rows.size());
  if (last.alive == nullptr) {
    const Bitmap none(base.num_items());
    last.alive = std::make_shared<NodeSet>(base, std::make_shared<Bitmap>(~none));
  }
  last.alive = std::make_shared<NodeSet>(last.alive->without(base, std::move(rows)));
  return last;
}

inline void LiveTrie::add(const int32_t* sids, const int64_t* ids, int64_t num_items) {
  const Sids added{sids, num_items, codebook_sizes_};
  check_sids(added, 1);
  SortedItems items = sort_items(added, ids, 1);
  const IdTable is_there_once(items.ids);
  const Lock lock(sync_->writing);
  const Snapshot& last = *current_;
  if (last.num_rows() + num_items > kMaxItems) throw std::invalid_argument("too many items");
  for (const int64_t id : items.ids) {
    if (last.find(id) < 0) continue;
    throw std::invalid_argument("item id " + std::to_string(id) + " is in the catalogue already");
  }
  if (last.delta != nullptr) items = merge_items(last.delta->items, items);
  publish(with_delta(last, std::move(items)));
  merge_if_due();
}

inline void LiveTrie::remove(const int64_t* ids, int64_t num_items) {
  const IdTable removed(std::vector<int64_t>(ids, ids + num_items));
  const Lock lock(sync_->writing);
  const Snapshot& last = *current_;
  std::vector<uint32_t> rows;  // of the base
  for (int64_t i = 0; i < num_items; ++i) {
    const int64_t row = last.find(ids[i]);
    if (row < 0) {
      throw std::invalid_argument("item id " + std::to_string(ids[i]) + " is not in the catalogue");
    }
    if (row < last.base->num_items()) rows.push_back(static_cast<uint32_t>(row));
  }
  const bool is_delta_changed = static_cast<int64_t>(rows.size()) < num_items;
  Snapshot next = without(last, std::move(rows));
  if (is_delta_changed) {
    const SortedItems& items = last.delta->items;
    SortedItems rest = keep_items(items, [&](int64_t i) { return removed.find(items.ids[i]) < 0; });
    next = with_delta(std::move(next), std::move(rest));
  }
  // memory first: once the change is published, nothing may throw
  if (is_merging_) removed_.reserve(removed_.size() + static_cast<size_t>(num_items));
  publish(std::move(next));
  if (is_merging_) removed_.insert(removed_.end(), ids, ids + num_items);
  merge_if_due();
}

inline void LiveTrie::merge_if_due() {
  const Snapshot& last = *current_;
  const int64_t max_changes = options_.max_changes > 0
                                  ? options_.max_changes
                                  : std::max<int64_t>(4096, last.base->num_items() / 64);
  if (is_merging_ || last.num_changes() < max_changes) return;
  if (sync_->merger.joinable()) sync_->merger.join();  // it is done: only its end remains
  is_merging_ = true;
  try {
    sync_->merger = std::thread([this, from = current_] {
      try {
        merge(*from);
      } catch (...) {
        // no memory: the changes stay where they are, and the next change tries again
      }
    });
  } catch (const std::exception&) {  // no thread or no memory: the next change tries again
    is_merging_ = false;
  }
}

inline void LiveTrie::compact() {
  Lock lock(sync_->writing);
  sync_->merged.wait(lock, [this] { return !is_merging_; });
  const std::shared_ptr<const Snapshot> from = current_;
  if (from->num_changes() == 0) return;
  is_merging_ = true;
  lock.unlock();
  merge(*from);
}

inline void LiveTrie::merge(const Snapshot& from) {
  struct Done {  // whatever happens
    LiveTrie& trie;
    ~Done() {
      const Lock lock(trie.sync_->writing);
      trie.is_merging_ = false;
      trie.removed_.clear();
      trie.sync_->merged.notify_all();
    }
  } done{*this};
  Snapshot next = make_base(from.items());

  const Lock lock(sync_->writing);
  const Snapshot& last = *current_;
  std::vector<uint32_t> rows;
  std::sort(removed_.begin(), removed_.end());
  removed_.erase(std::unique(removed_.begin(), removed_.end()), removed_.end());
  for (const int64_t id : removed_) {
    const int64_t row = next.ids->find(id);
    if (row >= 0) rows.push_back(static_cast<uint32_t>(row));
  }
  next = without(std::move(next), std::move(rows));
  if (last.delta != nullptr) {
    // what was not there when the merge began, or was taken away and given back since
    const SortedItems& items = last.delta->items;
    SortedItems rest = keep_items(items, [&](int64_t i) { return next.find(items.ids[i]) < 0; });
    next = with_delta(std::move(next), std::move(rest));
  }
  publish(std::move(next));
}

}  // namespace store_engine

// Sets of catalogue rows, such as the items in stock. A set has one bit per row; &, | and ~ work
// word by word. The first filter that uses a set makes its NodeSets.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/base/bitmap.h"
#include "store_engine/trie/node_set.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine {

// An immutable set of the rows of one snapshot: a bit per position of its base and of its delta.
class RowSet {
 public:
  RowSet(Snapshot snapshot, Bitmap base, Bitmap delta)
      : snapshot_(std::move(snapshot)),
        base_(std::make_shared<Bitmap>(std::move(base))),
        delta_(std::make_shared<Bitmap>(std::move(delta))) {}
  // Throws std::invalid_argument naming a row that the catalogue does not have.
  static std::shared_ptr<RowSet> from_rows(const Snapshot& snapshot, const int64_t* rows,
                                           int64_t num_rows);

  const Snapshot& snapshot() const { return snapshot_; }
  int64_t count() const { return base_->count() + delta_->count(); }
  bool has(int64_t row) const {  // in [0, num_rows)
    const int64_t in_base = snapshot_.base->num_items();
    return row < in_base ? (*base_)[snapshot_.base->position_of(row)] : (*delta_)[row - in_base];
  }
  std::vector<int64_t> rows() const;  // ascending
  // Throw std::invalid_argument for sets of two snapshots.
  std::shared_ptr<RowSet> operator&(const RowSet& other) const;
  std::shared_ptr<RowSet> operator|(const RowSet& other) const;
  std::shared_ptr<RowSet> operator~() const;

  // Return the nodes that lead to rows of the set; there are delta nodes only if the snapshot has a
  // delta. The first call makes both.
  const NodeSet& base_nodes() const { return nodes()[0]; }
  const NodeSet& delta_nodes() const { return nodes()[1]; }
  // Returns the bytes of all bits, those of the nodes only once these are made.
  size_t nbytes() const;

 private:
  void require_same_snapshot(const RowSet& other) const {
    if (snapshot_ == other.snapshot_) return;
    throw std::invalid_argument("the two sets are of different catalogues or snapshots");
  }
  const std::vector<NodeSet>& nodes() const;

  Snapshot snapshot_;
  std::shared_ptr<const Bitmap> base_, delta_;
  mutable std::once_flag once_;
  mutable std::atomic<bool> is_made_{false};
  mutable std::vector<NodeSet> nodes_;  // of the base, and of the delta if there is one
};

inline std::shared_ptr<RowSet> RowSet::from_rows(const Snapshot& snapshot, const int64_t* rows,
                                                 int64_t num_rows) {
  const int64_t in_base = snapshot.base->num_items();
  Bitmap base(in_base), delta(snapshot.num_added());
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = rows[i];
    if (row < 0 || row >= snapshot.num_rows() || !snapshot.has(row)) {
      throw std::invalid_argument("rows[" + std::to_string(i) + "] = " + std::to_string(row) +
                                  " is not in the catalogue of " +
                                  std::to_string(snapshot.num_items()) + " items");
    }
    if (row < in_base) {
      base.set(snapshot.base->position_of(row));
    } else {
      delta.set(row - in_base);
    }
  }
  return std::make_shared<RowSet>(snapshot, std::move(base), std::move(delta));
}

inline std::vector<int64_t> RowSet::rows() const {
  std::vector<int64_t> rows;
  const int64_t in_base = snapshot_.base->num_items();
  base_->for_each({0, in_base}, [&](int64_t i) { rows.push_back(snapshot_.base->row_at(i)); });
  std::sort(rows.begin(), rows.end());
  delta_->for_each({0, delta_->size()}, [&](int64_t i) { rows.push_back(in_base + i); });
  return rows;
}

inline std::shared_ptr<RowSet> RowSet::operator&(const RowSet& other) const {
  require_same_snapshot(other);
  return std::make_shared<RowSet>(snapshot_, *base_ & *other.base_, *delta_ & *other.delta_);
}

inline std::shared_ptr<RowSet> RowSet::operator|(const RowSet& other) const {
  require_same_snapshot(other);
  return std::make_shared<RowSet>(snapshot_, *base_ | *other.base_, *delta_ | *other.delta_);
}

inline std::shared_ptr<RowSet> RowSet::operator~() const {
  Bitmap base = ~*base_;
  if (snapshot_.alive != nullptr) base = base & snapshot_.alive->at(snapshot_.num_levels() + 1);
  return std::make_shared<RowSet>(snapshot_, std::move(base), ~*delta_);
}

inline const std::vector<NodeSet>& RowSet::nodes() const {
  std::call_once(once_, [this] {
    std::vector<NodeSet> nodes;  // a call that throws, or that a fork cuts off, leaves nothing
    nodes.emplace_back(*snapshot_.base, base_);
    if (snapshot_.delta != nullptr) nodes.emplace_back(snapshot_.delta->trie, delta_);
    nodes_ = std::move(nodes);
    is_made_ = true;
  });
  return nodes_;
}

inline size_t RowSet::nbytes() const {
  if (!is_made_) return base_->nbytes() + delta_->nbytes();
  size_t total = 0;
  for (const NodeSet& nodes : nodes_) total += nodes.nbytes();
  return total;
}

}  // namespace store_engine

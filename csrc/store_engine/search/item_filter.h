// Says exactly which items each request of a batch may get, and which nodes lead to them.
//
// A node is dead for a request if there is no item below it that the request may get. Two parts say
// so: the bits of a RowSet, which any number of requests share, and a short sorted list per level
// of the nodes that die because of the items that this request excludes. The lists are made once
// per batch in O(excluded * levels * log nodes). A step then reads neither rows nor positions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/search/row_set.h"

namespace store_engine {

class ItemFilter {
 public:
  // Everything is allowed until restrict() says otherwise.
  ItemFilter(Snapshot snapshot, int64_t batch)
      : snapshot_(std::move(snapshot)), requests_(static_cast<size_t>(batch)) {}

  // Allows one request the rows in `allow` (null: all) that are not excluded; excluded rows may
  // repeat. Throws std::invalid_argument for another snapshot's set or a row out of range.
  void restrict(int64_t request, std::shared_ptr<const RowSet> allow, const int64_t* exclude,
                int64_t num_excluded);

  const Snapshot& snapshot() const { return snapshot_; }
  int64_t batch() const { return static_cast<int64_t>(requests_.size()); }
  int64_t num_allowed(int64_t request) const {
    const Request& of = requests_[request];
    const int64_t num_rows = of.allow == nullptr ? snapshot_.num_items() : of.allow->count();
    return num_rows - of.num_excluded;
  }
  // Returns whether a request may get an item: of a live catalogue by its id, else by its row.
  bool allows_item(int64_t request, int64_t item) const {
    const int64_t row = snapshot_.ids == nullptr ? item : snapshot_.find(item);
    if (row < 0 || row >= snapshot_.num_rows()) return false;
    const int64_t in_base = snapshot_.base->num_items(), level = snapshot_.num_levels() + 1;
    return row < in_base ? base_mask(request, level)[snapshot_.base->position_of(row)]
                         : delta_mask(request, level)[row - in_base];
  }
  // Return the nodes of the base and of the delta that a request may use, of a level in
  // [1, num_levels + 1]; the last level has the positions.
  NodeMask base_mask(int64_t request, int64_t level) const {
    const Request& of = requests_[request];
    const Bitmap* alive =
        of.allow == nullptr ? snapshot_.alive_nodes(level) : &of.allow->base_nodes().at(level);
    return {alive, list(of.dead_in_base, level)};
  }
  NodeMask delta_mask(int64_t request, int64_t level) const {
    if (snapshot_.delta == nullptr) return {};
    const Request& of = requests_[request];
    const Bitmap* alive = of.allow == nullptr ? nullptr : &of.allow->delta_nodes().at(level);
    return {alive, list(of.dead_in_delta, level)};
  }

 private:
  struct Request {
    std::shared_ptr<const RowSet> allow;    // null: everything
    NodeLists dead_in_base, dead_in_delta;  // empty: nothing is excluded
    int64_t num_excluded = 0;
  };
  static const std::vector<uint32_t>* list(const NodeLists& dead, int64_t level) {
    return dead.empty() || dead[level].empty() ? nullptr : &dead[level];
  }

  Snapshot snapshot_;
  std::vector<Request> requests_;
};

inline void ItemFilter::restrict(int64_t request, std::shared_ptr<const RowSet> allow,
                                 const int64_t* exclude, int64_t num_excluded) {
  const auto fail = [request](const std::string& what) {
    throw std::invalid_argument("request " + std::to_string(request) + ": " + what);
  };
  if (allow != nullptr && !(allow->snapshot() == snapshot_)) {
    fail("allow is a set of another catalogue or snapshot");
  }
  const int64_t in_base = snapshot_.base->num_items();
  std::vector<uint32_t> base, delta;  // positions
  for (int64_t i = 0; i < num_excluded; ++i) {
    const int64_t row = exclude[i];
    if (row < 0 || row >= snapshot_.num_rows()) {
      fail("excluded row " + std::to_string(row) + " is outside [0, " +
           std::to_string(snapshot_.num_rows()) + ")");
    }
    if (allow == nullptr ? !snapshot_.has(row) : !allow->has(row)) continue;
    const bool is_in_base = row < in_base;
    const int64_t position = is_in_base ? snapshot_.base->position_of(row) : row - in_base;
    (is_in_base ? base : delta).push_back(static_cast<uint32_t>(position));
  }
  Request of{std::move(allow), {}, {}, 0};
  for (std::vector<uint32_t>* positions : {&base, &delta}) {
    std::sort(positions->begin(), positions->end());
    positions->erase(std::unique(positions->begin(), positions->end()), positions->end());
    of.num_excluded += static_cast<int64_t>(positions->size());
  }
  if (!base.empty()) {
    const NodeSet* nodes = of.allow == nullptr ? snapshot_.alive.get() : &of.allow->base_nodes();
    of.dead_in_base = dead_nodes(*snapshot_.base, nodes, std::move(base));
  }
  if (!delta.empty()) {
    const NodeSet* nodes = of.allow == nullptr ? nullptr : &of.allow->delta_nodes();
    of.dead_in_delta = dead_nodes(snapshot_.delta->trie, nodes, std::move(delta));
  }
  requests_[request] = std::move(of);
}

}  // namespace store_engine

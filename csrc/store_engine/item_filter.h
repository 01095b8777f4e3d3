// Which items each request of a batch may be given, exact, and what that means for every node.
//
// A node is dead for a request iff nothing it may be given is below. Two parts say so: the bits of
// a RowSet (row_set.h), which any number of requests share, and for the items one request excludes
// a short sorted list per depth of the nodes that die with them. The lists are made once per
// batch, in O(excluded * levels * log nodes); a step then reads no row and no position.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/row_set.h"

namespace store_engine {

// The nodes of one depth that one request may use: those with their bit set, less `dead`.
struct NodeMask {
  const Bitmap* alive = nullptr;  // null: all
  const std::vector<uint32_t>* dead = nullptr;

  bool allows_all() const { return alive == nullptr && (dead == nullptr || dead->empty()); }
  bool operator[](int64_t node) const {
    return (alive == nullptr || (*alive)[node]) &&
           (dead == nullptr || !std::binary_search(dead->begin(), dead->end(), node));
  }
  // Calls use(first, bits) for the nodes of a range, 64 at most at a time: bit i says that node
  // first + i is in the range and may be used.
  template <typename Use>
  void for_each_word(Range range, const Use& use) const;
};

template <typename Use>
void NodeMask::for_each_word(Range range, const Use& use) const {
  static const std::vector<uint32_t> kNone;
  const std::vector<uint32_t>& gone = dead == nullptr ? kNone : *dead;
  auto next = std::lower_bound(gone.begin(), gone.end(), range.begin);
  for (int64_t first = range.begin / 64 * 64; first < range.end; first += 64) {
    uint64_t bits = alive == nullptr ? ~uint64_t{0} : alive->words()[first / 64];
    if (first < range.begin) bits &= ~uint64_t{0} << (range.begin - first);
    if (range.end - first < 64) bits &= ~(~uint64_t{0} << (range.end - first));
    for (; next != gone.end() && *next < first + 64; ++next) {
      bits &= ~(uint64_t{1} << (*next - first));
    }
    use(first, bits);
  }
}

class ItemFilter {
 public:
  // Everything is allowed until restrict() says otherwise.
  ItemFilter(std::shared_ptr<const ItemTrie> trie, int64_t batch)
      : trie_(std::move(trie)), requests_(batch) {}

  // Gives one request what is in `allow` (null: everything) but not among the excluded rows, which
  // may repeat. Throws std::invalid_argument for another trie's set or a row that does not exist.
  void restrict(int64_t request, std::shared_ptr<const RowSet> allow, const int64_t* exclude,
                int64_t num_excluded);

  const std::shared_ptr<const ItemTrie>& trie() const { return trie_; }
  int64_t batch() const { return static_cast<int64_t>(requests_.size()); }
  int64_t num_allowed(int64_t request) const {
    const Request& of = requests_[request];
    const int64_t num_rows = of.allow == nullptr ? trie_->num_items() : of.allow->count();
    return num_rows - (of.dead.empty() ? 0 : static_cast<int64_t>(of.dead.back().size()));
  }
  // The nodes of a depth in [1, num_levels + 1]; those of the last are the positions.
  NodeMask mask(int64_t request, int64_t depth) const {
    const Request& of = requests_[request];
    return {of.allow == nullptr ? nullptr : &of.allow->nodes().at(depth),
            of.dead.empty() ? nullptr : &of.dead[depth]};
  }

 private:
  struct Request {
    std::shared_ptr<const RowSet> allow;      // null: everything
    std::vector<std::vector<uint32_t>> dead;  // by depth; empty: nothing is excluded
  };
  std::shared_ptr<const ItemTrie> trie_;
  std::vector<Request> requests_;
};

inline void ItemFilter::restrict(int64_t request, std::shared_ptr<const RowSet> allow,
                                 const int64_t* exclude, int64_t num_excluded) {
  const auto fail = [request](const std::string& what) {
    throw std::invalid_argument("request " + std::to_string(request) + ": " + what);
  };
  if (allow != nullptr && allow->trie() != trie_) fail("allow is a set of another trie's rows");
  std::vector<uint32_t> positions;
  for (int64_t i = 0; i < num_excluded; ++i) {
    if (exclude[i] < 0 || exclude[i] >= trie_->num_items()) {
      fail("excluded row " + std::to_string(exclude[i]) + " is outside [0, " +
           std::to_string(trie_->num_items()) + ")");
    }
    const int64_t position = trie_->position_of(exclude[i]);
    if (allow == nullptr || allow->positions()[position]) {
      positions.push_back(static_cast<uint32_t>(position));
    }
  }
  std::sort(positions.begin(), positions.end());
  positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
  const NodeSet* allowed = allow == nullptr ? nullptr : &allow->nodes();
  requests_[request] = {std::move(allow), {}};
  if (!positions.empty()) {
    requests_[request].dead = dead_nodes(*trie_, allowed, std::move(positions));
  }
}

}  // namespace store_engine

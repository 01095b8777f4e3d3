// Prefix tree over the semantic IDs of a catalogue, in level order with implicit node ids.
//
// Node j of level d + 1 is position j of level d's tokens; the children of a node of level d are a
// contiguous slice of them, codes ascending (child_index.h). Node ids of one level therefore ascend
// with their SID prefix. Level 0 is the root alone; the nodes of level num_levels are the leaves,
// one per distinct SID. All rows with a leaf's SID are kept under it, ascending: they are a slice
// of the catalogue in SID order, whose indices are called positions.
//
// Tokens take 1 byte where the codebook has at most 256 codes, else 2. Rows take 4 bytes, and none
// if the catalogue already is in SID order. Building is O(num_items * num_levels).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/base/array.h"
#include "store_engine/base/bits.h"
#include "store_engine/base/parallel_for.h"
#include "store_engine/base/serialize.h"
#include "store_engine/trie/child_index.h"
#include "store_engine/trie/sort_sids.h"

namespace store_engine {

class ItemTrie {
 public:
  struct Options {
    bool is_compact = false;  // fewest bytes instead of fewest nanoseconds
    int64_t num_threads = 1;
  };

  // Throws std::invalid_argument naming the row, level and code that is out of range.
  ItemTrie(const Sids& sids, Options options);

  // Maps a file written by save(). Throws std::system_error if it cannot be read and
  // std::invalid_argument if it is not a whole and consistent trie.
  static ItemTrie load(const std::string& path);
  // Replaces `path` in one step: a reader sees the old file or the new one, never a part.
  void save(const std::string& path) const;

  int64_t num_items() const { return num_items_; }
  int64_t num_levels() const { return static_cast<int64_t>(steps_.size()); }
  int64_t codebook_size(int64_t level) const { return steps_[level].codebook_size; }
  // At level num_levels + 1: the positions.
  int64_t num_nodes(int64_t level) const {
    if (level > num_levels()) return num_items_;
    return level == 0 ? 1 : steps_[level - 1].num_tokens;
  }

  // Returns where the children of the nodes of a level begin; for level num_levels, where the
  // positions under the leaves begin.
  const ChildIndex& index(int64_t level) const {
    return level == num_levels() ? leaves_ : steps_[level].index;
  }
  // Calls use(tokens) with the codes of the nodes of level + 1, as uint8_t* or uint16_t*.
  template <typename Use>
  decltype(auto) with_tokens(int64_t level, const Use& use) const {
    const Step& step = steps_[level];
    return step.is_narrow() ? use(step.narrow.data()) : use(step.wide.data());
  }
  // The same, where the type is known from another trie with these codebook sizes.
  template <typename Token>
  const Token* tokens(int64_t level) const {
    if constexpr (sizeof(Token) == 1) {
      return steps_[level].narrow.data();
    } else {
      return steps_[level].wide.data();
    }
  }
  // The catalogue row at a position.
  int64_t row_at(int64_t position) const { return rows_.size() == 0 ? position : rows_[position]; }
  // The position of a catalogue row. Unless the catalogue is in SID order, the first call makes a
  // table of it: O(num_items) and 4 bytes per item.
  int64_t position_of(int64_t row) const;
  // The SIDs in SID order, (num_items, num_levels).
  std::vector<int32_t> sids() const;

  size_t tokens_nbytes() const {
    size_t total = 0;
    for (const Step& step : steps_) total += step.narrow.nbytes() + step.wide.nbytes();
    return total;
  }
  size_t rows_nbytes() const { return rows_.nbytes(); }
  size_t positions_nbytes() const { return positions_->is_made ? rows_.nbytes() : 0; }
  size_t nbytes() const {
    size_t total = tokens_nbytes() + leaves_.nbytes() + rows_nbytes() + positions_nbytes();
    for (const Step& step : steps_) total += step.index.nbytes();
    return total;
  }

 private:
  struct Step {  // from the nodes of one level to those of the next
    int64_t codebook_size = 0;
    int64_t num_tokens = 0;
    ChildIndex index;
    Array<uint8_t> narrow;  // (num_tokens,) if is_narrow()
    Array<uint16_t> wide;   // (num_tokens,) otherwise

    bool is_narrow() const { return codebook_size <= 256; }
    void set(int64_t node, int32_t code) {
      if (is_narrow()) {
        narrow.mutable_data()[node] = static_cast<uint8_t>(code);
      } else {
        wide.mutable_data()[node] = static_cast<uint16_t>(code);
      }
    }
  };

  ItemTrie() = default;
  void allocate(const std::vector<int64_t>& num_nodes, bool is_compact);
  void fill(const Sids& sids, const SidOrder& order, int64_t begin, int64_t end,
            std::vector<int64_t> next);
  bool has_valid_tokens(int64_t level) const;
  bool has_valid_rows() const;

  int64_t num_items_ = 0;
  std::vector<Step> steps_;
  ChildIndex leaves_;
  Array<uint32_t> rows_;  // (num_items,), or empty if position = row

  struct Positions {  // the inverse of rows_
    std::once_flag once;
    std::atomic<bool> is_made{false};
    Array<uint32_t> of_row;
  };
  std::unique_ptr<Positions> positions_ = std::make_unique<Positions>();  // so that a trie can move
};

inline ItemTrie::ItemTrie(const Sids& sids, Options options) : num_items_(sids.num_items) {
  check_sids(sids, options.num_threads);
  const SidOrder order = order_sids(sids, options.num_threads);
  rows_ = order.rows;

  // A node of level d begins wherever fewer than d codes are shared with the item before. Counted
  // per chunk, that tells every thread at which node of each level its own stretch begins.
  const int64_t num_levels = sids.num_levels();
  std::vector<std::vector<int64_t>> first(options.num_threads,
                                          std::vector<int64_t>(num_levels + 2));
  parallel_for(num_items_, options.num_threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::vector<int64_t>& begun = first[chunk];
    for (int64_t i = begin; i < end; ++i) ++begun[order.shared[i] + 1];
    for (int64_t level = 1; level <= num_levels; ++level) begun[level] += begun[level - 1];
    begun[num_levels + 1] = end - begin;  // positions
  });
  std::vector<int64_t> total(num_levels + 2);
  for (std::vector<int64_t>& of_chunk : first) {
    for (int64_t level = 0; level <= num_levels + 1; ++level) {
      total[level] += std::exchange(of_chunk[level], total[level]);
    }
  }

  for (const int64_t size : sids.codebook_sizes) steps_.emplace_back().codebook_size = size;
  allocate(total, options.is_compact);
  parallel_for(num_items_, options.num_threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    fill(sids, order, begin, end, first[chunk]);
  });
  for (Step& step : steps_) step.index.finish();
  leaves_.finish();
}

inline void ItemTrie::allocate(const std::vector<int64_t>& num_nodes, bool is_compact) {
  int64_t num_parents = 1;
  for (size_t level = 0; level < steps_.size(); ++level) {
    Step& step = steps_[level];
    step.num_tokens = num_nodes[level + 1];
    step.index = ChildIndex(num_parents, step.num_tokens, is_compact);
    if (step.is_narrow()) {
      step.narrow = Array<uint8_t>(step.num_tokens);
    } else {
      step.wide = Array<uint16_t>(step.num_tokens);
    }
    num_parents = step.num_tokens;
  }
  leaves_ = ChildIndex(num_parents, num_items_, /*is_compact=*/true);  // never read while searching
}

// Writes the nodes that begin at the positions in [begin, end). next[d]: the first of level d.
inline void ItemTrie::fill(const Sids& sids, const SidOrder& order, int64_t begin, int64_t end,
                           std::vector<int64_t> next) {
  const int64_t num_levels = sids.num_levels();
  std::vector<ChildIndex::Writer> writers;
  for (int64_t level = 0; level <= num_levels; ++level) {
    ChildIndex& index = level == num_levels ? leaves_ : steps_[level].index;
    writers.emplace_back(index, next[level], next[level + 1]);
  }
  for (int64_t i = begin; i < end; ++i) {
    const int32_t* sid = sids.row(order.row_at(i));
    const int64_t shared = order.shared[i];
    for (int64_t level = shared > 0 ? shared : 0; level < num_levels; ++level) {
      writers[level].add_child(level > shared);  // nodes below the first new one are all first
      steps_[level].set(next[level + 1]++, sid[level]);
    }
    writers[num_levels].add_child(num_levels > shared);
  }
  for (ChildIndex::Writer& writer : writers) writer.flush();
}

inline std::vector<int32_t> ItemTrie::sids() const {
  std::vector<int32_t> sids(static_cast<size_t>(num_items_ * num_levels()));
  std::vector<uint32_t> begin(static_cast<size_t>(num_items_) + 1);  // first position of each node
  std::iota(begin.begin(), begin.end(), 0);
  for (int64_t level = num_levels(); level > 0; --level) {
    index(level).for_each([&](int64_t node, Range children) {  // children come after their node
      begin[node] = begin[children.begin];
      begin[node + 1] = begin[children.end];
    });
    with_tokens(level - 1, [&](const auto* tokens) {
      for (int64_t node = 0; node < num_nodes(level); ++node) {
        for (int64_t i = begin[node]; i < begin[node + 1]; ++i) {
          sids[i * num_levels() + level - 1] = tokens[node];
        }
      }
    });
  }
  return sids;
}

inline int64_t ItemTrie::position_of(int64_t row) const {
  if (rows_.size() == 0) return row;
  std::call_once(positions_->once, [this] {
    Array<uint32_t> of_row(num_items_);
    for (int64_t i = 0; i < num_items_; ++i) of_row.mutable_data()[rows_[i]] = i;
    positions_->of_row = of_row;
    positions_->is_made = true;
  });
  return positions_->of_row[row];
}

inline void ItemTrie::save(const std::string& path) const {
  FileWriter file;
  file.number(num_items_);
  file.number(num_levels());
  file.number(rows_.size() == 0);
  for (const Step& step : steps_) {
    file.number(step.codebook_size);
    file.number(step.num_tokens);
    step.index.save(file);
    file.array(step.narrow);
    file.array(step.wide);
  }
  leaves_.save(file);
  file.array(rows_);
  file.save(path);
}

// A checksum proves that a file is whole, not that its writer was honest: every value that is later
// used as an index is checked here, once.
inline ItemTrie ItemTrie::load(const std::string& path) {
  FileReader file(path);
  ItemTrie trie;
  trie.num_items_ = file.number(0, kMaxItems);
  trie.steps_.resize(static_cast<size_t>(file.number(1, kMaxLevels)));
  const bool is_in_order = file.number(0, 1) == 1;
  for (int64_t level = 0; level < trie.num_levels(); ++level) {
    Step& step = trie.steps_[level];
    step.codebook_size = file.number(1, kMaxCodebookSize);
    step.num_tokens = file.number(0, trie.num_items_);
    step.index = ChildIndex::load(file, trie.num_nodes(level), step.num_tokens);
    step.narrow = file.array<uint8_t>(step.is_narrow() ? step.num_tokens : 0);
    step.wide = file.array<uint16_t>(step.is_narrow() ? 0 : step.num_tokens);
    file.check(trie.has_valid_tokens(level), "codes are out of range or not ascending");
  }
  trie.leaves_ = ChildIndex::load(file, trie.num_nodes(trie.num_levels()), trie.num_items_);
  trie.rows_ = file.array<uint32_t>(is_in_order ? 0 : trie.num_items_);
  file.finish();
  file.check(trie.has_valid_rows(), "rows are not a permutation");
  return trie;
}

inline bool ItemTrie::has_valid_tokens(int64_t level) const {
  return with_tokens(level, [&](const auto* tokens) {
    bool is_valid = true;
    index(level).for_each([&](int64_t, Range children) {
      for (int64_t child = children.begin; child < children.end; ++child) {
        is_valid &= tokens[child] < codebook_size(level);
        is_valid &= child == children.begin || tokens[child - 1] < tokens[child];
      }
    });
    return is_valid;
  });
}

inline bool ItemTrie::has_valid_rows() const {
  std::vector<bool> is_seen(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i] >= rows_.size() || is_seen[rows_[i]]) return false;
    is_seen[rows_[i]] = true;
  }
  return true;
}

}  // namespace store_engine

// Prefix tree over the semantic IDs of a catalogue, in level order with implicit node ids.
//
// Node j of depth d + 1 is position j of level d's tokens; the children of a node of depth d are a
// contiguous slice of them, codes ascending (child_index.h). Node ids of one depth therefore ascend
// with their SID prefix. Depth 0 is the root alone; the nodes of depth num_levels are the leaves,
// one per distinct SID. All rows with a leaf's SID are kept under it, ascending: they are a slice
// of the catalogue in SID order, whose places are called positions.
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

#include "store_engine/child_index.h"
#include "store_engine/parallel.h"
#include "store_engine/serialize.h"
#include "store_engine/sort_sids.h"

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
  int64_t num_levels() const { return static_cast<int64_t>(levels_.size()); }
  int64_t codebook_size(int64_t depth) const { return levels_[depth].codebook_size; }
  // At depth num_levels + 1: the positions.
  int64_t num_nodes(int64_t depth) const {
    if (depth > num_levels()) return num_items_;
    return depth == 0 ? 1 : levels_[depth - 1].num_tokens;
  }

  // Where the children of the nodes of a depth begin; at depth num_levels: where the positions of
  // the leaves begin.
  const ChildIndex& index(int64_t depth) const {
    return depth == num_levels() ? leaves_ : levels_[depth].index;
  }
  // Calls use(tokens) with the codes of the nodes of depth + 1, as uint8_t* or uint16_t*.
  template <typename Use>
  decltype(auto) with_tokens(int64_t depth, const Use& use) const {
    const Level& level = levels_[depth];
    return level.is_narrow() ? use(level.narrow.data()) : use(level.wide.data());
  }
  // The same, where the type is known from another trie with these codebook sizes.
  template <typename Token>
  const Token* tokens(int64_t depth) const {
    if constexpr (sizeof(Token) == 1) {
      return levels_[depth].narrow.data();
    } else {
      return levels_[depth].wide.data();
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
    for (const Level& level : levels_) total += level.narrow.nbytes() + level.wide.nbytes();
    return total;
  }
  size_t rows_nbytes() const { return rows_.nbytes(); }
  size_t positions_nbytes() const { return positions_->is_made ? rows_.nbytes() : 0; }
  size_t nbytes() const {
    size_t total = tokens_nbytes() + leaves_.nbytes() + rows_nbytes() + positions_nbytes();
    for (const Level& level : levels_) total += level.index.nbytes();
    return total;
  }

 private:
  struct Level {  // the step from depth d to depth d + 1
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
  bool has_valid_tokens(int64_t depth) const;
  bool has_valid_rows() const;

  int64_t num_items_ = 0;
  std::vector<Level> levels_;
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

  // A node of depth d begins wherever fewer than d codes are shared with the item before. Counted
  // per chunk, that tells every thread at which node of each depth its own stretch begins.
  const int64_t num_levels = sids.num_levels();
  std::vector<std::vector<int64_t>> first(options.num_threads,
                                          std::vector<int64_t>(num_levels + 2));
  parallel_chunks(num_items_, options.num_threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::vector<int64_t>& begun = first[chunk];
    for (int64_t i = begin; i < end; ++i) ++begun[order.shared[i] + 1];
    for (int64_t depth = 1; depth <= num_levels; ++depth) begun[depth] += begun[depth - 1];
    begun[num_levels + 1] = end - begin;  // positions
  });
  std::vector<int64_t> total(num_levels + 2);
  for (std::vector<int64_t>& of_chunk : first) {
    for (int64_t depth = 0; depth <= num_levels + 1; ++depth) {
      total[depth] += std::exchange(of_chunk[depth], total[depth]);
    }
  }

  for (const int64_t size : sids.codebook_sizes) levels_.emplace_back().codebook_size = size;
  allocate(total, options.is_compact);
  parallel_chunks(num_items_, options.num_threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    fill(sids, order, begin, end, first[chunk]);
  });
  for (Level& level : levels_) level.index.finish();
  leaves_.finish();
}

inline void ItemTrie::allocate(const std::vector<int64_t>& num_nodes, bool is_compact) {
  int64_t num_parents = 1;
  for (size_t depth = 0; depth < levels_.size(); ++depth) {
    Level& level = levels_[depth];
    level.num_tokens = num_nodes[depth + 1];
    level.index = ChildIndex(num_parents, level.num_tokens, is_compact);
    if (level.is_narrow()) {
      level.narrow = Array<uint8_t>(level.num_tokens);
    } else {
      level.wide = Array<uint16_t>(level.num_tokens);
    }
    num_parents = level.num_tokens;
  }
  leaves_ = ChildIndex(num_parents, num_items_, /*is_compact=*/true);  // never read while searching
}

// Writes the nodes that begin at the positions in [begin, end). next[d]: the first of depth d.
inline void ItemTrie::fill(const Sids& sids, const SidOrder& order, int64_t begin, int64_t end,
                           std::vector<int64_t> next) {
  const int64_t num_levels = sids.num_levels();
  std::vector<ChildIndex::Writer> writers;
  for (int64_t depth = 0; depth <= num_levels; ++depth) {
    ChildIndex& index = depth == num_levels ? leaves_ : levels_[depth].index;
    writers.emplace_back(index, next[depth], next[depth + 1]);
  }
  for (int64_t i = begin; i < end; ++i) {
    const int32_t* sid = sids.row(order.row_at(i));
    const int64_t shared = order.shared[i];
    for (int64_t depth = shared > 0 ? shared : 0; depth < num_levels; ++depth) {
      writers[depth].add_child(depth > shared);  // nodes below the first new one are all first
      levels_[depth].set(next[depth + 1]++, sid[depth]);
    }
    writers[num_levels].add_child(num_levels > shared);
  }
  for (ChildIndex::Writer& writer : writers) writer.flush();
}

inline std::vector<int32_t> ItemTrie::sids() const {
  std::vector<int32_t> sids(static_cast<size_t>(num_items_ * num_levels()));
  std::vector<uint32_t> begin(static_cast<size_t>(num_items_) + 1);  // first position of each node
  std::iota(begin.begin(), begin.end(), 0);
  for (int64_t depth = num_levels(); depth > 0; --depth) {
    index(depth).for_each([&](int64_t node, Range children) {  // children come after their node
      begin[node] = begin[children.begin];
      begin[node + 1] = begin[children.end];
    });
    with_tokens(depth - 1, [&](const auto* tokens) {
      for (int64_t node = 0; node < num_nodes(depth); ++node) {
        for (int64_t i = begin[node]; i < begin[node + 1]; ++i) {
          sids[i * num_levels() + depth - 1] = tokens[node];
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
  for (const Level& level : levels_) {
    file.number(level.codebook_size);
    file.number(level.num_tokens);
    level.index.save(file);
    file.array(level.narrow);
    file.array(level.wide);
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
  trie.levels_.resize(static_cast<size_t>(file.number(1, kMaxLevels)));
  const bool is_in_order = file.number(0, 1) == 1;
  for (int64_t depth = 0; depth < trie.num_levels(); ++depth) {
    Level& level = trie.levels_[depth];
    level.codebook_size = file.number(1, kMaxCodebookSize);
    level.num_tokens = file.number(0, trie.num_items_);
    level.index = ChildIndex::load(file, trie.num_nodes(depth), level.num_tokens);
    level.narrow = file.array<uint8_t>(level.is_narrow() ? level.num_tokens : 0);
    level.wide = file.array<uint16_t>(level.is_narrow() ? 0 : level.num_tokens);
    file.check(trie.has_valid_tokens(depth), "codes are out of range or not ascending");
  }
  trie.leaves_ = ChildIndex::load(file, trie.num_nodes(trie.num_levels()), trie.num_items_);
  trie.rows_ = file.array<uint32_t>(is_in_order ? 0 : trie.num_items_);
  file.finish();
  file.check(trie.has_valid_rows(), "rows are not a permutation");
  return trie;
}

inline bool ItemTrie::has_valid_tokens(int64_t depth) const {
  return with_tokens(depth, [&](const auto* tokens) {
    bool is_valid = true;
    index(depth).for_each([&](int64_t, Range children) {
      for (int64_t child = children.begin; child < children.end; ++child) {
        is_valid &= tokens[child] < codebook_size(depth);
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

// Prefix tree over the semantic IDs of a catalogue, in level order with implicit node ids.
//
// Node j of depth d + 1 is position j of depth d's `token` array, and the children of node j of
// depth d are the slice [child_begin[j], child_begin[j + 1]) of the next one, codes ascending.
// Node ids of a depth therefore ascend with their SID prefix. Depth 0 is the root alone; the nodes
// of depth num_levels are the leaves, one per distinct SID; every catalogue row with that SID is
// kept under it, ascending. Tokens take 1 byte where the codebook fits, else 2.
//
// Building is O(num_items * num_levels), with no comparison sort; walking to a child is O(1).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/serialize.h"

namespace store_engine {

constexpr int64_t kMaxLevels = 16;
constexpr int64_t kMaxCodebookSize = 65536;
constexpr int64_t kMaxItems = std::numeric_limits<uint32_t>::max() - 1;

// A half-open range of node ids or of positions.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

class ItemTrie {
 public:
  // sids: (num_items, codebook_sizes.size()), row-major, in any order, duplicates allowed.
  // Throws std::invalid_argument naming the row, level and code that is out of range.
  ItemTrie(const int32_t* sids, int64_t num_items, std::vector<int64_t> codebook_sizes);

  // Maps a file written by save(). Throws std::system_error if it cannot be read and
  // std::invalid_argument if it is not a whole and consistent trie.
  static ItemTrie load(const std::string& path);
  // Replaces `path` in one step: a reader sees the old file or the new one, never a part.
  void save(const std::string& path) const;

  int64_t num_items() const { return num_items_; }
  int64_t num_levels() const { return static_cast<int64_t>(levels_.size()); }
  int64_t codebook_size(int64_t depth) const { return levels_[depth].codebook_size; }
  int64_t num_nodes(int64_t depth) const { return depth == 0 ? 1 : levels_[depth - 1].num_tokens; }
  size_t nbytes() const;

  // The children of a node of depth < num_levels, as node ids of depth + 1.
  Range children(int64_t depth, int64_t node) const {
    return slice(levels_[depth].child_begin, node);
  }
  // Hints that children(depth, node) will be asked for soon.
  void prefetch(int64_t depth, int64_t node) const {
    __builtin_prefetch(levels_[depth].child_begin.data() + node);
  }
  // Calls use(tokens) with the codes of the nodes of depth + 1, as uint8_t* or uint16_t*.
  template <typename Use>
  decltype(auto) with_tokens(int64_t depth, const Use& use) const {
    const Level& level = levels_[depth];
    return level.codebook_size <= 256 ? use(level.narrow.data()) : use(level.wide.data());
  }
  // The positions of a leaf's rows; row_at() turns a position into a catalogue row.
  Range positions(int64_t leaf) const { return slice(leaf_begin_, leaf); }
  int64_t row_at(int64_t position) const { return rows_[position]; }

 private:
  struct Level {  // the step from depth d to depth d + 1
    int64_t codebook_size = 0;
    int64_t num_tokens = 0;
    Array<uint32_t> child_begin;  // (num_nodes(d) + 1,)
    Array<uint8_t> narrow;        // (num_tokens,) if codebook_size <= 256
    Array<uint16_t> wide;         // (num_tokens,) otherwise
  };

  ItemTrie() = default;
  static Range slice(const Array<uint32_t>& begin, int64_t i) { return {begin[i], begin[i + 1]}; }
  void allocate(const std::vector<int64_t>& num_tokens);
  void validate() const;

  int64_t num_items_ = 0;
  std::vector<Level> levels_;
  Array<uint32_t> leaf_begin_;  // (num_leaves + 1,) positions
  Array<uint32_t> rows_;        // (num_items,) catalogue rows in SID order
};

namespace detail {

inline void check_sids(const int32_t* sids, int64_t num_items, const std::vector<int64_t>& sizes) {
  const auto num_levels = static_cast<int64_t>(sizes.size());
  if (num_levels < 1 || num_levels > kMaxLevels) {
    throw std::invalid_argument("num_levels must be in [1, 16], got " + std::to_string(num_levels));
  }
  for (int64_t level = 0; level < num_levels; ++level) {
    if (sizes[level] < 1 || sizes[level] > kMaxCodebookSize) {
      throw std::invalid_argument("codebook_sizes[" + std::to_string(level) +
                                  "] must be in [1, 65536], got " + std::to_string(sizes[level]));
    }
  }
  if (num_items > kMaxItems) {
    throw std::invalid_argument("at most 4294967294 items, got " + std::to_string(num_items));
  }
  for (int64_t row = 0; row < num_items; ++row) {
    for (int64_t level = 0; level < num_levels; ++level) {
      const int64_t code = sids[row * num_levels + level];
      if (code < 0 || code >= sizes[level]) {
        throw std::invalid_argument("sids row " + std::to_string(row) + ", level " +
                                    std::to_string(level) + ": code " + std::to_string(code) +
                                    " is outside [0, " + std::to_string(sizes[level]) + ")");
      }
    }
  }
}

// Rows in SID order, equal SIDs in row order: a counting sort per level, last level first.
inline Array<uint32_t> sort_rows(const int32_t* sids, int64_t num_items,
                                 const std::vector<int64_t>& codebook_sizes) {
  const auto num_levels = static_cast<int64_t>(codebook_sizes.size());
  Array<uint32_t> rows(num_items), sorted(num_items);
  for (int64_t row = 0; row < num_items; ++row) rows.mutable_data()[row] = row;
  for (int64_t level = num_levels - 1; level >= 0; --level) {
    std::vector<int64_t> next(codebook_sizes[level] + 1);
    for (int64_t row = 0; row < num_items; ++row) ++next[sids[row * num_levels + level] + 1];
    for (size_t code = 1; code < next.size(); ++code) next[code] += next[code - 1];
    for (int64_t i = 0; i < num_items; ++i) {
      sorted.mutable_data()[next[sids[rows[i] * num_levels + level]]++] = rows[i];
    }
    std::swap(rows, sorted);
  }
  return rows;
}

}  // namespace detail

inline ItemTrie::ItemTrie(const int32_t* sids, int64_t num_items,
                          std::vector<int64_t> codebook_sizes)
    : num_items_(num_items) {
  detail::check_sids(sids, num_items, codebook_sizes);
  const auto num_levels = static_cast<int64_t>(codebook_sizes.size());
  rows_ = detail::sort_rows(sids, num_items, codebook_sizes);

  // shared[i]: how many leading codes position i has in common with the one before. A new node of
  // depth d starts wherever shared < d.
  std::vector<uint8_t> shared(num_items);
  std::vector<int64_t> num_tokens(num_levels);
  for (int64_t i = 0; i < num_items; ++i) {
    const int32_t* sid = sids + rows_[i] * num_levels;
    int64_t depth = 0;
    if (i > 0) {
      const int32_t* before = sids + rows_[i - 1] * num_levels;
      while (depth < num_levels && sid[depth] == before[depth]) ++depth;
    }
    shared[i] = static_cast<uint8_t>(depth);
    for (; depth < num_levels; ++depth) ++num_tokens[depth];
  }

  for (const int64_t size : codebook_sizes) levels_.emplace_back().codebook_size = size;
  allocate(num_tokens);
  std::vector<int64_t> next(num_levels + 1);  // next[d]: id of the next new node of depth d
  const auto open = [&](int64_t depth, int64_t child) {  // a node's first child or position
    auto& begin = depth == num_levels ? leaf_begin_ : levels_[depth].child_begin;
    begin.mutable_data()[next[depth]++] = static_cast<uint32_t>(child);
  };
  open(0, 0);
  for (int64_t i = 0; i < num_items; ++i) {
    const int32_t* sid = sids + rows_[i] * num_levels;
    for (int64_t depth = shared[i]; depth < num_levels; ++depth) {
      Level& level = levels_[depth];
      if (level.codebook_size <= 256) {
        level.narrow.mutable_data()[next[depth + 1]] = static_cast<uint8_t>(sid[depth]);
      } else {
        level.wide.mutable_data()[next[depth + 1]] = static_cast<uint16_t>(sid[depth]);
      }
      open(depth + 1, depth + 1 == num_levels ? i : next[depth + 2]);
    }
  }
  for (int64_t depth = 0; depth < num_levels; ++depth) open(depth, num_tokens[depth]);
  open(num_levels, num_items);
}

inline void ItemTrie::allocate(const std::vector<int64_t>& num_tokens) {
  int64_t num_parents = 1;
  for (size_t depth = 0; depth < levels_.size(); ++depth) {
    Level& level = levels_[depth];
    level.num_tokens = num_tokens[depth];
    level.child_begin = Array<uint32_t>(num_parents + 1);
    if (level.codebook_size <= 256) {
      level.narrow = Array<uint8_t>(level.num_tokens);
    } else {
      level.wide = Array<uint16_t>(level.num_tokens);
    }
    num_parents = level.num_tokens;
  }
  leaf_begin_ = Array<uint32_t>(num_parents + 1);
}

inline size_t ItemTrie::nbytes() const {
  size_t total = leaf_begin_.nbytes() + rows_.nbytes();
  for (const Level& level : levels_) {
    total += level.child_begin.nbytes() + level.narrow.nbytes() + level.wide.nbytes();
  }
  return total;
}

inline void ItemTrie::save(const std::string& path) const {
  FileWriter file;
  file.number(num_items_);
  file.number(num_levels());
  for (const Level& level : levels_) {
    file.number(level.codebook_size);
    file.number(level.num_tokens);
  }
  for (const Level& level : levels_) {
    file.array(level.child_begin);
    file.array(level.narrow);
    file.array(level.wide);
  }
  file.array(leaf_begin_);
  file.array(rows_);
  file.save(path);
}

inline ItemTrie ItemTrie::load(const std::string& path) {
  FileReader file(path);
  ItemTrie trie;
  trie.num_items_ = file.number(0, kMaxItems);
  trie.levels_.resize(file.number(1, kMaxLevels));
  for (Level& level : trie.levels_) {
    level.codebook_size = file.number(1, kMaxCodebookSize);
    level.num_tokens = file.number(0, trie.num_items_);
  }
  int64_t num_parents = 1;
  for (Level& level : trie.levels_) {
    const bool is_narrow = level.codebook_size <= 256;
    level.child_begin = file.array<uint32_t>(num_parents + 1);
    level.narrow = file.array<uint8_t>(is_narrow ? level.num_tokens : 0);
    level.wide = file.array<uint16_t>(is_narrow ? 0 : level.num_tokens);
    num_parents = level.num_tokens;
  }
  trie.leaf_begin_ = file.array<uint32_t>(num_parents + 1);
  trie.rows_ = file.array<uint32_t>(trie.num_items_);
  file.finish();
  trie.validate();
  return trie;
}

// A checksum proves that a file is whole, not that its writer was honest: every value that is
// later used as an index is checked here, once.
inline void ItemTrie::validate() const {
  const auto check = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(std::string("not a valid trie file: ") + what);
  };
  const auto check_pointers = [&](const Array<uint32_t>& begin, int64_t total) {
    const auto last = static_cast<int64_t>(begin.size()) - 1;
    check(begin[0] == 0 && begin[last] == total, "child pointers do not cover their level");
    for (int64_t i = 0; i < last; ++i) {
      // only the root of an empty catalogue has nothing below it
      check(begin[i] < begin[i + 1] || total == 0, "a node has no children");
    }
  };
  for (int64_t depth = 0; depth < num_levels(); ++depth) {
    check_pointers(levels_[depth].child_begin, num_nodes(depth + 1));
    with_tokens(depth, [&](const auto* tokens) {
      for (int64_t node = 0; node < num_nodes(depth); ++node) {
        const Range slots = children(depth, node);
        for (int64_t i = slots.begin; i < slots.end; ++i) {
          check(tokens[i] < codebook_size(depth), "a code is outside its codebook");
          check(i == slots.begin || tokens[i - 1] < tokens[i], "codes are not ascending");
        }
      }
    });
  }
  check_pointers(leaf_begin_, num_items_);
  std::vector<bool> is_seen(num_items_);
  for (int64_t i = 0; i < num_items_; ++i) {
    check(rows_[i] < num_items_ && !is_seen[rows_[i]], "rows are not a permutation");
    is_seen[rows_[i]] = true;
  }
}

}  // namespace store_engine

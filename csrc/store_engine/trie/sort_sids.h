// Puts the rows of a catalogue into SID order: checks, sorting, and what neighbours have in common.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "store_engine/base/array.h"
#include "store_engine/base/parallel_for.h"

namespace store_engine {

constexpr int64_t kMaxLevels = 16;
constexpr int64_t kMaxCodebookSize = 65536;
constexpr int64_t kMaxItems = std::numeric_limits<uint32_t>::max() - 1;

// The SIDs of a catalogue: (num_items, codebook_sizes.size()) codes, row-major.
struct Sids {
  const int32_t* codes;
  int64_t num_items;
  const std::vector<int64_t>& codebook_sizes;

  int64_t num_levels() const { return static_cast<int64_t>(codebook_sizes.size()); }
  const int32_t* row(int64_t row) const { return codes + row * num_levels(); }
};

// Throws std::invalid_argument naming the first size or code that is out of range.
inline void check_sids(const Sids& sids, int64_t num_threads) {
  const int64_t num_levels = sids.num_levels();
  if (num_levels < 1 || num_levels > kMaxLevels) {
    throw std::invalid_argument("num_levels must be in [1, 16], got " + std::to_string(num_levels));
  }
  for (int64_t level = 0; level < num_levels; ++level) {
    const int64_t size = sids.codebook_sizes[level];
    if (size < 1 || size > kMaxCodebookSize) {
      throw std::invalid_argument("codebook_sizes[" + std::to_string(level) +
                                  "] must be in [1, 65536], got " + std::to_string(size));
    }
  }
  if (sids.num_items > kMaxItems) {
    throw std::invalid_argument("at most 4294967294 items, got " + std::to_string(sids.num_items));
  }
  parallel_for(sids.num_items, num_threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t level = 0; level < num_levels; ++level) {
        const int64_t code = sids.row(row)[level], size = sids.codebook_sizes[level];
        if (code < 0 || code >= size) {
          throw std::invalid_argument("sids row " + std::to_string(row) + ", level " +
                                      std::to_string(level) + ": code " + std::to_string(code) +
                                      " is outside [0, " + std::to_string(size) + ")");
        }
      }
    }
  });
}

// Rows in SID order, equal SIDs in row order: a counting sort per level, last level first, each
// thread scattering its own stretch of rows.
inline Array<uint32_t> sort_rows(const Sids& sids, int64_t num_threads) {
  Array<uint32_t> rows(sids.num_items), sorted(sids.num_items);
  Array<uint16_t> codes(sids.num_items);  // of `rows`, at the level being sorted
  for (int64_t row = 0; row < sids.num_items; ++row) {
    rows.mutable_data()[row] = static_cast<uint32_t>(row);
  }
  for (int64_t level = sids.num_levels() - 1; level >= 0; --level) {
    const int64_t size = sids.codebook_sizes[level];
    // as many rows as counters at least, whatever the number of threads
    const int64_t num_chunks = std::clamp<int64_t>(sids.num_items / size, 1, num_threads);
    // next[chunk][code]: where the chunk's next row with that code goes
    std::vector<std::vector<int64_t>> next(num_chunks, std::vector<int64_t>(size));
    parallel_for(sids.num_items, num_chunks, [&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto code = static_cast<uint16_t>(sids.row(rows[i])[level]);
        codes.mutable_data()[i] = code;
        ++next[chunk][code];
      }
    });
    int64_t total = 0;
    for (int64_t code = 0; code < size; ++code) {
      for (std::vector<int64_t>& of_chunk : next) {
        total += std::exchange(of_chunk[code], total);
      }
    }
    parallel_for(sids.num_items, num_chunks, [&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        sorted.mutable_data()[next[chunk][codes[i]]++] = rows[i];
      }
    });
    std::swap(rows, sorted);
  }
  return rows;
}

// The catalogue in SID order.
struct SidOrder {
  Array<uint32_t> rows;  // (num_items,), or empty if the catalogue is in order as it stands
  Array<int8_t> shared;  // how many leading codes each has in common with the one before; first: -1

  int64_t row_at(int64_t position) const { return rows.size() == 0 ? position : rows[position]; }
};

// Fills in order.shared; returns whether the rows do ascend.
inline bool compare_neighbours(const Sids& sids, int64_t num_threads, SidOrder& order) {
  std::atomic<bool> is_sorted{true};
  int8_t* shared = order.shared.mutable_data();
  const int64_t num_levels = sids.num_levels();
  parallel_for(sids.num_items, num_threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && is_sorted; ++i) {
      const int32_t* sid = sids.row(order.row_at(i));
      const int32_t* before = sids.row(order.row_at(i > 0 ? i - 1 : 0));
      int64_t level = 0;
      while (level < num_levels && sid[level] == before[level]) ++level;
      if (level < num_levels && sid[level] < before[level]) is_sorted = false;
      shared[i] = static_cast<int8_t>(i > 0 ? level : -1);
    }
  });
  return is_sorted;
}

inline SidOrder order_sids(const Sids& sids, int64_t num_threads) {
  SidOrder order{{}, Array<int8_t>(sids.num_items)};
  if (!compare_neighbours(sids, num_threads, order)) {
    order.rows = sort_rows(sids, num_threads);
    compare_neighbours(sids, num_threads, order);
  }
  return order;
}

}  // namespace store_engine

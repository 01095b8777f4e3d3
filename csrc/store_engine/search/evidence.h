// What the histories alone say of the next item: a sparse item-item matrix in CSR form.
//
//   evidence of item j = sum over the last `num_recent` events, latest first, of
//                        decay^n * matrix[row of event n, j]
//
// One request costs its events' entries, twenty rows of some hundred, whatever the number of items:
// they are summed in a hash table of at most 50 % load, or in an array where that is smaller. Sums
// of an item run over its events in their order, so they depend neither on the batch nor on
// threads. An event of an item that the matrix does not know weighs nothing but keeps its place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "store_engine/base/bits.h"
#include "store_engine/base/parallel_for.h"
#include "store_engine/search/item_filter.h"
#include "store_engine/search/ranking_out.h"
#include "store_engine/search/top_k.h"

namespace store_engine {

// The memory of `indices` and `data` is the caller's, and stays.
struct EvidenceMatrix {
  // Throws std::invalid_argument unless rows ascend, columns are in range and numbers finite.
  EvidenceMatrix(const int64_t* indptr, int64_t num_items, const int32_t* indices,
                 const float* data, int64_t size);

  int64_t num_items() const { return static_cast<int64_t>(begins.size()) - 1; }
  // The entries of a row; none if the matrix has no such row.
  Range entries(int64_t row) const {
    if (row < 0 || row >= num_items()) return {0, 0};
    return {begins[row], begins[row + 1]};
  }

  std::vector<int64_t> begins;  // (num_items + 1,)
  const int32_t* indices;
  const float* data;
};

inline EvidenceMatrix::EvidenceMatrix(const int64_t* indptr, int64_t num_items,
                                      const int32_t* its_indices, const float* its_data,
                                      int64_t size)
    : begins(indptr, indptr + num_items + 1), indices(its_indices), data(its_data) {
  bool is_rising = begins.front() == 0 && begins.back() == size;
  for (int64_t row = 0; row < num_items; ++row) is_rising &= begins[row] <= begins[row + 1];
  if (!is_rising) throw std::invalid_argument("indptr must rise from 0 to the number of entries");
  for (int64_t i = 0; i < size; ++i) {
    if (indices[i] < 0 || indices[i] >= num_items) {
      throw std::invalid_argument("indices[" + std::to_string(i) +
                                  "] = " + std::to_string(indices[i]) + " is outside [0, " +
                                  std::to_string(num_items) + ")");
    }
    if (!std::isfinite(data[i])) {
      throw std::invalid_argument("data[" + std::to_string(i) + "] is not finite");
    }
  }
}

// The histories of a batch, and how much their events count.
struct RecentEvents {
  const int64_t* rows;     // of all requests, each oldest first
  const int64_t* offsets;  // (batch + 1,) ascending, where each request's rows begin
  int64_t batch;
  float decay;  // weight of an event, of that of the next one
  int64_t num_recent;
};

// The evidence of one request, by item; the memory of one thread.
class EvidenceSums {
 public:
  EvidenceSums(const EvidenceMatrix& matrix, const RecentEvents& events)
      : matrix_(matrix), events_(events) {}

  void sum(int64_t request);
  // Of an item in [0, num_items); 0 if it is no neighbour of the history.
  float operator[](int64_t item) const {
    const Entry& entry = entries_[find(static_cast<uint32_t>(item))];
    return entry.item == item ? entry.sum : 0.0f;
  }
  // Calls use(item, sum), in any order, for each item that is a neighbour of the history.
  template <typename Use>
  void for_each(const Use& use) const {
    for (const Entry& entry : entries_) {
      if (entry.item >= 0) use(entry.item, entry.sum);
    }
  }

 private:
  struct Entry {
    int32_t item = -1;  // none
    float sum = 0;
  };
  void reserve(int64_t num_entries);
  void add(Range row, float weight);
  // Where an item is, or the empty place where it would be.
  size_t find(uint32_t item) const {
    size_t place = item * factor_ >> shift_;
    while (entries_[place].item != static_cast<int32_t>(item) && entries_[place].item >= 0) {
      place = (place + 1) & (entries_.size() - 1);
    }
    return place;
  }

  const EvidenceMatrix& matrix_;
  const RecentEvents& events_;
  std::vector<Range> recent_;   // the entries of each event
  std::vector<Entry> entries_;  // 2^n
  uint32_t factor_ = 1;
  int shift_ = 0;
};

inline void EvidenceSums::reserve(int64_t num_entries) {
  const int64_t num_items = matrix_.num_items();
  int bits = 1;
  while (int64_t{1} << bits < std::min(2 * num_entries, num_items)) ++bits;
  const bool has_all = int64_t{1} << bits >= num_items;  // then an item is its own place
  factor_ = has_all ? 1 : 0x9e3779b1;
  shift_ = has_all ? 0 : 32 - bits;
  entries_.assign(size_t{1} << bits, Entry{});
}

inline void EvidenceSums::add(Range row, float weight) {
  for (int64_t i = row.begin; i < row.end; ++i) {
    // checked when the matrix was made; memory that was written to since harms no one here
    const auto item = static_cast<uint32_t>(matrix_.indices[i]);
    if (item >= matrix_.num_items()) continue;
    Entry& entry = entries_[find(item)];
    entry.item = static_cast<int32_t>(item);
    entry.sum += weight * matrix_.data[i];
  }
}

inline void EvidenceSums::sum(int64_t request) {
  const int64_t begin = events_.offsets[request], end = events_.offsets[request + 1];
  const int64_t num_recent = std::min(events_.num_recent, end - begin);
  recent_.clear();  // latest first
  int64_t num_entries = 0;
  for (int64_t event = end - 1; event >= end - num_recent; --event) {
    const Range row = matrix_.entries(events_.rows[event]);
    recent_.push_back(row);
    num_entries += row.size();
    __builtin_prefetch(matrix_.indices + row.begin);
    __builtin_prefetch(matrix_.data + row.begin);
  }
  reserve(num_entries);
  float weight = 1;
  for (const Range row : recent_) {
    add(row, weight);
    weight *= events_.decay;
  }
}

// Finds the items with the most evidence; of equals the lower row. Only neighbours of the history
// count, and of these only what the filter (null: all) allows.
inline void top_evidence(const EvidenceMatrix& matrix, const RecentEvents& events,
                         const ItemFilter* filter, int64_t num_threads, const RankingOut& out) {
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    EvidenceSums sums(matrix, events);
    TopK top(out.size);
    for (int64_t request = begin; request < end; ++request) {
      sums.sum(request);
      top.clear();
      sums.for_each([&](int64_t item, float score) {
        if (!(score >= top.threshold())) return;
        if (filter != nullptr && !filter->allows_item(request, item)) return;
        top.reserve(1);
        top.offer(score, item, 0, 0);
      });
      const int64_t num_found = top.sort();
      for (int64_t i = 0; i < num_found; ++i) out.put(request, i, top[i].node, top[i].score());
      out.end(request, num_found);
    }
  });
}

// Finds the evidence of items (batch, width), 0 where there is none or the matrix knows no such
// row.
inline void score_evidence(const EvidenceMatrix& matrix, const RecentEvents& events,
                           const int64_t* rows, int64_t width, int64_t num_threads, float* scores) {
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    EvidenceSums sums(matrix, events);
    for (int64_t request = begin; request < end; ++request) {
      sums.sum(request);
      for (int64_t i = request * width; i < (request + 1) * width; ++i) {
        const int64_t row = rows[i];
        scores[i] = row < 0 || row >= matrix.num_items() ? 0.0f : sums[row];
      }
    }
  });
}

}  // namespace store_engine

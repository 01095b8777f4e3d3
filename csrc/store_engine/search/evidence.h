// What the histories alone say of the next item: a sparse item-item matrix in CSR form.
//
//   evidence of item j = sum over the last `num_recent` events, latest first, of
//                        decay^n * matrix[row of event n, j]
//
// One request costs its events' entries, twenty rows of some hundred, whatever the number of items:
// they are summed in a hash table of at most 25 % load, or in an array where that is small; those
// of given items alone in a table of these, while the entries stream by. Sums of an item run over
// its events in their order, so they depend neither on the batch nor on threads. An event of an
// item that the matrix does not know weighs nothing but keeps its place.
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

// The entries of a request's events, latest first, and the weight of each event.
class EventEntries {
 public:
  EventEntries(const EvidenceMatrix& matrix, const RecentEvents& events)
      : matrix_(matrix), events_(events) {}

  // Goes to a request and returns its number of entries.
  int64_t find(int64_t request);
  // Calls use(item, vote) for each entry, event by event, latest first.
  template <typename Use>
  void for_each(const Use& use) const;
  int64_t num_items() const { return matrix_.num_items(); }

 private:
  // Hints that a row will be read soon; 256 entries of it, what comes then the CPU foresees.
  void prefetch(Range row) const {
    for (int64_t i = row.begin; i < std::min(row.end, row.begin + 256); i += 16) {
      __builtin_prefetch(matrix_.indices + i);
      __builtin_prefetch(matrix_.data + i);
    }
  }

  const EvidenceMatrix& matrix_;
  const RecentEvents& events_;
  std::vector<Range> recent_;  // the entries of each event
};

inline int64_t EventEntries::find(int64_t request) {
  const int64_t begin = events_.offsets[request], end = events_.offsets[request + 1];
  const int64_t num_recent = std::min(events_.num_recent, end - begin);
  int64_t num_entries = 0;
  recent_.clear();
  for (int64_t event = end - 1; event >= end - num_recent; --event) {
    const Range row = matrix_.entries(events_.rows[event]);
    recent_.push_back(row);
    num_entries += row.size();
    if (event == end - 1) prefetch(row);
  }
  return num_entries;
}

template <typename Use>
void EventEntries::for_each(const Use& use) const {
  float weight = 1;
  const auto num_items = static_cast<uint32_t>(matrix_.num_items());
  for (size_t event = 0; event < recent_.size(); ++event) {
    const Range row = recent_[event];
    if (event + 1 < recent_.size()) prefetch(recent_[event + 1]);
    for (int64_t i = row.begin; i < row.end; ++i) {
      // checked when the matrix was made; memory that was written to since harms no one here
      const auto item = static_cast<uint32_t>(matrix_.indices[i]);
      if (item < num_items) use(item, weight * matrix_.data[i]);
    }
    weight *= events_.decay;
  }
}

// The evidence of one request, by item; the memory of one thread.
class EvidenceSums {
 public:
  struct Entry {
    int32_t item = -1;  // none
    float sum = 0;
  };

  // Sums all entries by item.
  void sum(const EventEntries& entries, int64_t num_entries);
  // Forgets everything, and makes room for `size` items in [0, num_items).
  void reserve(int64_t size, int64_t num_items, int64_t max_array);
  // Where an item is, or the empty place where it would be.
  Entry& at(uint32_t item) {
    size_t place = item * factor_ >> shift_;
    const auto is_other = [&](const Entry& entry) {
      // one branch, for which of the two it is no one can predict
      return !((entry.item == static_cast<int32_t>(item)) | (entry.item < 0));
    };
    while (__builtin_expect(is_other(entries_[place]), 0)) {
      place = (place + 1) & (entries_.size() - 1);
    }
    return entries_[place];
  }
  // In any order; also places without an item.
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;  // 2^n
  uint32_t factor_ = 1;
  int shift_ = 0;
};

inline void EvidenceSums::reserve(int64_t size, int64_t num_items, int64_t max_array) {
  const bool has_all = num_items <= max_array;  // then an item is its own place
  const int64_t wanted = has_all ? num_items : 4 * size;
  int bits = 1;
  while (int64_t{1} << bits < wanted) ++bits;
  factor_ = has_all ? 1 : 0x9e3779b1;
  shift_ = has_all ? 0 : 32 - bits;
  entries_.assign(size_t{1} << bits, Entry{});
}

inline void EvidenceSums::sum(const EventEntries& entries, int64_t num_entries) {
  // an array has no collisions, which cost more than to clear what a cache holds anyway
  reserve(num_entries, entries.num_items(), std::max<int64_t>(4 * num_entries, 1 << 14));
  entries.for_each([&](uint32_t item, float vote) {
    Entry& entry = at(item);
    entry.item = static_cast<int32_t>(item);
    entry.sum += vote;
  });
}

// Finds the items with the most evidence; of equals the lower row. Only neighbours of the history
// count, and of these only what the filter (null: all) allows.
inline void top_evidence(const EvidenceMatrix& matrix, const RecentEvents& events,
                         const ItemFilter* filter, int64_t num_threads, const RankingOut& out) {
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    EventEntries entries(matrix, events);
    EvidenceSums sums;
    TopK top(out.size);
    for (int64_t request = begin; request < end; ++request) {
      sums.sum(entries, entries.find(request));
      top.clear();
      for (const EvidenceSums::Entry& entry : sums.entries()) {
        // one branch: whether a place is taken no one can predict, nearly all others fall short
        if (!((entry.item >= 0) & (entry.sum >= top.threshold()))) continue;
        if (filter != nullptr && !filter->allows_item(request, entry.item)) continue;
        top.reserve(1);
        top.offer(entry.sum, entry.item, 0, 0);
      }
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
  const int64_t num_items = matrix.num_items();
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    EventEntries entries(matrix, events);
    EvidenceSums sums;
    const auto is_known = [num_items](int64_t row) { return row >= 0 && row < num_items; };
    for (int64_t request = begin; request < end; ++request) {
      const int64_t *own = rows + request * width, num_entries = entries.find(request);
      if (width >= num_entries) {
        sums.sum(entries, num_entries);
      } else {
        // room for few collisions: most entries must find an empty place at once
        sums.reserve(4 * width, num_items, 64 * width);
        for (int64_t i = 0; i < width; ++i) {
          if (is_known(own[i])) {
            sums.at(static_cast<uint32_t>(own[i])).item = static_cast<int32_t>(own[i]);
          }
        }
        entries.for_each([&](uint32_t item, float vote) {
          EvidenceSums::Entry& entry = sums.at(item);
          entry.sum += entry.item >= 0 ? vote : 0.0f;
        });
      }
      for (int64_t i = 0; i < width; ++i) {
        scores[request * width + i] =
            is_known(own[i]) ? sums.at(static_cast<uint32_t>(own[i])).sum : 0.0f;
      }
    }
  });
}

}  // namespace store_engine

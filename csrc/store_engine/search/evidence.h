// What the histories alone say of the next item: a sparse item-item matrix in CSR form.
//
//   evidence of item j = sum over the last `num_recent` events, latest first, of
//                        decay^n * matrix[row of event n, j]
//
// One request costs its events' entries, twenty rows of some hundred, whatever the number of items:
// they are summed in an array where all items fit a cache, else in a hash table of at most 25 %
// load; those of given items alone in a table of these, while the entries stream by. Sums of an
// item run over its events in their order, so they depend neither on the batch nor on threads. An
// event of an item that the matrix does not know weighs nothing but keeps its place.
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
  const int32_t* indices = matrix_.indices;
  const float* data = matrix_.data;
  for (size_t event = 0; event < recent_.size(); ++event) {
    const Range row = recent_[event];
    if (event + 1 < recent_.size()) prefetch(recent_[event + 1]);
    for (int64_t i = row.begin; i < row.end; ++i) {
      // checked when the matrix was made; memory that was written to since harms no one here
      const auto item = static_cast<uint32_t>(indices[i]);
      if (item < num_items) use(item, weight * data[i]);
    }
    weight *= events_.decay;
  }
}

// The evidence of one request, by item, in a hash table; the memory of one thread.
class EvidenceTable {
 public:
  struct Entry {
    int32_t item = -1;  // none
    float sum = 0;
  };

  // Forgets everything, and makes room for `size` items.
  void reserve(int64_t size) {
    int bits = 1;
    while (int64_t{1} << bits < 4 * size) ++bits;  // few collisions, for these no one can predict
    shift_ = 32 - bits;
    entries_.assign(size_t{1} << bits, Entry{});
  }
  // Where an item is, or the empty place where it would be.
  Entry& at(uint32_t item) {
    size_t place = item * 0x9e3779b1 >> shift_;
    const auto is_other = [item](const Entry& entry) {  // one branch, for the same reason
      return !((entry.item == static_cast<int32_t>(item)) | (entry.item < 0));
    };
    while (__builtin_expect(is_other(entries_[place]), 0)) {
      place = (place + 1) & (entries_.size() - 1);
    }
    return entries_[place];
  }
  void sum(const EventEntries& entries, int64_t num_entries) {
    reserve(num_entries);
    entries.for_each([this](uint32_t item, float vote) {
      Entry& entry = at(item);
      entry.item = static_cast<int32_t>(item);
      entry.sum += vote;
    });
  }
  // Calls use(item, sum) for each item with at least bound(), in any order.
  template <typename Bound, typename Use>
  void for_each_above(const Bound& bound, const Use& use) const {
    for (const Entry& entry : entries_) {
      if ((entry.item >= 0) & (entry.sum >= bound())) use(entry.item, entry.sum);
    }
  }

 private:
  std::vector<Entry> entries_;  // 2^n
  int shift_ = 0;
};

// The same in an array of all items. Where the entries are about as many as these, all are looked
// at in the end; else those that were found, which cost more to note.
class EvidenceArray {
 public:
  static constexpr int64_t kMaxItems = 1 << 17;  // 512 KiB, in a second-level cache
  static bool looks_at_all(int64_t num_items, int64_t num_entries) {
    return num_items <= 2 * num_entries;
  }

  void sum(const EventEntries& entries, int64_t num_entries) {
    const auto num_items = static_cast<size_t>(entries.num_items());
    clear(num_items);
    has_list_ = !looks_at_all(entries.num_items(), num_entries);
    float* sums = sums_.data();
    uint8_t* is_found = is_found_.data();
    if (!has_list_) {
      entries.for_each([sums, is_found](uint32_t item, float vote) {
        is_found[item] = 1;
        sums[item] += vote;
      });
      return;
    }
    found_.resize(static_cast<size_t>(num_entries) + 1);
    uint32_t* end = found_.data();
    entries.for_each([sums, is_found, &end](uint32_t item, float vote) {  // without a branch
      *end = item;
      end += 1 - is_found[item];
      is_found[item] = 1;
      sums[item] += vote;
    });
    found_.resize(static_cast<size_t>(end - found_.data()));
  }
  float at(uint32_t item) const { return sums_[item]; }
  template <typename Bound, typename Use>
  void for_each_above(const Bound& bound, const Use& use) const {
    if (has_list_) {
      for (const uint32_t item : found_) {
        if (sums_[item] >= bound()) use(item, sums_[item]);
      }
      return;
    }
    for (size_t item = 0; item < sums_.size(); ++item) {
      if ((is_found_[item] != 0) & (sums_[item] >= bound())) use(item, sums_[item]);
    }
  }

 private:
  void clear(size_t num_items) {
    if (has_list_) {
      for (const uint32_t item : found_) {
        sums_[item] = 0;
        is_found_[item] = 0;
      }
      sums_.resize(num_items);
      is_found_.resize(num_items);
    } else {
      sums_.assign(num_items, 0.0f);
      is_found_.assign(num_items, 0);
    }
    found_.clear();
  }

  bool has_list_ = true;
  std::vector<float> sums_;
  std::vector<uint8_t> is_found_;  // not bits: entries of neighbours would wait for each other
  std::vector<uint32_t> found_;    // only if has_list_
};

// Finds the items with the most evidence; of equals the lower row. Only neighbours of the history
// count, and of these only what the filter (null: all) allows.
template <typename Sums>
void top_evidence_by(const EvidenceMatrix& matrix, const RecentEvents& events,
                     const ItemFilter* filter, int64_t num_threads, const RankingOut& out) {
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    EventEntries entries(matrix, events);
    Sums sums;
    TopK top(out.size);
    const auto bound = [&top] { return top.threshold(); };
    for (int64_t request = begin; request < end; ++request) {
      const int64_t num_entries = entries.find(request);
      sums.sum(entries, num_entries);
      top.clear();
      sums.for_each_above(bound, [&](int64_t item, float sum) {
        if (filter != nullptr && !filter->allows_item(request, item)) return;
        top.reserve(1);
        top.offer(sum, item, 0, 0);
      });
      const int64_t num_found = top.sort();
      for (int64_t i = 0; i < num_found; ++i) out.put(request, i, top[i].node, top[i].score());
      out.end(request, num_found);
    }
  });
}

inline void top_evidence(const EvidenceMatrix& matrix, const RecentEvents& events,
                         const ItemFilter* filter, int64_t num_threads, const RankingOut& out) {
  if (matrix.num_items() <= EvidenceArray::kMaxItems) {
    top_evidence_by<EvidenceArray>(matrix, events, filter, num_threads, out);
  } else {
    top_evidence_by<EvidenceTable>(matrix, events, filter, num_threads, out);
  }
}

// Finds the evidence of items (batch, width), 0 where there is none or the matrix knows no such
// row.
inline void score_evidence(const EvidenceMatrix& matrix, const RecentEvents& events,
                           const int64_t* rows, int64_t width, int64_t num_threads, float* scores) {
  const int64_t num_items = matrix.num_items();
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    EventEntries entries(matrix, events);
    EvidenceTable sums;
    EvidenceArray all;
    const auto is_known = [num_items](int64_t row) { return row >= 0 && row < num_items; };
    for (int64_t request = begin; request < end; ++request) {
      const int64_t* own = rows + request * width;
      const int64_t num_entries = entries.find(request);
      if (EvidenceArray::looks_at_all(num_items, num_entries)) {
        all.sum(entries, num_entries);
        for (int64_t i = 0; i < width; ++i) {
          scores[request * width + i] =
              is_known(own[i]) ? all.at(static_cast<uint32_t>(own[i])) : 0.0f;
        }
        continue;
      }
      if (4 * width > num_entries) {
        sums.sum(entries, num_entries);
      } else {
        sums.reserve(4 * width);  // most entries must find an empty place at once
        for (int64_t i = 0; i < width; ++i) {
          if (!is_known(own[i])) continue;
          sums.at(static_cast<uint32_t>(own[i])).item = static_cast<int32_t>(own[i]);
        }
        entries.for_each([&](uint32_t item, float vote) {
          EvidenceTable::Entry& entry = sums.at(item);
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

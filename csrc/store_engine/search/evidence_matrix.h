// A sparse item-item matrix in CSR form, and the entries in it of histories' recent events.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "store_engine/base/bits.h"

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

}  // namespace store_engine

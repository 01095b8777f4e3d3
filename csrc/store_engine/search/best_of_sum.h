// The best of given candidates by the sum of two scores, each item once.
//
// O(width log width) per request.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "store_engine/base/parallel_for.h"
#include "store_engine/simd/vec.h"

namespace store_engine {

// What competes; a row that comes again is that which came first.
struct Candidates {
  const int64_t* rows;    // (batch, width), negative for none
  const float* logprobs;  // (batch, width), -inf for none
  const float* evidence;  // (batch, width)
  const int32_t* sids;    // (num_items, num_levels), which decide between equal sums
  int64_t batch, width, num_levels;
};

// Where the k best go: row -1, log-probability -inf and evidence 0 where there are no more.
struct BestOut {
  int64_t k;
  int64_t* rows;    // (batch, k)
  float* logprobs;  // (batch, k)
  float* evidence;  // (batch, k)
};

// Of equal sums the lower SID is better, then the lower row. Rows must be below num_items.
// Throws std::invalid_argument for a sum that is NaN.
inline void best_of_sum(const Candidates& candidates, int64_t num_threads, const BestOut& out) {
  const int64_t width = candidates.width, num_levels = candidates.num_levels;
  const ParallelOptions options{16 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(candidates.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<int64_t> order;
    std::vector<float> sums(static_cast<size_t>(width));
    for (int64_t request = begin; request < end; ++request) {
      const int64_t* rows = candidates.rows + request * width;
      const float* logprobs = candidates.logprobs + request * width;
      const float* evidence = candidates.evidence + request * width;
      order.clear();
      for (int64_t i = 0; i < width; ++i) {
        sums[i] = logprobs[i] + evidence[i];
        if (rows[i] < 0 || logprobs[i] == -kInfinity) continue;
        if (std::isnan(sums[i])) {
          throw std::invalid_argument("request " + std::to_string(request) + ": a sum is NaN");
        }
        order.push_back(i);
      }
      std::sort(order.begin(), order.end(), [rows](int64_t a, int64_t b) {
        return std::tie(rows[a], a) < std::tie(rows[b], b);
      });
      const auto is_again = [rows](int64_t a, int64_t b) { return rows[a] == rows[b]; };
      order.erase(std::unique(order.begin(), order.end(), is_again), order.end());
      const auto is_better = [&](int64_t a, int64_t b) {
        if (sums[a] != sums[b]) return sums[a] > sums[b];
        const int32_t* own = candidates.sids + rows[a] * num_levels;
        const int32_t* other = candidates.sids + rows[b] * num_levels;
        const auto [x, y] = std::mismatch(own, own + num_levels, other);
        return x == own + num_levels ? rows[a] < rows[b] : *x < *y;
      };
      const int64_t num_found = std::min(out.k, static_cast<int64_t>(order.size()));
      std::partial_sort(order.begin(), order.begin() + num_found, order.end(), is_better);
      for (int64_t rank = 0; rank < out.k; ++rank) {
        const int64_t to = request * out.k + rank;
        const bool is_one = rank < num_found;
        out.rows[to] = is_one ? rows[order[rank]] : -1;
        out.logprobs[to] = is_one ? logprobs[order[rank]] : -kInfinity;
        out.evidence[to] = is_one ? evidence[order[rank]] : 0.0f;
      }
    }
  });
}

}  // namespace store_engine

// Where the best items of each request of a batch go.
#pragma once

#include <cstdint>

#include "store_engine/simd/vec.h"

namespace store_engine {

// Best first; from where a request has no more on, rows are -1 and scores -inf.
struct RankingOut {
  int64_t size;
  int64_t* rows;  // (batch, size)
  float* scores;  // (batch, size)

  void put(int64_t request, int64_t rank, int64_t row, float score) const {
    rows[request * size + rank] = row;
    scores[request * size + rank] = score;
  }
  // Says that a request has num_found and no more.
  void end(int64_t request, int64_t num_found) const {
    for (int64_t rank = num_found; rank < size; ++rank) put(request, rank, -1, -kInfinity);
  }
};

}  // namespace store_engine

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
#include <cstdint>
#include <cstring>
#include <vector>

#include "store_engine/base/parallel_for.h"
#include "store_engine/search/evidence_matrix.h"
#include "store_engine/search/evidence_sums.h"
#include "store_engine/search/item_filter.h"
#include "store_engine/search/ranking_out.h"
#include "store_engine/search/top_k.h"

namespace store_engine {

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
    EvidenceArray all;
    EvidenceTable some;
    const auto is_known = [num_items](int64_t row) { return row >= 0 && row < num_items; };
    for (int64_t request = begin; request < end; ++request) {
      const int64_t* own = rows + request * width;
      const int64_t num_entries = entries.find(request);
      const bool is_array = EvidenceArray::looks_at_all(num_items, num_entries);
      if (is_array) {
        all.sum(entries, num_entries);
      } else if (4 * width > num_entries) {
        some.sum(entries, num_entries);
      } else {
        some.reserve(4 * width);  // most entries must find an empty place at once
        for (int64_t i = 0; i < width; ++i) {
          if (is_known(own[i]))
            some.at(static_cast<uint32_t>(own[i])).item = static_cast<int32_t>(own[i]);
        }
        entries.for_each([&some](uint32_t item, float vote) {
          EvidenceTable::Entry& entry = some.at(item);
          entry.value += entry.item >= 0 ? vote : 0.0f;
        });
      }
      for (int64_t i = 0; i < width; ++i) {
        const auto item = static_cast<uint32_t>(own[i]);
        const float sum = !is_known(own[i]) ? 0.0f : is_array ? all.at(item) : some.at(item).value;
        scores[request * width + i] = sum;
      }
    }
  });
}

// Other votes at the entries of a matrix, of several terms that each decay in their own way.
struct TermVotes {
  const uint16_t* halfs;  // (num_entries, num_terms) float16, not negative
  int64_t num_terms;
  const float* decays;  // (num_terms,)
};

// A float16 that is finite and not negative, exactly: its bits are those of a float 2^112 too
// small.
inline float from_half(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float scaled;
  std::memcpy(&scaled, &bits, sizeof(scaled));
  return scaled * 0x1p112f;
}

// Sums every term's votes for items (batch, width) into (batch, width, num_terms); 0 for an item
// without votes, or that the matrix does not know. Entries stream by once for all terms, and most
// are of items that nobody asked for. `events.decay` plays no part.
inline void sum_terms(const EvidenceMatrix& matrix, const TermVotes& terms,
                      const RecentEvents& events, const int64_t* rows, int64_t width,
                      int64_t num_threads, float* sums) {
  const int64_t num_items = matrix.num_items(), num_terms = terms.num_terms;
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(events.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    struct Hit {
      int64_t entry, place;
    };
    ListedItems listed;
    std::vector<Hit> hits;          // of a request, event by event
    std::vector<int64_t> num_hits;  // until each event's last
    std::vector<float> weights(num_terms);
    for (int64_t request = begin; request < end; ++request) {
      const int64_t* own = rows + request * width;
      float* its_sums = sums + request * width * num_terms;
      std::fill_n(its_sums, width * num_terms, 0.0f);
      listed.list(own, width, num_items);
      hits.clear();
      num_hits.clear();
      const int64_t first = events.offsets[request], last = events.offsets[request + 1] - 1;
      for (int64_t event = last; event >= first && last - event < events.num_recent; --event) {
        const Range entries = matrix.entries(events.rows[event]);
        for (int64_t i = entries.begin; i < entries.end; ++i) {
          const int64_t place = listed.find(static_cast<uint32_t>(matrix.indices[i]));
          if (place < 0) continue;
          __builtin_prefetch(terms.halfs + i * num_terms);  // read when all hits are known
          hits.push_back({i, place});
        }
        num_hits.push_back(static_cast<int64_t>(hits.size()));
      }
      std::fill(weights.begin(), weights.end(), 1.0f);
      size_t hit = 0;
      for (const int64_t event_end : num_hits) {
        for (; hit < static_cast<size_t>(event_end); ++hit) {
          float* sum = its_sums + hits[hit].place * num_terms;
          const uint16_t* votes = terms.halfs + hits[hit].entry * num_terms;
          for (int64_t t = 0; t < num_terms; ++t) sum[t] += weights[t] * from_half(votes[t]);
        }
        for (int64_t t = 0; t < num_terms; ++t) weights[t] *= terms.decays[t];
      }
      for (int64_t i = 0; i < width; ++i) {  // an item that comes again
        if (own[i] < 0 || own[i] >= num_items) continue;
        const int64_t place = listed.find(static_cast<uint32_t>(own[i]));
        if (place != i)
          std::copy_n(its_sums + place * num_terms, num_terms, its_sums + i * num_terms);
      }
    }
  });
}

}  // namespace store_engine

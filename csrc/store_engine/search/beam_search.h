// One step of beam search over the trie of a Snapshot: log-softmax, the children that exist, and
// top-k, in one pass.
//
// Beams are taken in descending score. As log p <= 0, no child scores above its beam: once a beam
// is below the width-th best candidate, it and all after it are skipped. Each beam that is not
// skipped costs one log-sum-exp and a look at its children. Candidates are ordered by score, then
// by node id, which is SID order, then by parent slot, so results depend neither on the threads nor
// on the batch.
//
// Only children with an item below them that was not removed and that the ItemFilter allows count:
// the result is that of a trie of the allowed items alone, but for its node ids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "store_engine/base/bits.h"
#include "store_engine/base/parallel_for.h"
#include "store_engine/search/allowed_children.h"
#include "store_engine/search/item_filter.h"
#include "store_engine/search/softmax.h"
#include "store_engine/search/top_k.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine {

// What log-probabilities are normalised over: the level's codebook or the node's children.
enum class Normalize { kCodebook, kChildren };

// The beams of a batch, all at one level. Slots from num_valid on are not read.
struct Beams {
  int64_t batch, beam_width, vocab_size;
  const float* logits;       // (batch, beam_width, vocab_size), or null:
  const uint16_t* bfloat16;  // the same, as bfloat16
  const float* scores;       // (batch, beam_width), any order
  const int64_t* nodes;      // (batch, beam_width)
  const int64_t* num_valid;  // (batch,)
};

// Where one step's best children go, best first. Slots from num_valid on are -inf and -1.
struct BeamStepOut {
  int64_t width;
  float* scores;       // (batch, width)
  int64_t* parents;    // (batch, width), the slot of the beam it extends
  int64_t* tokens;     // (batch, width)
  int64_t* nodes;      // (batch, width), of the next level
  int64_t* num_valid;  // (batch,)
};

// The work on one request, with the scratch memory of one thread.
class RequestStep {
 public:
  RequestStep(const Snapshot& snapshot, int64_t level, const Beams& beams, const ItemFilter* filter,
              Normalize normalize, int64_t width)
      : snapshot_(snapshot),
        level_(level),
        beams_(beams),
        filter_(filter),
        normalize_(normalize),
        top_(width) {
    beam_.reserve(static_cast<size_t>(beams.beam_width));
    if (beams.logits == nullptr) wide_.resize(static_cast<size_t>(beams.vocab_size));
  }

  // Throws std::invalid_argument naming the request and beam whose input is impossible.
  void run(int64_t request, const BeamStepOut& out);

 private:
  static constexpr int64_t kFew = 8;  // children offered without a look at their logits; measured

  struct Beam {  // copied out of the caller's arrays once, so that what was checked is what is used
    float score, max;
    int64_t slot, node;
    ChildRanges children;
  };
  void read(int64_t request);
  // The logits of a beam as floats, valid until the next call.
  const float* logits(int64_t request, const Beam& beam) {
    const int64_t size = beams_.vocab_size;
    const int64_t begin = (request * beams_.beam_width + beam.slot) * size;
    if (beams_.logits != nullptr) return beams_.logits + begin;
    kernels_.widen_bfloat16(beams_.bfloat16 + begin, size, wide_.data());
    return wide_.data();
  }
  // Hints that these logits will be asked for soon.
  void prefetch_logits(int64_t request, int64_t slot) const {
    if (request >= beams_.batch || beams_.logits == nullptr) return;
    const float* row = beams_.logits + (request * beams_.beam_width + slot) * beams_.vocab_size;
    for (int64_t i = 0; i < beams_.vocab_size; i += kLanes) __builtin_prefetch(row + i);
  }
  template <typename Token>
  void expand(const float* row, const Beam& beam, const AllowedChildren<Token>& children);
  template <typename Token>
  float normalizer(const float* row, const Beam& beam, const AllowedChildren<Token>& children);

  const Snapshot& snapshot_;
  const int64_t level_;
  const Beams& beams_;
  const ItemFilter* const filter_;  // null: everything is allowed
  const Normalize normalize_;
  TopK top_;
  std::vector<Beam> beam_;
  std::vector<float> wide_, child_logits_;
  const SoftmaxKernels kernels_ = simd::kernels<SoftmaxKernels>();
};

inline void RequestStep::read(int64_t request) {
  const auto fail = [request](const std::string& what) {
    throw std::invalid_argument("request " + std::to_string(request) + ": " + what);
  };
  const int64_t num_valid = beams_.num_valid[request];
  if (num_valid < 0 || num_valid > beams_.beam_width) {
    fail("num_valid must be in [0, " + std::to_string(beams_.beam_width) + "], got " +
         std::to_string(num_valid));
  }
  const int64_t num_nodes = snapshot_.num_nodes(level_);
  beam_.clear();
  for (int64_t slot = 0; slot < num_valid; ++slot) {
    const int64_t i = request * beams_.beam_width + slot;
    const Beam beam{beams_.scores[i], 0, slot, beams_.nodes[i], {}};
    if (beam.node < 0 || beam.node >= num_nodes) {
      fail("beam " + std::to_string(slot) + ": node " + std::to_string(beam.node) +
           " is outside [0, " + std::to_string(num_nodes) + ")");
    }
    if (!(beam.score < kInfinity)) fail("beam " + std::to_string(slot) + ": score NaN or +inf");
    if (snapshot_.delta == nullptr) snapshot_.base->index(level_).prefetch(beam.node);
    beam_.push_back(beam);
  }
  for (Beam& beam : beam_) {  // the memory asked for arrives meanwhile
    const float* row = logits(request, beam);
    beam.max = kernels_.row_max(row, beams_.vocab_size);
    if (!(beam.max < kInfinity)) {
      fail("beam " + std::to_string(beam.slot) + ": logits NaN or +inf");
    }
  }
  const auto by_score = [](const Beam& a, const Beam& b) { return a.score > b.score; };
  if (!std::is_sorted(beam_.begin(), beam_.end(), by_score)) {
    std::stable_sort(beam_.begin(), beam_.end(), by_score);
  }
}

template <typename Token>
float RequestStep::normalizer(const float* row, const Beam& beam,
                              const AllowedChildren<Token>& children) {
  if (normalize_ == Normalize::kCodebook) {
    return kernels_.log_sum_exp(row, beams_.vocab_size, beam.max);
  }
  child_logits_.resize(static_cast<size_t>(beam.children.size()));
  float* next = child_logits_.data();
  children.for_each_code(beam.children, [&next, row](int64_t code) { *next++ = row[code]; });
  const int64_t size = next - child_logits_.data();
  const float max = kernels_.row_max(child_logits_.data(), size);
  return kernels_.log_sum_exp(child_logits_.data(), size, max);
}

template <typename Token>
void RequestStep::expand(const float* row, const Beam& beam,
                         const AllowedChildren<Token>& children) {
  const float lse = normalizer(row, beam, children);
  if (lse == -kInfinity) return;
  const auto offer = [this, row, lse, score = beam.score, slot = beam.slot](int64_t node,
                                                                            int64_t code) {
    top_.offer(score + (row[code] - lse), node, slot, code);
  };
  const auto select = [&](const Token* codes, int64_t size) {
    top_.reserve(static_cast<size_t>(size));
    if (size < kFew) return low_bits(size);
    return kernels_.above(codes)(row, codes, size, beam.score, lse, top_.threshold());
  };
  children.for_each_selected(beam.children, select, offer);
}

inline void RequestStep::run(int64_t request, const BeamStepOut& out) {
  read(request);
  top_.clear();
  const NodeMask base_mask = filter_ != nullptr ? filter_->base_mask(request, level_ + 1)
                                                : NodeMask{snapshot_.alive_nodes(level_ + 1)};
  const NodeMask delta_mask =
      filter_ != nullptr ? filter_->delta_mask(request, level_ + 1) : NodeMask{};
  snapshot_.base->with_tokens(level_, [&](const auto* tokens) {
    using Token = std::remove_cv_t<std::remove_pointer_t<decltype(tokens)>>;
    const AllowedChildren<Token> children(snapshot_, level_, base_mask, delta_mask);
    for (Beam& beam : beam_) {
      beam.children = snapshot_.children(level_, beam.node);
      children.prefetch(beam.children);
    }
    for (const Beam& beam : beam_) {
      prefetch_logits(request + 1, beam.slot);
      if (beam.score < top_.threshold() || beam.score == -kInfinity) break;
      expand(logits(request, beam), beam, children);
    }
  });

  const int64_t num_valid = top_.sort();
  out.num_valid[request] = num_valid;
  for (int64_t slot = 0; slot < out.width; ++slot) {
    const int64_t i = request * out.width + slot;
    if (slot < num_valid) {
      out.scores[i] = top_[slot].score();
      out.parents[i] = top_[slot].parent;
      out.tokens[i] = top_[slot].token;
      out.nodes[i] = top_[slot].node;
    } else {
      out.scores[i] = -kInfinity;
      out.parents[i] = out.tokens[i] = out.nodes[i] = -1;
    }
  }
}

// Extends every beam of `level` to its children and keeps the out.width best per request.
// Throws std::invalid_argument for NaN or +inf in what a valid beam reads, and for bad nodes.
inline void beam_step(const Snapshot& snapshot, int64_t level, const Beams& beams,
                      const ItemFilter* filter, Normalize normalize, int64_t num_threads,
                      const BeamStepOut& out) {
  const ParallelOptions options{num_threads, num_threads, Threads::kOpenMp};
  parallel_for(beams.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    RequestStep step(snapshot, level, beams, filter, normalize, out.width);
    for (int64_t request = begin; request < end; ++request) step.run(request, out);
  });
}

}  // namespace store_engine

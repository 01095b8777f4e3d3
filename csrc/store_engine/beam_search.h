// One step of beam search over an ItemTrie: log-softmax, children only, top-k, all in one pass.
//
// Beams are taken in descending score. As log p <= 0, no child scores above its beam: once a beam
// is below the width-th best candidate, it and all after it are skipped. Cost per request is one
// log-sum-exp and the real children of each beam looked at, never beams * codebook.
// Candidates are ordered by score, then lower node id (= lower SID), so results depend neither on
// threads nor on the batch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "store_engine/item_trie.h"
#include "store_engine/parallel.h"
#include "store_engine/softmax.h"

namespace store_engine {

// What log-probabilities are normalised over: the level's codebook or the node's children.
enum class Normalize { kVocab, kChildren };

// The beams of a batch, all at one depth. Slots from num_valid on are not read.
struct Beams {
  int64_t batch, beam_width, vocab_size;
  const float* logits;       // (batch, beam_width, vocab_size)
  const float* scores;       // (batch, beam_width), any order
  const int64_t* nodes;      // (batch, beam_width)
  const int64_t* num_valid;  // (batch,)
};

// Where the best children go, best first. Slots from num_valid on are -inf and -1.
struct Children {
  int64_t width;
  float* scores;       // (batch, width)
  int64_t* parents;    // (batch, width), the slot of the beam it extends
  int64_t* tokens;     // (batch, width)
  int64_t* nodes;      // (batch, width), of the next depth
  int64_t* num_valid;  // (batch,)
};

// The `width` best of the candidates pushed so far, in bounded memory.
class TopK {
 public:
  struct Candidate {
    uint64_t key;  // ascending = better: the score, descending, then the node id, ascending
    uint32_t parent, token;
    bool operator<(const Candidate& other) const {
      return key != other.key ? key < other.key : parent < other.parent;
    }
    int64_t node() const { return static_cast<uint32_t>(key); }
    float score() const {
      uint32_t bits = ~static_cast<uint32_t>(key >> 32);
      bits = bits >> 31 ? bits & 0x7fffffff : ~bits;
      float score;
      std::memcpy(&score, &bits, sizeof(score));
      return score;
    }
  };

  explicit TopK(int64_t width) : width_(static_cast<size_t>(width)) {}

  void clear() {
    candidates_.clear();
    threshold_ = -kInfinity;
  }
  // Candidates below this cannot be among the best; -inf until there are enough.
  float threshold() const { return threshold_; }
  void push(float score, int64_t node, int64_t parent, int64_t token) {
    score += 0.0f;  // -0 becomes +0, for they are equal but their bits are not
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof(bits));
    bits = bits >> 31 ? ~bits : bits | 0x80000000;  // unsigned order = float order
    candidates_.push_back({uint64_t{~bits} << 32 | static_cast<uint32_t>(node),
                           static_cast<uint32_t>(parent), static_cast<uint32_t>(token)});
    // several times the width, so that a cut is rare and its cost is spread
    if (candidates_.size() >= 2 * width_ + 64) cut();
  }
  // The best candidates, best first.
  const std::vector<Candidate>& sorted() {
    if (candidates_.size() > width_) cut();
    std::sort(candidates_.begin(), candidates_.end());
    return candidates_;
  }

 private:
  void cut() {
    const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(width_) - 1;
    std::nth_element(candidates_.begin(), last, candidates_.end());
    threshold_ = last->score();
    candidates_.resize(width_);
  }

  size_t width_;
  float threshold_ = -kInfinity;
  std::vector<Candidate> candidates_;
};

// The scratch memory of one thread, and the work on one request.
class RequestStep {
 public:
  RequestStep(const ItemTrie& trie, int64_t depth, const Beams& beams, Normalize normalize,
              int64_t width)
      : trie_(trie), depth_(depth), beams_(beams), normalize_(normalize), top_(width) {
    beam_.reserve(static_cast<size_t>(beams.beam_width));
    is_above_.resize(static_cast<size_t>(beams.vocab_size / kLanes + 1));
  }

  // Throws std::invalid_argument naming the request and beam whose input is impossible.
  void run(int64_t request, const Children& out);

 private:
  struct Beam {  // copied out of the caller's arrays once, so that what was checked is what is used
    float score, max;
    int64_t slot, node;
  };
  void read(int64_t request);
  template <typename Token>
  void expand(const float* row, const Beam& beam, const Token* tokens);
  template <typename Token>
  float normalizer(const float* row, const Beam& beam, Range children, const Token* tokens);

  const ItemTrie& trie_;
  const int64_t depth_;
  const Beams& beams_;
  const Normalize normalize_;
  TopK top_;
  std::vector<Beam> beam_;
  std::vector<float> child_logits_;
  std::vector<uint16_t> is_above_;  // one bit per code
  const SoftmaxKernels& kernels_ = softmax_kernels().front();
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
  beam_.clear();
  for (int64_t slot = 0; slot < num_valid; ++slot) {
    const int64_t i = request * beams_.beam_width + slot;
    const float* row = beams_.logits + i * beams_.vocab_size;
    const Beam beam{beams_.scores[i], kernels_.row_max(row, beams_.vocab_size), slot,
                    beams_.nodes[i]};
    if (beam.node < 0 || beam.node >= trie_.num_nodes(depth_)) {
      fail("beam " + std::to_string(slot) + ": node " + std::to_string(beam.node) +
           " is outside [0, " + std::to_string(trie_.num_nodes(depth_)) + ")");
    }
    if (!(beam.score < kInfinity)) fail("beam " + std::to_string(slot) + ": score NaN or +inf");
    if (!(beam.max < kInfinity)) fail("beam " + std::to_string(slot) + ": logits NaN or +inf");
    beam_.push_back(beam);
  }
  const auto by_score = [](const Beam& a, const Beam& b) { return a.score > b.score; };
  if (!std::is_sorted(beam_.begin(), beam_.end(), by_score)) {
    std::stable_sort(beam_.begin(), beam_.end(), by_score);
  }
}

template <typename Token>
float RequestStep::normalizer(const float* row, const Beam& beam, Range children,
                              const Token* tokens) {
  if (normalize_ == Normalize::kVocab)
    return kernels_.log_sum_exp(row, beams_.vocab_size, beam.max);
  child_logits_.resize(static_cast<size_t>(children.size()));
  for (int64_t i = 0; i < children.size(); ++i) {
    child_logits_[i] = row[tokens[children.begin + i]];
  }
  const float max = kernels_.row_max(child_logits_.data(), children.size());
  return kernels_.log_sum_exp(child_logits_.data(), children.size(), max);
}

template <typename Token>
void RequestStep::expand(const float* row, const Beam& beam, const Token* tokens) {
  const Range children = trie_.children(depth_, beam.node);
  const float lse = normalizer(row, beam, children, tokens);
  if (lse == -kInfinity) return;
  const auto consider = [&](int64_t node) {
    const float score = beam.score + (row[tokens[node]] - lse);
    // an equal score may still win by its lower SID; -inf means that the model forbids the code
    if (score >= top_.threshold() && score > -kInfinity) {
      top_.push(score, node, beam.slot, tokens[node]);
    }
  };
  if (children.size() * 8 < beams_.vocab_size || top_.threshold() == -kInfinity) {
    for (int64_t node = children.begin; node < children.end; ++node) consider(node);
    return;
  }
  // many children: find the few codes that score high enough, then the children that have them
  kernels_.mark_above(row, beams_.vocab_size, beam.score, lse, top_.threshold(), is_above_.data());
  const bool is_full = children.size() == beams_.vocab_size;
  const Token *next = tokens + children.begin, *end = tokens + children.end;
  for (int64_t group = 0; group * kLanes < beams_.vocab_size; ++group) {
    for (uint32_t bits = is_above_[group]; bits != 0; bits &= bits - 1) {
      const int64_t code = group * kLanes + __builtin_ctz(bits);
      if (is_full) {
        consider(children.begin + code);
      } else {
        next = std::lower_bound(next, end, static_cast<Token>(code));
        if (next == end) return;
        if (*next == code) consider(next - tokens);
      }
    }
  }
}

inline void RequestStep::run(int64_t request, const Children& out) {
  read(request);
  top_.clear();
  trie_.with_tokens(depth_, [&](const auto* tokens) {
    for (const Beam& beam : beam_) {
      if (beam.score < top_.threshold() || beam.score == -kInfinity) break;
      const int64_t i = request * beams_.beam_width + beam.slot;
      expand(beams_.logits + i * beams_.vocab_size, beam, tokens);
    }
  });

  const std::vector<TopK::Candidate>& best = top_.sorted();
  const auto num_valid = static_cast<int64_t>(best.size());
  out.num_valid[request] = num_valid;
  for (int64_t slot = 0; slot < out.width; ++slot) {
    const int64_t i = request * out.width + slot;
    if (slot < num_valid) {
      out.scores[i] = best[slot].score();
      out.parents[i] = best[slot].parent;
      out.tokens[i] = best[slot].token;
      out.nodes[i] = best[slot].node();
    } else {
      out.scores[i] = -kInfinity;
      out.parents[i] = out.tokens[i] = out.nodes[i] = -1;
    }
  }
}

// Extends every beam of depth `depth` to its children and keeps the out.width best per request.
// Throws std::invalid_argument for NaN or +inf in what a valid beam reads, and for bad nodes.
inline void beam_step(const ItemTrie& trie, int64_t depth, const Beams& beams, Normalize normalize,
                      int64_t num_threads, const Children& out) {
  parallel_chunks(beams.batch, num_threads, [&](int64_t, int64_t begin, int64_t end) {
    RequestStep step(trie, depth, beams, normalize, out.width);
    for (int64_t request = begin; request < end; ++request) step.run(request, out);
  });
}

}  // namespace store_engine

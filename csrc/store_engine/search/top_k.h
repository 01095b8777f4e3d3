// The best candidates of one request, in bounded memory and without unpredictable branches.
//
// Candidates go to the end of a buffer; when it is full, a bisection over the scores finds a bound
// that keeps at least `width` of them, and the bound becomes the threshold for the next ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

namespace store_engine {

// The `width` best of the candidates offered so far, in bounded memory.
class TopK {
 public:
  struct Candidate {
    uint32_t rank;  // lower = better: the bits of the score, in descending order
    uint32_t node, parent, token;
    float score() const {
      const uint32_t bits = rank >> 31 ? rank : ~rank & 0x7fffffff;
      float score;
      std::memcpy(&score, &bits, sizeof(score));
      return score;
    }
    bool operator<(const Candidate& other) const {
      return std::tie(rank, node, parent) < std::tie(other.rank, other.node, other.parent);
    }
  };

  explicit TopK(int64_t width) : width_(static_cast<size_t>(width)) {}

  void clear() {
    size_ = 0;
    threshold_ = std::numeric_limits<float>::lowest();
  }
  // Candidates below this cannot be among the best. Finite: a score of -inf is never taken.
  float threshold() const { return threshold_; }

  // Makes room for `count` more offers.
  void reserve(size_t count) {
    // well above the width, so that a cut is rare; not more, as only a cut raises the threshold
    if (size_ >= 2 * width_ + 16) cut();
    if (ranks_.size() < size_ + count) {
      ranks_.resize(2 * (size_ + count));
      candidates_.resize(ranks_.size());
    }
  }
  // Takes the candidate unless it is below the threshold; without a branch, for no one can predict
  // it. reserve() comes first.
  void offer(float score, int64_t node, int64_t parent, int64_t token) {
    score += 0.0f;  // -0 becomes +0, for they are equal but their bits are not
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof(bits));
    // negative scores already descend as unsigned numbers; positive ones come before them
    const uint32_t rank = bits >> 31 ? bits : ~bits & 0x7fffffff;
    ranks_[size_] = rank;
    candidates_[size_] = {rank, static_cast<uint32_t>(node), static_cast<uint32_t>(parent),
                          static_cast<uint32_t>(token)};
    size_ += score >= threshold_;
  }
  // Puts the best in order and returns how many there are.
  int64_t sort() {
    if (size_ > max_kept()) cut();
    std::sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(size_));
    return static_cast<int64_t>(std::min(size_, width_));
  }
  const Candidate& operator[](int64_t i) const { return candidates_[i]; }

 private:
  size_t max_kept() const { return width_ + width_ / 2; }
  // Drops what is surely not among the best until at most max_kept() stay. There are more now.
  void cut() {
    // The least rank with at least `width` candidates up to it, by bisection: counting is a few
    // vector instructions, while std::nth_element mispredicts at every element. A bound that keeps
    // a few too many is good enough.
    uint32_t low = std::numeric_limits<uint32_t>::max(), high = 0;
    for (size_t i = 0; i < size_; ++i) {
      low = std::min(low, ranks_[i]);
      high = std::max(high, ranks_[i]);  // keeps enough, always
    }
    size_t kept = size_;
    while (low < high && kept > max_kept()) {
      const uint32_t middle = low + (high - low) / 2;
      uint32_t count = 0;
      for (size_t i = 0; i < size_; ++i) count += ranks_[i] <= middle;
      if (count >= width_) {
        high = middle;
        kept = count;
      } else {
        low = middle + 1;
      }
    }
    size_t next = 0;
    for (size_t i = 0; i < size_; ++i) {
      const bool stays = ranks_[i] <= high;
      ranks_[next] = ranks_[i];
      candidates_[next] = candidates_[i];
      next += stays;
    }
    size_ = next;
    if (size_ > max_kept()) drop_ties();
    threshold_ = Candidate{high, 0, 0, 0}.score();
  }
  // Many equal scores: only their nodes decide.
  void drop_ties() {
    const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(width_);
    std::nth_element(candidates_.begin(), last,
                     candidates_.begin() + static_cast<std::ptrdiff_t>(size_));
    size_ = width_;
    for (size_t i = 0; i < size_; ++i) ranks_[i] = candidates_[i].rank;
  }

  size_t width_, size_ = 0;
  float threshold_ = std::numeric_limits<float>::lowest();
  std::vector<uint32_t> ranks_;  // those of the candidates, apart so that counting is quick
  std::vector<Candidate> candidates_;
};

}  // namespace store_engine

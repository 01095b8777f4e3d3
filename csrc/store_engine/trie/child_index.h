// Where the children of each node begin, in the cheapest of three encodings.
//
//   identity  every node has exactly one child: nothing is stored.
//   pointers  uint32 per node; the fastest.
//   bits      one bit per child, set on the first of each node: the children of node n begin at the
//             n-th set bit. Every 128th node's place is stored too, so that the search for it reads
//             a few words. For nodes with few children each, as most are in the deeper levels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "store_engine/base/array.h"
#include "store_engine/base/bits.h"
#include "store_engine/base/serialize.h"
#include "store_engine/simd/select_bit.h"

namespace store_engine {

class ChildIndex {
 public:
  enum class Encoding : int64_t { kIdentity, kPointers, kBits };

  ChildIndex() = default;
  // An index to be filled by Writers and finish(). Throws std::bad_alloc at worst.
  ChildIndex(int64_t num_nodes, int64_t num_children, bool is_compact);

  Range children(int64_t node) const {
    switch (encoding_) {
      case Encoding::kIdentity:
        return {node, node + 1};
      case Encoding::kPointers:
        return {pointers_[node], pointers_[node + 1]};
      default:
        const int64_t sample = samples_[node / kSampleEvery];
        const int64_t begin = bit_kernels_.select_bit(words_.data(), sample, node % kSampleEvery);
        return {begin, next_bit(words_.data(), begin + 1)};
    }
  }
  // The node that a child belongs to. O(log nodes), where children() is O(1).
  int64_t parent(int64_t child) const;
  bool is_identity() const { return encoding_ == Encoding::kIdentity; }
  // Calls use(node, children) for every node, ascending: quicker than asking for each.
  template <typename Use>
  void for_each(const Use& use) const;
  // Hints that children(node) will be asked for soon.
  void prefetch(int64_t node) const {
    if (encoding_ == Encoding::kPointers) __builtin_prefetch(pointers_.data() + node);
    if (encoding_ == Encoding::kBits) __builtin_prefetch(samples_.data() + node / kSampleEvery);
  }
  size_t nbytes() const { return pointers_.nbytes() + words_.nbytes() + samples_.nbytes(); }

  // Fills in the children from `child` on, which belong to nodes from `node` on; several Writers
  // may fill stretches of one index at once.
  class Writer {
   public:
    Writer(ChildIndex& index, int64_t node, int64_t child)
        : index_(&index), node_(node), child_(child) {}
    void add_child(bool is_first_of_its_node) {
      if (index_->encoding_ == Encoding::kPointers) {
        if (is_first_of_its_node) {
          index_->pointers_.mutable_data()[node_++] = static_cast<uint32_t>(child_);
        }
      } else if (index_->encoding_ == Encoding::kBits) {
        bits_ |= uint64_t{is_first_of_its_node} << (child_ % 64);
        if (child_ % 64 == 63) flush();
      }
      ++child_;
    }
    void flush() {  // a neighbour may be at the same word
      if (bits_ == 0) return;
      __atomic_fetch_or(index_->words_.mutable_data() + child_ / 64, bits_, __ATOMIC_RELAXED);
      bits_ = 0;
    }

   private:
    ChildIndex* index_;
    int64_t node_, child_;
    uint64_t bits_ = 0;
  };
  // Completes the index after all Writers have flushed.
  void finish();

  void save(FileWriter& file) const;
  // Throws std::invalid_argument unless every children(node) is a non-empty range that begins where
  // the one before ends, the last one at num_children.
  static ChildIndex load(FileReader& file, int64_t num_nodes, int64_t num_children);

 private:
  static constexpr int64_t kSampleEvery = 128;  // nodes; measured 64 to 256: alike in speed

  static int64_t num_words(int64_t num_children) { return num_children / 64 + 1; }
  static int64_t num_samples(int64_t num_nodes) { return num_nodes / kSampleEvery + 1; }
  // Calls use(node, child) for each set bit: node's children begin at `child`.
  template <typename Use>
  void for_each_bit(const Use& use) const;
  bool is_valid() const;

  int64_t num_nodes_ = 0, num_children_ = 0;
  Encoding encoding_ = Encoding::kIdentity;
  BitKernels bit_kernels_ = simd::kernels<BitKernels>();
  Array<uint32_t> pointers_;  // (num_nodes + 1,)
  Array<uint64_t> words_;     // num_children + 1 bits, the last one set
  Array<uint32_t> samples_;   // the child that node 0, 128, 256, ... begins at
};

inline ChildIndex::ChildIndex(int64_t num_nodes, int64_t num_children, bool is_compact)
    : num_nodes_(num_nodes), num_children_(num_children) {
  const int64_t bits_nbytes = 8 * num_words(num_children) + 4 * num_samples(num_nodes);
  if (num_nodes == num_children) {
    encoding_ = Encoding::kIdentity;
  } else if (is_compact && num_children > 0 && bits_nbytes < 4 * (num_nodes + 1)) {
    encoding_ = Encoding::kBits;
    words_ = Array<uint64_t>(num_words(num_children));
    samples_ = Array<uint32_t>(num_samples(num_nodes));
    std::fill_n(words_.mutable_data(), words_.size(), 0);
  } else {
    encoding_ = Encoding::kPointers;
    pointers_ = Array<uint32_t>(num_nodes + 1);
    pointers_.mutable_data()[0] = 0;  // the root of an empty catalogue has no child to write it
  }
}

template <typename Use>
void ChildIndex::for_each_bit(const Use& use) const {
  int64_t node = 0;
  for (size_t word = 0; word < words_.size(); ++word) {
    for_each_set_bit(static_cast<int64_t>(word) * 64, words_[word],
                     [&](int64_t child) { use(node++, child); });
  }
}

template <typename Use>
void ChildIndex::for_each(const Use& use) const {
  if (encoding_ != Encoding::kBits) {
    for (int64_t node = 0; node < num_nodes_; ++node) use(node, children(node));
    return;
  }
  int64_t begin = 0;
  for_each_bit([&](int64_t node, int64_t child) {  // the last bit ends the last node
    if (node > 0) use(node - 1, Range{begin, child});
    begin = child;
  });
}

inline int64_t ChildIndex::parent(int64_t child) const {
  if (encoding_ == Encoding::kIdentity) return child;
  const auto last_up_to = [child](const uint32_t* begins, int64_t size) {
    return std::upper_bound(begins, begins + size, child) - begins - 1;
  };
  if (encoding_ == Encoding::kPointers) return last_up_to(pointers_.data(), num_nodes_);
  const int64_t sample = last_up_to(samples_.data(), (num_nodes_ - 1) / kSampleEvery + 1);
  // how many nodes begin after the sampled one, up to `child`
  int64_t node = sample * kSampleEvery - 1, word = samples_[sample] / 64;
  uint64_t bits = words_[word] >> (samples_[sample] % 64) << (samples_[sample] % 64);
  for (; word < child / 64; bits = words_[++word]) node += __builtin_popcountll(bits);
  return node + __builtin_popcountll(bits << (63 - child % 64));
}

inline void ChildIndex::finish() {
  if (encoding_ == Encoding::kPointers) {
    pointers_.mutable_data()[num_nodes_] = static_cast<uint32_t>(num_children_);
  } else if (encoding_ == Encoding::kBits) {
    words_.mutable_data()[num_children_ / 64] |= uint64_t{1} << (num_children_ % 64);
    uint32_t* samples = samples_.mutable_data();
    for_each_bit([samples](int64_t node, int64_t child) {
      if (node % kSampleEvery == 0) samples[node / kSampleEvery] = static_cast<uint32_t>(child);
    });
  }
}

inline void ChildIndex::save(FileWriter& file) const {
  file.number(static_cast<int64_t>(encoding_));
  file.array(pointers_);
  file.array(words_);
  file.array(samples_);
}

inline ChildIndex ChildIndex::load(FileReader& file, int64_t num_nodes, int64_t num_children) {
  ChildIndex index;
  index.num_nodes_ = num_nodes;
  index.num_children_ = num_children;
  index.encoding_ = static_cast<Encoding>(file.number(0, 2));
  const bool is_pointers = index.encoding_ == Encoding::kPointers;
  const bool is_bits = index.encoding_ == Encoding::kBits;
  index.pointers_ = file.array<uint32_t>(is_pointers ? num_nodes + 1 : 0);
  index.words_ = file.array<uint64_t>(is_bits ? num_words(num_children) : 0);
  index.samples_ = file.array<uint32_t>(is_bits ? num_samples(num_nodes) : 0);
  file.check(index.is_valid(), "the children of a node are not where they must be");
  return index;
}

inline bool ChildIndex::is_valid() const {
  if (encoding_ == Encoding::kIdentity) return num_nodes_ == num_children_;
  if (encoding_ == Encoding::kPointers) {
    bool is_rising = true;
    for (int64_t node = 0; node < num_nodes_; ++node) {
      is_rising &= pointers_[node] < pointers_[node + 1];
    }
    // only the root of an empty catalogue has nothing below it
    is_rising |= num_nodes_ == 1 && num_children_ == 0;
    return is_rising && pointers_[0] == 0 && pointers_[num_nodes_] == num_children_;
  }
  int64_t num_bits = 0, last = -1;
  bool is_sampled = true;
  for_each_bit([&](int64_t node, int64_t child) {
    is_sampled &= node > 0 || child == 0;
    is_sampled &=
        node % kSampleEvery != 0 || node > num_nodes_ || samples_[node / kSampleEvery] == child;
    num_bits = node + 1;
    last = child;
  });
  return is_sampled && num_bits == num_nodes_ + 1 && last == num_children_;
}

}  // namespace store_engine

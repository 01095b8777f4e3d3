// The children that one request may use, of any node of one depth of a Snapshot.
//
// A child may be used if something below it is alive and allowed; in the base, in the delta, or in
// both, for a node that both have is one child.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store_engine/snapshot.h"

namespace store_engine {

// The only child that may have a code. Codes ascend, so that a child's place among its siblings is
// at most its code, and less by at most the number of codes that are missing. No branch depends on
// the data.
template <typename Token>
int64_t find_code(const Token* tokens, Range children, int64_t code, int64_t codebook_size) {
  const int64_t num_missing = codebook_size - children.size();
  int64_t node = children.begin + std::max<int64_t>(0, code - num_missing);
  const int64_t end = std::min(children.begin + code + 1, children.end);
  for (int64_t rest = end - node; rest > 1;) {
    const int64_t half = rest / 2;
    node += tokens[node + half] <= code ? half : 0;
    rest -= half;
  }
  return node;
}

template <typename Token>
class UsableChildren {
 public:
  static constexpr int64_t kStride = 64;  // children visited between two calls of start()

  // The children of the nodes of `depth`; the masks are of nodes one deeper.
  UsableChildren(const Snapshot& snapshot, int64_t depth, NodeMask base_mask, NodeMask delta_mask)
      : depth_(depth + 1),
        codebook_size_(snapshot.codebook_size(depth)),
        base_tokens_(snapshot.base->tokens<Token>(depth)),
        base_mask_(base_mask),
        delta_(snapshot.delta.get()),
        delta_tokens_(delta_ == nullptr ? nullptr : delta_->trie.template tokens<Token>(depth)),
        delta_mask_(delta_mask) {}

  // Hints that these children will be asked for soon.
  void prefetch(const Snapshot::Children& children) const {
    const Token* end = base_tokens_ + children.base.end;
    for (const Token* token = base_tokens_ + children.base.begin; token < end;
         token += 64 / sizeof(Token)) {  // each cache line: a node of 10^7 items has several
      __builtin_prefetch(token);
    }
    if (base_mask_.alive != nullptr) {
      __builtin_prefetch(base_mask_.alive->words() + children.base.begin / 64);
    }
  }
  // Calls use(node, code) for each child, ascending, and start() before at most kStride of them.
  template <typename Start, typename Use>
  void for_each(const Snapshot::Children& children, const Start& start, const Use& use) const;
  // The child with a code, or -1.
  int64_t find(const Snapshot::Children& children, int64_t code) const;

 private:
  template <typename Start, typename Use>
  void for_each_in_base(Range children, int64_t num_new_before, const Start& start,
                        const Use& use) const;
  bool may_use(int64_t delta_child) const {
    return delta_mask_[delta_child] || (!delta_->overlay.is_new(depth_, delta_child) &&
                                        base_mask_[delta_->overlay.base_node(depth_, delta_child)]);
  }

  const int64_t depth_;  // of the children
  const int64_t codebook_size_;
  const Token* const base_tokens_;
  const NodeMask base_mask_;
  const Delta* const delta_;  // null: none
  const Token* const delta_tokens_;
  const NodeMask delta_mask_;
};

template <typename Token>
template <typename Start, typename Use>
__attribute__((always_inline)) inline void UsableChildren<Token>::for_each_in_base(
    Range children, int64_t num_new_before, const Start& start, const Use& use) const {
  if (!base_mask_.allows_all()) {
    base_mask_.for_each_word(children, [&](int64_t first, uint64_t bits) {
      start();
      for (; bits != 0; bits &= bits - 1) {
        const int64_t node = first + __builtin_ctzll(bits);
        use(node + num_new_before, base_tokens_[node]);
      }
    });
    return;
  }
  for (int64_t begin = children.begin; begin < children.end; begin += kStride) {
    start();
    const int64_t end = std::min(begin + kStride, children.end);
    for (int64_t node = begin; node < end; ++node) use(node + num_new_before, base_tokens_[node]);
  }
}

template <typename Token>
template <typename Start, typename Use>
__attribute__((always_inline)) inline void UsableChildren<Token>::for_each(
    const Snapshot::Children& children, const Start& start, const Use& use) const {
  if (delta_ == nullptr) return for_each_in_base(children.base, 0, start, use);
  const Overlay& overlay = delta_->overlay;
  int64_t next = children.base.begin;
  for (int64_t child = children.delta.begin; child < children.delta.end; ++child) {
    const int64_t place = overlay.base_node(depth_, child);
    for_each_in_base({next, place}, overlay.num_new_before(depth_, child), start, use);
    if (may_use(child)) {
      start();
      use(overlay.number(depth_, child), delta_tokens_[child]);
    }
    next = place + (overlay.is_new(depth_, child) ? 0 : 1);
  }
  for_each_in_base({next, children.base.end}, overlay.num_new_before(depth_, children.delta.end),
                   start, use);
}

template <typename Token>
int64_t UsableChildren<Token>::find(const Snapshot::Children& children, int64_t code) const {
  int64_t num_new_before = 0;
  if (delta_ != nullptr) {
    const Token* end = delta_tokens_ + children.delta.end;
    const int64_t child =
        std::lower_bound(delta_tokens_ + children.delta.begin, end, code) - delta_tokens_;
    if (child < children.delta.end && delta_tokens_[child] == code) {
      return may_use(child) ? delta_->overlay.number(depth_, child) : -1;
    }
    num_new_before = delta_->overlay.num_new_before(depth_, child);
  }
  if (children.base.size() == 0) return -1;
  const int64_t node = find_code(base_tokens_, children.base, code, codebook_size_);
  return base_tokens_[node] == code && base_mask_[node] ? node + num_new_before : -1;
}

}  // namespace store_engine

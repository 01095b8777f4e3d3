// The children that one request may use, of any node of one depth of a Snapshot.
//
// A child may be used if something below it is alive and allowed; in the base, in the delta, or in
// both, for a node that both have is one child.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store_engine/snapshot.h"

namespace store_engine {

template <typename Token>
class UsableChildren {
 public:
  static constexpr int64_t kMaxSelected = 64;  // codes that select() is shown at once

  // The children of the nodes of `depth`; the masks are of nodes one deeper.
  UsableChildren(const Snapshot& snapshot, int64_t depth, NodeMask base_mask, NodeMask delta_mask)
      : depth_(depth + 1),
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
  // Calls use(node, code) for each child, ascending, that select(codes, size) wants: bit i of its
  // result, of `size` bits, speaks for codes[i].
  template <typename Select, typename Use>
  void for_each(const Snapshot::Children& children, const Select& select, const Use& use) const;

 private:
  template <typename Select, typename Use>
  void for_each_in_base(Range children, int64_t num_new_before, const Select& select,
                        const Use& use) const;
  bool may_use(int64_t delta_child) const {
    return delta_mask_[delta_child] || (!delta_->overlay.is_new(depth_, delta_child) &&
                                        base_mask_[delta_->overlay.base_node(depth_, delta_child)]);
  }

  const int64_t depth_;  // of the children
  const Token* const base_tokens_;
  const NodeMask base_mask_;
  const Delta* const delta_;  // null: none
  const Token* const delta_tokens_;
  const NodeMask delta_mask_;
};

template <typename Token>
template <typename Select, typename Use>
__attribute__((always_inline)) inline void UsableChildren<Token>::for_each_in_base(
    Range children, int64_t num_new_before, const Select& select, const Use& use) const {
  const auto use_selected = [&](int64_t first, uint64_t bits) {
    for (; bits != 0; bits &= bits - 1) {
      const int64_t node = first + __builtin_ctzll(bits);
      use(node + num_new_before, base_tokens_[node]);
    }
  };
  if (!base_mask_.allows_all()) {
    base_mask_.for_each_word(children, [&](int64_t first, uint64_t bits) {
      const int64_t skip = __builtin_ctzll(bits), size = 64 - __builtin_clzll(bits) - skip;
      use_selected(first, bits & select(base_tokens_ + first + skip, size) << skip);
    });
    return;
  }
  for (int64_t begin = children.begin; begin < children.end; begin += kMaxSelected) {
    use_selected(begin, select(base_tokens_ + begin, std::min(kMaxSelected, children.end - begin)));
  }
}

template <typename Token>
template <typename Select, typename Use>
__attribute__((always_inline)) inline void UsableChildren<Token>::for_each(
    const Snapshot::Children& children, const Select& select, const Use& use) const {
  if (delta_ == nullptr) return for_each_in_base(children.base, 0, select, use);
  const Overlay& overlay = delta_->overlay;
  int64_t next = children.base.begin;
  for (int64_t child = children.delta.begin; child < children.delta.end; ++child) {
    const int64_t place = overlay.base_node(depth_, child);
    for_each_in_base({next, place}, overlay.num_new_before(depth_, child), select, use);
    if (may_use(child) && select(delta_tokens_ + child, 1) != 0) {
      use(overlay.number(depth_, child), delta_tokens_[child]);
    }
    next = place + (overlay.is_new(depth_, child) ? 0 : 1);
  }
  for_each_in_base({next, children.base.end}, overlay.num_new_before(depth_, children.delta.end),
                   select, use);
}

}  // namespace store_engine

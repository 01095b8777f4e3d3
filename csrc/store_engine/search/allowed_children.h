// The children of the nodes of one level of a Snapshot that one request may use.
//
// A request may use a child if there is an item below it that was not removed and that it may get,
// in the base or in the delta. A node that both tries have is one child.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store_engine/trie/snapshot.h"

namespace store_engine {

template <typename Token>
class AllowedChildren {
 public:
  static constexpr int64_t kMaxSelected = 64;  // codes that select() is shown at once

  // `level` is that of the parents; the masks are those of the level below.
  AllowedChildren(const Snapshot& snapshot, int64_t level, NodeMask base_mask, NodeMask delta_mask)
      : level_(level + 1),
        base_tokens_(snapshot.base->tokens<Token>(level)),
        base_mask_(base_mask),
        delta_(snapshot.delta.get()),
        delta_tokens_(delta_ == nullptr ? nullptr : delta_->trie.template tokens<Token>(level)),
        delta_mask_(delta_mask) {}

  // Hints that these children will be asked for soon.
  void prefetch(const ChildRanges& children) const {
    const Token* end = base_tokens_ + children.base.end;
    for (const Token* token = base_tokens_ + children.base.begin; token < end;
         token += 64 / sizeof(Token)) {  // each cache line: a node of 10^7 items has several
      __builtin_prefetch(token);
    }
    if (base_mask_.alive != nullptr) {
      __builtin_prefetch(base_mask_.alive->words() + children.base.begin / 64);
    }
  }
  // Calls use(node, code), in any order, for each child that select(codes, size) selects: bit i of
  // its result says whether it selects codes[i].
  template <typename Select, typename Use>
  void for_each_selected(const ChildRanges& children, const Select& select, const Use& use) const;
  // Calls use(code) for each child, ascending.
  template <typename Use>
  void for_each_code(const ChildRanges& children, const Use& use) const;

 private:
  // Returns whether the request may use a child in the delta, but not its twin in the base.
  bool is_only_in_delta(int64_t child) const {
    return delta_mask_[child] && (delta_->overlay.is_new(level_, child) ||
                                  !base_mask_[delta_->overlay.base_node(level_, child)]);
  }

  const int64_t level_;  // of the children
  const Token* const base_tokens_;
  const NodeMask base_mask_;
  const Delta* const delta_;  // null: none
  const Token* const delta_tokens_;
  const NodeMask delta_mask_;
};

template <typename Token>
template <typename Select, typename Use>
__attribute__((always_inline)) inline void AllowedChildren<Token>::for_each_selected(
    const ChildRanges& children, const Select& select, const Use& use) const {
  const auto for_each_stretch = [](Range nodes, const auto& use_stretch) {
    for (int64_t first = nodes.begin; first < nodes.end; first += kMaxSelected) {
      use_stretch(first, std::min(kMaxSelected, nodes.end - first));
    }
  };
  Range siblings = children.delta;  // those after the last node used
  const auto use_in_base = [&](int64_t node) {
    const int64_t number =
        delta_ == nullptr ? node : delta_->overlay.number_of_base(level_, node, siblings);
    use(number, base_tokens_[node]);
  };
  if (base_mask_.allows_all()) {
    for_each_stretch(children.base, [&](int64_t first, int64_t size) {
      for_each_set_bit(first, select(base_tokens_ + first, size), use_in_base);
    });
  } else {
    base_mask_.for_each_word(children.base, [&](int64_t first, uint64_t bits) {
      const int64_t skip = __builtin_ctzll(bits), size = 64 - __builtin_clzll(bits) - skip;
      for_each_set_bit(first, bits & select(base_tokens_ + first + skip, size) << skip,
                       use_in_base);
    });
  }
  for_each_stretch(children.delta, [&](int64_t first, int64_t size) {
    for_each_set_bit(first, select(delta_tokens_ + first, size), [&](int64_t child) {
      if (is_only_in_delta(child)) use(delta_->overlay.number(level_, child), delta_tokens_[child]);
    });
  });
}

template <typename Token>
template <typename Use>
void AllowedChildren<Token>::for_each_code(const ChildRanges& children, const Use& use) const {
  int64_t next = children.base.begin;
  const auto use_base_until = [&](int64_t end) {
    base_mask_.for_each({next, end}, [&](int64_t node) { use(base_tokens_[node]); });
    next = end;
  };
  for (int64_t child = children.delta.begin; child < children.delta.end; ++child) {
    use_base_until(delta_->overlay.base_node(level_, child));
    if (is_only_in_delta(child)) use(delta_tokens_[child]);
  }
  use_base_until(children.base.end);
}

}  // namespace store_engine

// Which codes may follow each of a batch of token sequences: the step of a decoder that knows no
// nodes, only tokens, as the logits processors of other engines do.
//
// A token id below `first_code` is text; from there on come the codes of level 0, then those of
// level 1, and so on. The SID that a sequence leaves unfinished is read from its end: after a code
// of level l that is not the last level these are l + 1 codes; after a text token or a whole SID
// it is none, and the next item begins. O(num_levels * log(codebook_size)) for a sequence, and one
// step for each code that may follow. Nothing is kept from call to call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "store_engine/base/bits.h"
#include "store_engine/base/parallel_for.h"
#include "store_engine/search/allowed_children.h"
#include "store_engine/trie/node_set.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine {

// The child of a node of `level` by its code; -1 if there is none. It may have only removed items.
inline int64_t child_of(const Snapshot& snapshot, int64_t level, int64_t node, int64_t code) {
  if (code < 0 || code >= snapshot.codebook_size(level)) return -1;
  const ChildRanges children = snapshot.children(level, node);
  const auto find = [level, code](const ItemTrie& trie, Range range) {
    return trie.with_tokens(level, [&](const auto* tokens) -> int64_t {
      const auto* end = tokens + range.end;
      const auto* found = std::lower_bound(tokens + range.begin, end, code);
      return found != end && *found == code ? found - tokens : -1;
    });
  };
  const int64_t in_base = find(*snapshot.base, children.base);
  if (snapshot.delta == nullptr) return in_base;
  const Overlay& overlay = snapshot.delta->overlay;
  Range siblings = children.delta;
  if (in_base >= 0) return overlay.number_of_base(level + 1, in_base, siblings);
  const int64_t in_delta = find(snapshot.delta->trie, children.delta);
  return in_delta < 0 ? -1 : overlay.number(level + 1, in_delta);
}

// The ends of some sequences, (batch, width); what is before them does not matter if the width is
// at least num_levels - 1.
struct SequenceEnds {
  const int64_t* tokens;
  int64_t batch, width;
  int64_t first_code;
};

// is_allowed (batch, the codes of all levels): whether a code may follow. levels (batch,): which
// level's those are, also where none may follow.
inline void next_codes(const Snapshot& snapshot, const SequenceEnds& ends, int64_t num_threads,
                       bool* is_allowed, int64_t* levels) {
  const int64_t num_levels = snapshot.num_levels();
  std::vector<int64_t> first(static_cast<size_t>(num_levels) + 1);  // code of each level, from 0
  for (int64_t level = 0; level < num_levels; ++level) {
    first[level + 1] = first[level] + snapshot.codebook_size(level);
  }
  const auto level_after = [&](int64_t code) -> int64_t {  // counted from first_code on
    if (code < 0 || code >= first[num_levels - 1]) return 0;
    return std::upper_bound(first.begin(), first.end(), code) - first.begin();
  };
  parallel_for(ends.batch, num_threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t* last = ends.tokens + (i + 1) * ends.width;
      const auto code_at = [&](int64_t back) {  // no int64 is too small to take from
        return last[-back] < ends.first_code ? -1 : last[-back] - ends.first_code;
      };
      const int64_t level = ends.width == 0 ? 0 : level_after(code_at(1));
      levels[i] = level;
      bool* row = is_allowed + i * first[num_levels];
      std::fill(row, row + first[num_levels], false);
      int64_t node = level <= ends.width ? 0 : -1;
      for (int64_t above = 0; node >= 0 && above < level; ++above) {
        node = child_of(snapshot, above, node, code_at(level - above) - first[above]);
      }
      if (node < 0) continue;
      snapshot.base->with_tokens(level, [&](const auto* tokens) {
        using Token = std::remove_cv_t<std::remove_pointer_t<decltype(tokens)>>;
        const NodeMask alive{snapshot.alive_nodes(level + 1)};
        const AllowedChildren<Token> children(snapshot, level, alive, {});
        children.for_each_code(snapshot.children(level, node),
                               [&](int64_t code) { row[first[level] + code] = true; });
      });
    }
  });
}

}  // namespace store_engine

// The prefixes that given paths need beside the beams of a level: one that is a beam, or that paths
// share, is run once.
//
// O((width + size) log(width + size)) per request.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

namespace store_engine {

// The beams of a level and the paths beside them; a prefix is its parent in the block of the level
// before and its last code.
struct PathsBeside {
  const int64_t* parents;  // (batch, width) of each beam, negative for none
  const int64_t* tokens;   // (batch, width) its last code, negative for none
  const int64_t* places;   // (batch, size) the parent of each path's prefix, negative for no path
  const int64_t* codes;    // (batch, size) its last code
  int64_t batch, width, size;
};

// What to run, as (batch, num_new): code -1 and parent 0 where a request needs fewer.
struct PrefixesBeside {
  std::vector<int64_t> codes, parents;
  int64_t num_new = 0;
};

// Finds what to run, in the order of the paths, and in new_places (batch, size) where each path's
// prefix is in the block of the beams and of these behind them; -1 for no path.
inline PrefixesBeside prefixes_beside(const PathsBeside& paths, int64_t* new_places) {
  struct Prefix {
    int64_t parent, code, column;  // beams stand before paths
    bool operator<(const Prefix& other) const {
      return std::tie(parent, code, column) < std::tie(other.parent, other.code, other.column);
    }
    bool is(const Prefix& other) const { return parent == other.parent && code == other.code; }
  };
  const int64_t width = paths.width, size = paths.size;
  std::vector<Prefix> prefixes;
  std::vector<int64_t> first(static_cast<size_t>(size));  // the column where a path's stands first
  std::vector<std::vector<Prefix>> added(static_cast<size_t>(paths.batch));
  PrefixesBeside found;
  for (int64_t request = 0; request < paths.batch; ++request) {
    const int64_t *parents = paths.parents + request * width,
                  *places = paths.places + request * size;
    const int64_t *tokens = paths.tokens + request * width, *codes = paths.codes + request * size;
    prefixes.clear();
    for (int64_t i = 0; i < width; ++i) {
      if (parents[i] >= 0 && tokens[i] >= 0) prefixes.push_back({parents[i], tokens[i], i});
    }
    for (int64_t i = 0; i < size; ++i) {
      if (places[i] >= 0) prefixes.push_back({places[i], codes[i], width + i});
    }
    std::sort(prefixes.begin(), prefixes.end());
    for (size_t i = 0, group = 0; i < prefixes.size(); ++i) {
      if (!prefixes[i].is(prefixes[group])) group = i;
      if (prefixes[i].column >= width) first[prefixes[i].column - width] = prefixes[group].column;
    }
    std::vector<Prefix>& own = added[request];
    int64_t* to = new_places + request * size;
    for (int64_t i = 0; i < size; ++i) {
      if (places[i] < 0) {
        to[i] = -1;
      } else if (first[i] < width) {
        to[i] = first[i];
      } else if (first[i] < width + i) {
        to[i] = to[first[i] - width];
      } else {
        to[i] = width + static_cast<int64_t>(own.size());
        own.push_back({places[i], codes[i], 0});
      }
    }
    found.num_new = std::max(found.num_new, static_cast<int64_t>(own.size()));
  }
  found.codes.assign(static_cast<size_t>(paths.batch * found.num_new), -1);
  found.parents.assign(found.codes.size(), 0);
  for (int64_t request = 0; request < paths.batch; ++request) {
    for (size_t i = 0; i < added[request].size(); ++i) {
      found.codes[request * found.num_new + i] = added[request][i].code;
      found.parents[request * found.num_new + i] = added[request][i].parent;
    }
  }
  return found;
}

}  // namespace store_engine

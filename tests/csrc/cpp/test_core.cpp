// The core against plain loops, on random catalogues and histories of changes: for sanitizers,
// which see what Python tests cannot. ROUNDS=2000 test_core for more of them (default 200).
#include <doctest/doctest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>

#include "each_round.h"
#include "inputs.h"
#include "search.h"
#include "store_engine/search/rank_items.h"
#include "store_engine/search/unique_leaves.h"
#include "store_engine/trie/live_trie.h"

using namespace store_engine;

namespace {

// Every way to walk a trie agrees with the SIDs it was built from.
void check_walks(const ItemTrie& trie, const std::vector<int32_t>& sids) {
  const int64_t num_levels = trie.num_levels();
  std::vector<std::vector<int32_t>> sorted;
  for (int64_t i = 0; i < trie.num_items(); ++i) {
    sorted.emplace_back(sids.begin() + i * num_levels, sids.begin() + (i + 1) * num_levels);
  }
  std::sort(sorted.begin(), sorted.end());
  const std::vector<int32_t> walked = trie.sids();
  REQUIRE(walked.size() == sids.size());
  for (int64_t i = 0; i < trie.num_items(); ++i) {
    REQUIRE(std::equal(sorted[i].begin(), sorted[i].end(), walked.begin() + i * num_levels));
    REQUIRE(trie.position_of(trie.row_at(i)) == i);
  }
  for (int64_t level = 0; level <= num_levels; ++level) {
    CAPTURE(level);
    const ChildIndex& index = trie.index(level);
    int64_t next = 0;
    index.for_each([&](int64_t node, Range children) {
      REQUIRE(children.begin == next);
      REQUIRE(index.children(node).begin == children.begin);
      REQUIRE(index.children(node).end == children.end);
      for (next = children.begin; next < children.end; ++next) REQUIRE(index.parent(next) == node);
    });
    REQUIRE(next == trie.num_nodes(level + 1));
  }
}

// A catalogue that changes at random, and the ids it should have.
class History {
 public:
  explicit History(Random& random) : History(random, random.number(0, 60)) {}

  // Adds items, removes some or merges all changes.
  void change() {
    std::vector<int64_t> some;
    switch (random_.number(0, 3)) {
      case 0:
        live_.compact();
        break;
      case 1:
        for (const int64_t id : ids_) {
          if (random_.number(0, 3) == 0) some.push_back(id);
        }
        live_.remove(some.data(), static_cast<int64_t>(some.size()));
        for (const int64_t id : some) ids_.erase(id);
        break;
      default:
        some = new_ids(random_.number(0, 30));
        live_.add(random_.sids(static_cast<int64_t>(some.size()), sizes_).data(), some.data(),
                  static_cast<int64_t>(some.size()));
    }
  }
  std::shared_ptr<const Snapshot> snapshot() const { return live_.snapshot(); }
  const std::set<int64_t>& ids() const { return ids_; }

 private:
  History(Random& random, int64_t num_items)
      : random_(random),
        sizes_(random.codebook_sizes()),
        live_({random.sids(num_items, sizes_).data(), num_items, sizes_}, new_ids(num_items).data(),
              {{random.number(0, 1) == 1, 1}, random.one_of<int64_t>({1, 20, 1000})}) {}

  std::vector<int64_t> new_ids(int64_t num_items) {
    std::vector<int64_t> ids(static_cast<size_t>(num_items));
    std::iota(ids.begin(), ids.end(), next_id_);
    next_id_ += num_items;
    ids_.insert(ids.begin(), ids.end());
    return ids;
  }

  Random& random_;
  const std::vector<int64_t> sizes_;
  std::set<int64_t> ids_;
  int64_t next_id_ = 0;
  LiveTrie live_;
};

// Calls visit(history) after each of a few changes.
template <typename Visit>
void for_each_change(Random& random, const Visit& visit) {
  History history(random);
  for (int64_t i = random.number(0, 6); i > 0; --i) {
    history.change();
    visit(history);
  }
}

void check_search(Random& random, const Snapshot& snapshot) {
  const Logits logits = random_logits(random, snapshot);
  const auto all = [](int64_t) { return true; };
  REQUIRE(search(snapshot, logits, nullptr, 2, 2) == score_all(snapshot, logits, all));
}

// What a request may be given: all rows or some of them, and some of these excluded.
class Restriction {
 public:
  Restriction(Random& random, const Snapshot& snapshot) {
    std::vector<int64_t> allowed;
    for (int64_t row = 0; row < snapshot.num_rows(); ++row) {
      if (snapshot.has(row) && random.number(0, 2) > 0) allowed.push_back(row);
      if (random.number(0, 2) == 0) excluded_.insert(excluded_.end(), 2, row);
    }
    if (random.number(0, 1) == 1) {
      allow_ = RowSet::from_rows(snapshot, allowed.data(), static_cast<int64_t>(allowed.size()));
      const std::shared_ptr<RowSet> denied = ~*allow_;
      allow_ = ~*(*denied & *(*denied | *denied));
      REQUIRE(allow_->rows() == allowed);
    }
  }
  void apply(ItemFilter& filter, int64_t request) const {
    filter.restrict(request, allow_, excluded_.data(), static_cast<int64_t>(excluded_.size()));
  }
  bool allows(int64_t row) const {
    const bool is_excluded = std::binary_search(excluded_.begin(), excluded_.end(), row);
    return !is_excluded && (allow_ == nullptr || allow_->has(row));
  }

 private:
  std::shared_ptr<RowSet> allow_;
  std::vector<int64_t> excluded_;  // ascending
};

void check_filtered_search(Random& random, const Snapshot& snapshot) {
  const int64_t batch = 2;
  const Restriction restriction(random, snapshot);
  ItemFilter filter(snapshot, batch);
  for (int64_t i = 0; i < batch; ++i) restriction.apply(filter, i);
  const Logits logits = random_logits(random, snapshot);
  const auto is_allowed = [&](int64_t row) { return restriction.allows(row); };
  const std::vector<Found> want = score_all(snapshot, logits, is_allowed);
  REQUIRE(search(snapshot, logits, &filter, batch, 1) == want);
  REQUIRE(filter.num_allowed(0) == static_cast<int64_t>(want.size()));
}

// Ranks all items at once, for a request that may be given everything and one that may not.
void check_ranking(Random& random, const Snapshot& snapshot) {
  const Restriction restriction(random, snapshot);
  ItemFilter filter(snapshot, 2);
  restriction.apply(filter, 1);
  const auto& kernels = simd::kernels<SoftmaxKernels>();
  const Logits logits = random_logits(random, snapshot);
  Logits logprobs = logits;  // twice
  std::vector<const float*> levels;
  for (std::vector<float>& row : logprobs) {
    const auto size = static_cast<int64_t>(row.size());
    const float lse = kernels.log_sum_exp(row.data(), size, kernels.row_max(row.data(), size));
    for (float& x : row) x -= lse;
    row.resize(static_cast<size_t>(2 * size));
    std::copy_n(row.begin(), size, row.begin() + size);
    levels.push_back(row.data());
  }
  const int64_t size = random.one_of({1, 10, 1000});
  std::vector<int64_t> rows(static_cast<size_t>(2 * size));
  std::vector<float> scores(rows.size());
  rank_items(snapshot, levels, 2, &filter, random.number(1, 2), {size, rows.data(), scores.data()});
  for (int64_t request = 0; request < 2; ++request) {
    const std::vector<Found> want = score_all(
        snapshot, logits, [&](int64_t row) { return request == 0 || restriction.allows(row); });
    for (int64_t i = 0; i < size; ++i) {
      const bool is_there = i < static_cast<int64_t>(want.size());
      REQUIRE(rows[request * size + i] == (is_there ? want[i].row : -1));
      REQUIRE(scores[request * size + i] == (is_there ? want[i].score : -kInfinity));
    }
  }
}

using Sid = std::vector<int32_t>;

// The first codes of some SIDs, each once and in the order of its node.
std::vector<Sid> prefixes_of(const std::set<Sid>& sids, int64_t level) {
  std::set<Sid> prefixes;
  if (level == 0) prefixes.insert(Sid());  // the root, of an empty catalogue too
  for (const Sid& sid : sids) prefixes.emplace(sid.begin(), sid.begin() + level);
  return {prefixes.begin(), prefixes.end()};
}

// The only one of some SIDs that begins with a prefix, or null.
const Sid* only_sid(const std::set<Sid>& sids, const Sid& prefix) {
  const Sid* only = nullptr;
  for (auto sid = sids.lower_bound(prefix); sid != sids.end(); ++sid) {
    if (!std::equal(prefix.begin(), prefix.end(), sid->begin())) break;
    if (only != nullptr) return nullptr;
    only = &*sid;
  }
  return only;
}

// All nodes of every level, for a request that may be given everything and one that may not.
void check_unique_leaves(Random& random, const Snapshot& snapshot) {
  const int64_t num_levels = snapshot.num_levels();
  const Restriction restriction(random, snapshot);
  ItemFilter filter(snapshot, 2);
  restriction.apply(filter, 1);
  const SortedItems items = snapshot.items();
  std::set<Sid> known, given[2];  // known: also of items that were removed, if they have nodes
  for (int64_t i = 0; i < items.size(); ++i) {
    const Sid sid(items.sid(i), items.sid(i) + num_levels);
    known.insert(sid);
    given[0].insert(sid);
    if (restriction.allows(snapshot.find(items.ids[i]))) given[1].insert(sid);
  }
  const std::vector<int32_t> in_base = snapshot.base->sids();
  for (auto code = in_base.begin(); code != in_base.end(); code += num_levels) {
    known.emplace(code, code + num_levels);
  }
  const std::vector<Sid> all_leaves(known.begin(), known.end());
  for (int64_t level = 0; level < num_levels; ++level) {
    const std::vector<Sid> prefixes = prefixes_of(known, level);
    const int64_t num_nodes = snapshot.num_nodes(level), width = num_nodes + 1;
    REQUIRE(num_nodes == static_cast<int64_t>(prefixes.size()));
    std::vector<int64_t> nodes(static_cast<size_t>(2 * width)), leaves(nodes), tokens(nodes);
    for (int64_t i = 0; i < 2; ++i) std::iota(&nodes[i * width], &nodes[i * width] + width, -1);
    unique_leaves(filter, level, nodes.data(), width, leaves.data(), tokens.data());
    for (int64_t i = 0; i < 2 * width; ++i) {
      const Sid* only = nodes[i] < 0 ? nullptr : only_sid(given[i / width], prefixes[nodes[i]]);
      REQUIRE((leaves[i] < 0) == (only == nullptr));
      REQUIRE(tokens[i] == (only == nullptr ? -1 : only->back()));
      if (only != nullptr) REQUIRE(all_leaves[leaves[i]] == *only);
    }
  }
}

}  // namespace

TEST_CASE("a trie, built or loaded, walks through the SIDs it was built from") {
  for_each_round(200, [](Random& random) {
    const std::vector<int64_t> sizes = random.codebook_sizes();
    const int64_t num_items = random.one_of({0, 1, 100, 700});
    const std::vector<int32_t> sids = random.sids(num_items, sizes);
    const ItemTrie trie({sids.data(), num_items, sizes},
                        {random.number(0, 1) == 1, random.number(1, 4)});
    check_walks(trie, sids);
    const std::string path = temporary_path();
    trie.save(path);
    check_walks(ItemTrie::load(path), sids);
    ::unlink(path.c_str());
  });
}

TEST_CASE("a file in the making has a name that nobody can foresee, and is new") {
  const std::string folder = std::filesystem::temp_directory_path();
  std::set<std::string> names;
  for (int i = 0; i < 20; ++i) {
    std::string part;
    const FileDescriptor fd(create_part(folder, part));
    REQUIRE(fd.get() >= 0);
    CHECK(folder_of(part) == folder);
    CHECK(std::filesystem::is_empty(part));
    names.insert(part);
  }
  CHECK(names.size() == 20);
  for (const std::string& name : names) ::unlink(name.c_str());
  std::string part;
  CHECK(create_part(folder + "/not there", part) < 0);
  CHECK(errno == ENOENT);
  CHECK_THROWS_AS(sync_folder(folder + "/not there"), std::system_error);
}

TEST_CASE("a live catalogue has the items that were added and not removed") {
  for_each_round(200, [](Random& random) {
    for_each_change(random, [](const History& history) {
      const SortedItems items = history.snapshot()->items();
      REQUIRE(std::set<int64_t>(items.ids.begin(), items.ids.end()) == history.ids());
      REQUIRE(items.size() == static_cast<int64_t>(history.ids().size()));
    });
  });
}

TEST_CASE("removing an item that is not there is refused") {
  const std::vector<int64_t> sizes{2};
  const int32_t sid = 1;
  const int64_t id = 7, unknown = -1;
  LiveTrie live({&sid, 1, sizes}, &id, {});
  CHECK_THROWS_AS(live.remove(&unknown, 1), std::invalid_argument);
  CHECK(live.snapshot()->num_items() == 1);
}

TEST_CASE("a search finds what scoring every item finds") {
  void (*check)(Random&, const Snapshot&) = nullptr;
  SUBCASE("unfiltered") { check = check_search; }
  SUBCASE("filtered") { check = check_filtered_search; }
  for_each_round(200, [&](Random& random) {
    for_each_change(random, [&](const History& history) { check(random, *history.snapshot()); });
  });
}

TEST_CASE("a ranking of all items is that of scoring every item") {
  for_each_round(200, [](Random& random) {
    for_each_change(random,
                    [&](const History& history) { check_ranking(random, *history.snapshot()); });
  });
}

TEST_CASE("the only leaf below a node is the only SID that begins so") {
  for_each_round(200, [](Random& random) {
    for_each_change(
        random, [&](const History& history) { check_unique_leaves(random, *history.snapshot()); });
  });
}

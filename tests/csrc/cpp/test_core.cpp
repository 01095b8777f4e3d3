// The core against plain loops, on random catalogues and histories of changes: for sanitizers,
// which see what Python tests cannot. ROUNDS=2000 test_core for more of them (default 200).
#include <doctest/doctest.h>
#include <unistd.h>

#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>

#include "inputs.h"
#include "search.h"
#include "store_engine/live_trie.h"

using namespace store_engine;

namespace {

// Use REQUIRE within: it ends a test at the first round that fails, and names its seed.
template <typename Run>
void for_each_round(const Run& run) {
  for (int64_t seed = 0; seed < rounds(200); ++seed) {
    CAPTURE(seed);
    Random random(static_cast<uint64_t>(seed));
    run(random);
  }
}

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
  for (int64_t depth = 0; depth <= num_levels; ++depth) {
    CAPTURE(depth);
    const ChildIndex& index = trie.index(depth);
    int64_t next = 0;
    index.for_each([&](int64_t node, Range children) {
      REQUIRE(children.begin == next);
      REQUIRE(index.children(node).begin == children.begin);
      REQUIRE(index.children(node).end == children.end);
      for (next = children.begin; next < children.end; ++next) REQUIRE(index.parent(next) == node);
    });
    REQUIRE(next == trie.num_nodes(depth + 1));
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

// With all rows allowed or some of them, and some of these excluded.
void check_filtered_search(Random& random, const Snapshot& snapshot) {
  const int64_t batch = 2;
  std::vector<int64_t> allowed, excluded;
  for (int64_t row = 0; row < snapshot.num_rows(); ++row) {
    if (snapshot.has(row) && random.number(0, 2) > 0) allowed.push_back(row);
    if (random.number(0, 2) == 0) excluded.insert(excluded.end(), 2, row);
  }
  std::shared_ptr<RowSet> allow;
  if (random.number(0, 1) == 1) {
    allow = RowSet::from_rows(snapshot, allowed.data(), static_cast<int64_t>(allowed.size()));
    const std::shared_ptr<RowSet> denied = ~*allow;
    allow = ~*(*denied & *(*denied | *denied));
    REQUIRE(allow->rows() == allowed);
  }
  ItemFilter filter(snapshot, batch);
  for (int64_t i = 0; i < batch; ++i) {
    filter.restrict(i, allow, excluded.data(), static_cast<int64_t>(excluded.size()));
  }
  const std::set<int64_t> gone(excluded.begin(), excluded.end());
  const auto is_allowed = [&](int64_t row) {
    return gone.count(row) == 0 && (allow == nullptr || allow->has(row));
  };
  const Logits logits = random_logits(random, snapshot);
  const std::vector<Found> want = score_all(snapshot, logits, is_allowed);
  REQUIRE(search(snapshot, logits, &filter, batch, 1) == want);
  REQUIRE(filter.num_allowed(0) == static_cast<int64_t>(want.size()));
}

}  // namespace

TEST_CASE("a trie, built or loaded, walks through the SIDs it was built from") {
  for_each_round([](Random& random) {
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

TEST_CASE("a live catalogue has the items that were added and not removed") {
  for_each_round([](Random& random) {
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
  for_each_round([&](Random& random) {
    for_each_change(random, [&](const History& history) { check(random, *history.snapshot()); });
  });
}

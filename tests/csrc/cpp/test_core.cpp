// The core against plain loops, on random catalogues and histories of changes: for sanitizers,
// which see what Python tests cannot. test_core [SEEDS] (default 200).
#include <unistd.h>

#include <cstdlib>
#include <numeric>
#include <set>
#include <string>

#include "check.h"
#include "search.h"
#include "store_engine/live_trie.h"

using namespace store_engine;

namespace {

// Every way to walk a trie agrees with the SIDs it was built from.
void test_walks(const ItemTrie& trie, const std::vector<int32_t>& sids) {
  const int64_t num_levels = trie.num_levels();
  std::vector<std::vector<int32_t>> sorted;
  for (int64_t i = 0; i < trie.num_items(); ++i) {
    sorted.emplace_back(sids.begin() + i * num_levels, sids.begin() + (i + 1) * num_levels);
  }
  std::sort(sorted.begin(), sorted.end());
  const std::vector<int32_t> walked = trie.sids();
  for (int64_t i = 0; i < trie.num_items(); ++i) {
    CHECK(std::equal(sorted[i].begin(), sorted[i].end(), walked.begin() + i * num_levels));
    CHECK(trie.position_of(trie.row_at(i)) == i);
  }
  for (int64_t depth = 0; depth <= num_levels; ++depth) {
    const ChildIndex& index = trie.index(depth);
    int64_t next = 0;
    index.for_each([&](int64_t node, Range children) {
      CHECK(children.begin == next && index.children(node).begin == children.begin);
      CHECK(index.children(node).end == children.end);
      for (next = children.begin; next < children.end; ++next) CHECK(index.parent(next) == node);
    });
    CHECK(next == trie.num_nodes(depth + 1));
  }
}

void test_files(Random& random) {
  const std::vector<int64_t> sizes = random.codebook_sizes();
  const int64_t num_items = random.one_of({0, 1, 100, 700});
  const std::vector<int32_t> sids = random.sids(num_items, sizes);
  const ItemTrie trie({sids.data(), num_items, sizes},
                      {random.number(0, 1) == 1, random.number(1, 4)});
  test_walks(trie, sids);
  const std::string path = temporary_path();
  trie.save(path);
  test_walks(ItemTrie::load(path), sids);
  ::unlink(path.c_str());
}

// What a search of the snapshot finds is what scoring every item finds, with a filter and without.
void test_search(Random& random, const Snapshot& snapshot) {
  const Logits logits = random_logits(random, snapshot);
  const auto all = [](int64_t) { return true; };
  CHECK(search(snapshot, logits, nullptr, 2, 2) == score_all(snapshot, logits, all));

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
    CHECK(allow->rows() == allowed);
  }
  ItemFilter filter(snapshot, batch);
  for (int64_t i = 0; i < batch; ++i) {
    filter.restrict(i, allow, excluded.data(), static_cast<int64_t>(excluded.size()));
  }
  const std::set<int64_t> gone(excluded.begin(), excluded.end());
  const auto is_allowed = [&](int64_t row) {
    return gone.count(row) == 0 && (allow == nullptr || allow->has(row));
  };
  const std::vector<Found> want = score_all(snapshot, logits, is_allowed);
  CHECK(search(snapshot, logits, &filter, batch, 1) == want);
  CHECK(filter.num_allowed(0) == static_cast<int64_t>(want.size()));
}

void test_history(Random& random) {
  const std::vector<int64_t> sizes = random.codebook_sizes();
  std::set<int64_t> ids;
  int64_t next_id = 0;
  const auto draw = [&](int64_t num_items) {
    std::vector<int64_t> drawn(num_items);
    std::iota(drawn.begin(), drawn.end(), next_id);
    next_id += num_items;
    ids.insert(drawn.begin(), drawn.end());
    return drawn;
  };
  const int64_t num_items = random.number(0, 60);
  const std::vector<int32_t> sids = random.sids(num_items, sizes);
  LiveTrie live({sids.data(), num_items, sizes}, draw(num_items).data(),
                {{random.number(0, 1) == 1, 1}, random.one_of<int64_t>({1, 20, 1000})});
  for (int64_t i = random.number(0, 6); i > 0; --i) {
    std::vector<int64_t> some;
    for (const int64_t id : ids) {
      if (random.number(0, 3) == 0) some.push_back(id);
    }
    switch (random.number(0, 3)) {
      case 0:
        live.compact();
        break;
      case 1:
        live.remove(some.data(), static_cast<int64_t>(some.size()));
        for (const int64_t id : some) ids.erase(id);
        break;
      default:
        some = draw(random.number(0, 30));
        live.add(random.sids(static_cast<int64_t>(some.size()), sizes).data(), some.data(),
                 static_cast<int64_t>(some.size()));
    }
    const std::shared_ptr<const Snapshot> snapshot = live.snapshot();
    const SortedItems items = snapshot->items();
    CHECK(std::set<int64_t>(items.ids.begin(), items.ids.end()) == ids);
    CHECK(items.size() == static_cast<int64_t>(ids.size()));
    test_search(random, *snapshot);
  }
  const int64_t unknown = -1;
  CHECK(throws<std::invalid_argument>([&] { live.remove(&unknown, 1); }));
}

}  // namespace

int main(int argc, char** argv) {
  const int num_seeds = argc > 1 ? std::atoi(argv[1]) : 200;
  for (int seed = 0; seed < num_seeds; ++seed) {
    Random random(static_cast<uint64_t>(seed));
    test_files(random);
    test_history(random);
  }
  std::printf("test_core: %d seeds, all well\n", num_seeds);
}

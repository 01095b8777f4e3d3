// Adding, removing, merging, filtering and searching at once: for the thread sanitizer.
// ROUNDS=2000 test_threads for more of it (default 1000).
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <numeric>

#include "inputs.h"
#include "search.h"
#include "store_engine/trie/live_trie.h"

using namespace store_engine;

namespace {

// Items of one writer that outlive a few merges.
constexpr int64_t kNumKept = 16;

// Adds three items, removes two of them and an older one, again and again; merges come by
// themselves.
void write(LiveTrie& live, int64_t first_id, int64_t num_rounds) {
  Random random(static_cast<uint64_t>(first_id));
  for (int64_t i = 0; i < num_rounds; ++i) {
    const std::vector<int32_t> sids = random.sids(3, live.codebook_sizes());
    const int64_t id = first_id + 3 * i, ids[] = {id, id + 1, id + 2};
    live.add(sids.data(), ids, 3);
    live.remove(ids + 1, 2);
    const int64_t older = id - 3 * kNumKept;
    if (i >= kNumKept) live.remove(&older, 1);
    if (i % 32 == 0) live.compact();
  }
}

// Searches one snapshot after another, each of which must be consistent in itself, and returns how
// many.
int64_t read(const LiveTrie& live, uint64_t seed, const std::atomic<bool>& is_done) {
  Random random(seed);
  int64_t num_read = 0;
  do {
    const std::shared_ptr<const Snapshot> snapshot = live.snapshot();
    const Logits logits = random_logits(random, *snapshot);
    const auto all = [](int64_t) { return true; };
    require(search(*snapshot, logits, nullptr, 2, 2) == score_all(*snapshot, logits, all),
            "a snapshot searches as scoring its items does");
    ++num_read;
  } while (!is_done);
  return num_read;
}

}  // namespace

TEST_CASE("two threads use one set and one trie for the first time at once") {
  for (int repeat = 0; repeat < 10; ++repeat) {
    const std::vector<int64_t> sizes{9, 9, 9};
    Random random(7);
    const std::vector<int32_t> sids = random.sids(400, sizes);
    Snapshot snapshot;
    snapshot.base = std::make_shared<ItemTrie>(Sids{sids.data(), 400, sizes}, ItemTrie::Options{});
    std::vector<int64_t> rows(200);
    std::iota(rows.begin(), rows.end(), 100);
    const std::shared_ptr<RowSet> allow = RowSet::from_rows(snapshot, rows.data(), 200);
    const Logits logits = random_logits(random, snapshot);
    const auto use = [&] {
      ItemFilter filter(snapshot, 2);
      for (int64_t i = 0; i < 2; ++i) filter.restrict(i, allow, rows.data(), 10);
      const size_t num_found = search(snapshot, logits, &filter, 2, 2).size();
      require(allow->nbytes() > 0, "the set has a size");
      require(snapshot.base->nbytes() > 0, "the trie has a size");
      return num_found;
    };
    std::future<size_t> other = std::async(std::launch::async, use);
    CHECK(use() == 190);
    CHECK(other.get() == 190);
  }
}

TEST_CASE("searches see whole snapshots while two threads write and a third merges") {
  const int64_t num_rounds = rounds(1000);
  const std::vector<int64_t> sizes{5, 17, 300};
  Random random(1);
  const std::vector<int32_t> sids = random.sids(100, sizes);
  std::vector<int64_t> ids(100);
  std::iota(ids.begin(), ids.end(), -100);
  LiveTrie live({sids.data(), 100, sizes}, ids.data(), {{}, 20});

  std::atomic<bool> is_done{false};
  std::future<int64_t> readers[] = {
      std::async(std::launch::async, [&] { return read(live, 1, is_done); }),
      std::async(std::launch::async, [&] { return read(live, 2, is_done); })};
  std::future<void> writers[] = {
      std::async(std::launch::async, [&] { write(live, 0, num_rounds); }),
      std::async(std::launch::async, [&] { write(live, 1'000'000, num_rounds); })};
  for (std::future<void>& writer : writers) writer.wait();
  is_done = true;  // before get() throws what a writer threw: the readers must end
  for (std::future<void>& writer : writers) writer.get();
  for (std::future<int64_t>& reader : readers) {
    const int64_t num_read = reader.get();
    MESSAGE("snapshots searched: ", num_read);
    CHECK(num_read > 0);
  }
  live.compact();
  CHECK(live.snapshot()->num_items() == 100 + 2 * std::min(kNumKept, num_rounds));
}

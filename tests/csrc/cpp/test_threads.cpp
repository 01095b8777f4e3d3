// Adding, removing, merging, filtering and searching at once: for the thread sanitizer.
// test_threads [ROUNDS] (default 1000).
#include <atomic>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "check.h"
#include "search.h"
#include "store_engine/live_trie.h"

using namespace store_engine;

namespace {

// Adds three items and removes two of them, again and again; merges come by themselves.
void write(LiveTrie& live, int64_t first_id, int rounds) {
  Random random(static_cast<uint64_t>(first_id));
  for (int i = 0; i < rounds; ++i) {
    const std::vector<int32_t> sids = random.sids(3, live.codebook_sizes());
    const int64_t ids[] = {first_id + 3 * i, first_id + 3 * i + 1, first_id + 3 * i + 2};
    live.add(sids.data(), ids, 3);
    live.remove(ids + 1, 2);
    if (i % 32 == 0) live.compact();
  }
}

// Every snapshot is consistent in itself. Counts those it has looked at.
void read(const LiveTrie& live, uint64_t seed, const std::atomic<bool>& is_done,
          std::atomic<int>& num_read) {
  Random random(seed);
  do {
    const std::shared_ptr<const Snapshot> snapshot = live.snapshot();
    const Logits logits = random_logits(random, *snapshot);
    const auto all = [](int64_t) { return true; };
    CHECK(search(*snapshot, logits, nullptr, 2, 2) == score_all(*snapshot, logits, all));
    ++num_read;
  } while (!is_done);
}

// Two threads use one set and one trie for the first time at once.
void test_first_use() {
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
    CHECK(search(snapshot, logits, &filter, 2, 2).size() == 190);
    CHECK(allow->nbytes() > 0 && snapshot.base->nbytes() > 0);
  };
  std::thread other(use);
  use();
  other.join();
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1000;
  for (int i = 0; i < 10; ++i) test_first_use();
  const std::vector<int64_t> sizes{5, 17, 300};
  Random random(1);
  const std::vector<int32_t> sids = random.sids(100, sizes);
  std::vector<int64_t> ids(100);
  std::iota(ids.begin(), ids.end(), -100);
  LiveTrie live({sids.data(), 100, sizes}, ids.data(), {{}, 20});
  std::atomic<bool> is_done{false};
  std::atomic<int> num_read{0};
  std::thread readers[] = {std::thread([&] { read(live, 1, is_done, num_read); }),
                           std::thread([&] { read(live, 2, is_done, num_read); })};
  std::thread writer([&] { write(live, 1'000'000, rounds); });
  write(live, 0, rounds);
  writer.join();
  is_done = true;
  for (std::thread& reader : readers) reader.join();
  live.compact();
  CHECK(live.snapshot()->num_items() == 100 + 2 * rounds);
  std::printf("test_threads: %d rounds, %d snapshots read, all well\n", rounds, num_read.load());
}

// A live catalogue and shared work in a child of fork(), while other threads of the parent change,
// merge and read: the child must find a whole catalogue and never wait for a lost thread.
// ROUNDS=2000 test_fork for more of it (default 100).
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <numeric>

#include "inputs.h"
#include "search.h"
#include "store_engine/base/parallel_for.h"
#include "store_engine/trie/live_trie.h"

using namespace store_engine;

namespace {

constexpr unsigned kMaxSeconds = 60;  // then the kernel ends a child that waits for ever

// Runs `body` in a child and returns whether it came back without an exception.
template <typename Body>
bool runs_in_child(const Body& body) {
  const pid_t child = ::fork();
  require(child >= 0, "the process forks");
  if (child == 0) {
    ::alarm(kMaxSeconds);
    try {
      body();
      ::_exit(0);
    } catch (const std::exception&) {
      ::_exit(1);
    }
  }
  int status = 0;
  require(::waitpid(child, &status, 0) == child, "the child is waited for");
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::vector<int64_t> numbers_from(int64_t first, int64_t count) {
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

// Changes, merges and searches the catalogue of a parent as its own.
void use(LiveTrie& live) {
  const int64_t num_items = live.snapshot()->num_items();
  require(static_cast<int64_t>(live.snapshot()->items().ids.size()) == num_items,
          "the snapshot is whole");
  const std::vector<int64_t> ids = numbers_from(int64_t{1} << 40, 50);
  Random random(0);
  const std::vector<int32_t> sids = random.sids(50, live.codebook_sizes());
  for (int i = 0; i < 3; ++i) {  // each time more than max_changes
    live.add(sids.data(), ids.data(), 50);
    live.compact();
    live.remove(ids.data(), 50);
    live.compact();
  }
  const std::shared_ptr<const Snapshot> snapshot = live.snapshot();
  require(snapshot->num_changes() == 0, "all changes are merged");
  require(snapshot->num_items() == num_items, "no item is lost");
  const Logits logits = random_logits(random, *snapshot);
  require(!search(*snapshot, logits, nullptr, 2, 2).empty(), "the catalogue is searched");
}

// Keeps adding, removing and merging until it is told to stop.
void change(LiveTrie& live, int64_t first_id, const std::atomic<bool>& is_done) {
  Random random(static_cast<uint64_t>(first_id));
  const std::vector<int64_t> ids = numbers_from(first_id, 30);
  for (int64_t i = 0; !is_done; ++i) {
    const std::vector<int32_t> sids = random.sids(30, live.codebook_sizes());
    live.add(sids.data(), ids.data(), 30);
    if (i % 5 == 0) live.compact();
    live.remove(ids.data(), 30);
    live.snapshot();
  }
}

}  // namespace

TEST_CASE("a live catalogue serves on in a child, whatever the parent's threads were doing") {
  const std::vector<int64_t> sizes{5, 17, 300}, ids = numbers_from(0, 3000);
  Random random(1);
  const std::vector<int32_t> sids = random.sids(3000, sizes);
  LiveTrie live({sids.data(), 3000, sizes}, ids.data(), {{}, 20});
  std::atomic<bool> is_done{false};
  std::future<void> writers[] = {
      std::async(std::launch::async, [&] { change(live, 1'000'000, is_done); }),
      std::async(std::launch::async, [&] { change(live, 2'000'000, is_done); })};
  int64_t num_failed = 0;
  for (int64_t i = 0; i < rounds(100); ++i) num_failed += !runs_in_child([&] { use(live); });
  is_done = true;
  for (std::future<void>& writer : writers) writer.get();
  CHECK(num_failed == 0);
  use(live);  // the parent's goes on too
  CHECK(live.snapshot()->num_items() == 3000);
}

TEST_CASE("a catalogue whose merge was under way can be destroyed in a child") {
  const std::vector<int64_t> sizes{300, 300}, ids = numbers_from(0, 20'000);
  Random random(2);
  const std::vector<int32_t> sids = random.sids(20'000, sizes);
  auto live = std::make_unique<LiveTrie>(Sids{sids.data(), 20'000, sizes}, ids.data(),
                                         LiveTrie::Options{{}, 10});
  for (int64_t i = 0; i < 10; ++i) {
    live->remove(ids.data() + i * 10, 10);  // starts a merge
    CHECK(runs_in_child([&] { live.reset(); }));
  }
}

TEST_CASE("a child of a child serves too") {
  const std::vector<int64_t> sizes{300, 300}, ids = numbers_from(0, 20'000);
  Random random(3);
  const std::vector<int32_t> sids = random.sids(20'000, sizes);
  LiveTrie live({sids.data(), 20'000, sizes}, ids.data(), {{}, 10});
  live.remove(ids.data(), 10);
  CHECK(runs_in_child([&] {
    live.remove(ids.data() + 10, 10);
    require(runs_in_child([&] { use(live); }), "the grandchild serves");
    use(live);
  }));
}

TEST_CASE("work is shared in a child although the parent's OpenMP threads are lost") {
  if (dlopen("libgomp.so.1", RTLD_LAZY) == nullptr) {
    MESSAGE("skipped: there is no libgomp");
    return;
  }
  const auto share = [] {
    std::atomic<int64_t> sum{0};
    parallel_for(1000, {8, 4, Threads::kOpenMp},
                 [&](int64_t, int64_t begin, int64_t end) { sum += end - begin; });
    require(sum == 1000, "all the work is done");
  };
  const bool has_runtime = openmp_parallel() != nullptr;
  REQUIRE(has_runtime);
  share();  // now the runtime has threads
  CHECK(runs_in_child([&] {
    require(openmp_parallel() == nullptr, "a child has no runtime");
    share();
  }));
}

// The core's sharing of work, on threads of its own and on those of an OpenMP runtime.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "store_engine/team.h"

using namespace store_engine;

namespace {

constexpr int64_t kCount = 100, kNumChunks = 17;  // more chunks than threads, of unequal sizes

bool has_runtime() { return openmp_parallel() != nullptr; }

void check_chunks(int64_t num_threads) {
  std::vector<int> times_run(kCount);  // chunks are disjoint: a thread sanitizer sees if not
  std::vector<int> times_called(kNumChunks);
  team_chunks(kCount, kNumChunks, num_threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    ++times_called[chunk];
    for (int64_t i = begin; i < end; ++i) ++times_run[i];
  });
  CHECK(times_run == std::vector<int>(kCount, 1));
  CHECK(times_called == std::vector<int>(kNumChunks, 1));
}

// Chunks 5, 8, 11 and 14 throw; all others are still run.
void check_exceptions(int64_t num_threads) {
  std::atomic<int64_t> num_run{0};
  const auto run = [&](int64_t chunk, int64_t, int64_t) {
    ++num_run;
    if (chunk >= 5 && chunk % 3 == 2) throw std::out_of_range("chunk " + std::to_string(chunk));
  };
  CHECK_THROWS_WITH_AS(team_chunks(kCount, kNumChunks, num_threads, run), "chunk 5",
                       std::out_of_range);
  CHECK(num_run == kNumChunks);
}

void check_team() {
  for (const int64_t num_threads : {1, 2, 4, 50}) {
    CAPTURE(num_threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      check_chunks(num_threads);
      check_exceptions(num_threads);
    }
  }
}

}  // namespace

TEST_CASE("all chunks are run once, and the lowest that throws is heard") {
  REQUIRE_FALSE(has_runtime());
  check_team();
}

#ifndef __SANITIZE_THREAD__  // which does not see how an OpenMP runtime waits
TEST_CASE("the same on a runtime that is loaded later, and stays") {
  if (dlopen("libgomp.so.1", RTLD_LAZY) == nullptr) {
    MESSAGE("skipped: there is no libgomp");
    return;
  }
  REQUIRE(has_runtime());
  check_team();
}
#endif

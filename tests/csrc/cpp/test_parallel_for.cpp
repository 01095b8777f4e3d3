// parallel_for, on threads of its own and on those of an OpenMP runtime.
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "store_engine/base/parallel_for.h"

using namespace store_engine;

namespace {

constexpr int64_t kCount = 100, kNumChunks = 17;  // more chunks than threads, of unequal sizes

bool has_runtime() { return openmp_parallel() != nullptr; }

void check_chunks(const ParallelOptions& options) {
  std::vector<int> times_run(kCount);  // chunks are disjoint: a thread sanitizer sees if not
  std::vector<int> times_called(kNumChunks);
  parallel_for(kCount, options, [&](int64_t chunk, int64_t begin, int64_t end) {
    ++times_called[chunk];
    for (int64_t i = begin; i < end; ++i) ++times_run[i];
  });
  CHECK(times_run == std::vector<int>(kCount, 1));
  CHECK(times_called == std::vector<int>(kNumChunks, 1));
}

// Chunks 5, 8, 11 and 14 throw; all others are still run.
void check_exceptions(const ParallelOptions& options) {
  std::atomic<int64_t> num_run{0};
  const auto run = [&](int64_t chunk, int64_t, int64_t) {
    ++num_run;
    if (chunk >= 5 && chunk % 3 == 2) throw std::out_of_range("chunk " + std::to_string(chunk));
  };
  CHECK_THROWS_WITH_AS(parallel_for(kCount, options, run), "chunk 5", std::out_of_range);
  CHECK(num_run == kNumChunks);
}

void check_all(Threads threads) {
  for (const int64_t num_threads : {1, 2, 4, 50}) {
    CAPTURE(num_threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      check_chunks({kNumChunks, num_threads, threads});
      check_exceptions({kNumChunks, num_threads, threads});
    }
  }
}

}  // namespace

TEST_CASE("all chunks are run once, and the lowest that throws is heard") {
  REQUIRE_FALSE(has_runtime());
  check_all(Threads::kOwn);
  check_all(Threads::kOpenMp);
}

TEST_CASE("chunks are contiguous, differ by one at most, and never overflow") {
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{5}, int64_t{100}, INT64_MAX}) {
    for (const int64_t num_chunks : {int64_t{-1}, int64_t{1}, int64_t{7}, int64_t{1024}}) {
      CAPTURE(count);
      CAPTURE(num_chunks);
      int64_t next = 0, smallest = INT64_MAX, largest = 0, num_run = 0;
      parallel_for(count, {num_chunks, 1}, [&](int64_t chunk, int64_t begin, int64_t end) {
        CHECK(chunk == num_run++);
        CHECK(begin == next);
        smallest = std::min(smallest, end - begin);
        largest = std::max(largest, end - begin);
        next = end;
      });
      CHECK(next == count);
      CHECK(largest - smallest <= 1);
      CHECK(num_run == std::max<int64_t>(1, std::min(count, num_chunks)));
    }
  }
}

#ifndef __SANITIZE_THREAD__  // which does not see how an OpenMP runtime waits
TEST_CASE("the same on a runtime that is loaded later, and stays") {
  if (dlopen("libgomp.so.1", RTLD_LAZY) == nullptr) {
    MESSAGE("skipped: there is no libgomp");
    return;
  }
  REQUIRE(has_runtime());
  check_all(Threads::kOpenMp);
}
#endif

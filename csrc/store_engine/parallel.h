// Static work sharing over threads, without a pool: nothing survives a call, so fork() stays safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace store_engine {

// Calls body(chunk_id, begin, end) for num_chunks contiguous chunks of [0, count), one thread each.
// Rethrows the exception of the lowest failing chunk, so errors do not depend on timing.
template <typename Body>
void parallel_chunks(int64_t count, int64_t num_chunks, const Body& body) {
  const int64_t chunks = std::max<int64_t>(1, std::min(count, num_chunks));
  std::vector<std::exception_ptr> errors(chunks);
  const auto run = [&](int64_t chunk) {
    try {
      body(chunk, count * chunk / chunks, count * (chunk + 1) / chunks);
    } catch (...) {
      errors[chunk] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(chunks - 1);
  for (int64_t chunk = 1; chunk < chunks; ++chunk) {
    try {
      threads.emplace_back(run, chunk);
    } catch (const std::system_error&) {
      run(chunk);  // no thread to be had: the caller does the work
    }
  }
  run(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace store_engine

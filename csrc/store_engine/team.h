// Work sharing on the threads of the OpenMP runtime that the process has loaded already.
//
// PyTorch's matrix products run on that runtime, and between two of them its threads spin. A second
// pool would fight them for the cores; a thread started per call costs more than a small step. So
// the runtime is looked up, not linked: GNU's, LLVM's and Intel's all have GOMP_parallel. Without
// one, threads are started per call, as parallel.h does.
#pragma once

#include <dlfcn.h>
#ifdef __linux__
#include <link.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "store_engine/parallel.h"

namespace store_engine {

using OpenMpParallel = void (*)(void (*body)(void*), void* data, unsigned num_threads,
                                unsigned flags);

// Paths of the OpenMP runtimes among the loaded libraries, PyTorch's own first.
inline std::vector<std::string> loaded_openmp_runtimes() {
  std::vector<std::string> paths;
#ifdef __linux__
  const auto keep = [](dl_phdr_info* library, size_t, void* found) {
    const std::string path = library->dlpi_name;
    for (const char* name : {"/libgomp", "/libomp", "/libiomp5"}) {
      if (path.find(name) != std::string::npos) {
        static_cast<std::vector<std::string>*>(found)->push_back(path);
        break;
      }
    }
    return 0;
  };
  dl_iterate_phdr(keep, &paths);
#endif
  const auto is_of_pytorch = [](const std::string& path) {
    return path.find("torch") != std::string::npos;
  };
  std::stable_partition(paths.begin(), paths.end(), is_of_pytorch);
  return paths;
}

// The runtime's entry, or null. Looked for until there is one.
inline OpenMpParallel openmp_parallel() {
  static std::atomic<OpenMpParallel> known{nullptr};
  OpenMpParallel entry = known.load(std::memory_order_relaxed);
  if (entry != nullptr) return entry;
  for (const std::string& path : loaded_openmp_runtimes()) {
    void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) continue;
    entry = reinterpret_cast<OpenMpParallel>(dlsym(library, "GOMP_parallel"));
    if (entry != nullptr) break;
  }
  known.store(entry, std::memory_order_relaxed);
  return entry;
}

// Calls body(chunk_id, begin, end) for chunks of [0, count), as parallel_chunks does, but a chunk
// is taken by whichever thread is free. Not after fork() in the child, as OpenMP itself.
template <typename Body>
void team_chunks(int64_t count, int64_t num_chunks, int64_t num_threads, const Body& body) {
  const int64_t chunks = std::max<int64_t>(1, std::min(count, num_chunks));
  const int64_t threads = std::min(chunks, num_threads);
  const OpenMpParallel parallel = threads > 1 ? openmp_parallel() : nullptr;
  std::vector<std::exception_ptr> errors(static_cast<size_t>(chunks));
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      try {
        body(chunk, count * chunk / chunks, count * (chunk + 1) / chunks);
      } catch (...) {
        errors[static_cast<size_t>(chunk)] = std::current_exception();
      }
    }
  };
  if (parallel != nullptr) {
    using Work = decltype(work);
    parallel([](void* data) { (*static_cast<const Work*>(data))(); },
             const_cast<void*>(static_cast<const void*>(&work)), static_cast<unsigned>(threads), 0);
  } else {
    parallel_chunks(threads, threads, [&work](int64_t, int64_t, int64_t) { work(); });
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace store_engine

// The OpenMP runtime that the process has loaded already.
//
// PyTorch's matrix products run on that runtime, and between two of them its threads spin. A second
// pool would compete with them for the cores, and a thread started per call costs more than a small
// step. So the runtime is looked up, not linked: GNU's, LLVM's and Intel's all have GOMP_parallel.
#pragma once

#include <dlfcn.h>
#ifdef __linux__
#include <link.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

#include "store_engine/base/fork.h"

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

// The runtime's entry point, or null if no runtime is loaded yet. Null in a forked child too: the
// runtime would wait there for the threads of the parent.
inline OpenMpParallel openmp_parallel() {
  if (ForkGuard::is_forked_child()) return nullptr;
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

}  // namespace store_engine

// Which instruction set to use, and the one way to get functions that are written for it.
//
// A group of such functions is a struct of function pointers, its table. Each target's namespace
// specialises Kernels<Table>; simd::kernels<Table>() is the table for this CPU.
// Source: Highway's dynamic dispatch, https://github.com/google/highway (hwy/highway.h).
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace store_engine::simd {

// Each includes those before it.
enum class Target {
  kBaseline,  // what every CPU of the architecture has: SSE2 on x86-64, NEON on AArch64
  kAvx2,      // with fma, popcnt and bmi2
  kAvx512,    // avx512f and avx512dq
};

constexpr const char* kTargetNames[] = {"baseline", "avx2", "avx512"};

// The best target of this CPU.
inline Target best_target() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi2")) {
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
    return has_avx512 ? Target::kAvx512 : Target::kAvx2;
  }
#endif
  return Target::kBaseline;
}

// The best target, or the one that the environment variable STORE_ENGINE_SIMD names, which is read
// once. Throws std::invalid_argument if it names none that this CPU has.
inline Target chosen_target() {
  static const Target chosen = [] {
    const char* name = std::getenv("STORE_ENGINE_SIMD");
    const Target best = best_target();
    if (name == nullptr || *name == '\0') return best;
    std::string known;
    for (int i = 0; i <= static_cast<int>(best); ++i) {
      if (name == std::string(kTargetNames[i])) return static_cast<Target>(i);
      known += (i == 0 ? "" : ", ") + std::string(kTargetNames[i]);
    }
    throw std::invalid_argument("STORE_ENGINE_SIMD must be one of " + known +
                                " on this CPU, got '" + name + "'");
  }();
  return chosen;
}

namespace baseline {
template <typename Table>
struct Kernels;  // specialised with a constant `table`
}
#ifdef __x86_64__
namespace avx2 {
template <typename Table>
struct Kernels;
}
namespace avx512 {
template <typename Table>
struct Kernels;
}
#endif

// The functions of a table for one target, which this CPU must have.
template <typename Table>
const Table& kernels_for(Target target) {
#ifdef __x86_64__
  if (target == Target::kAvx512) return avx512::Kernels<Table>::table;
  if (target == Target::kAvx2) return avx2::Kernels<Table>::table;
#endif
  static_cast<void>(target);
  return baseline::Kernels<Table>::table;
}

// The functions of a table for this CPU.
template <typename Table>
const Table& kernels() {
  return kernels_for<Table>(chosen_target());
}

}  // namespace store_engine::simd

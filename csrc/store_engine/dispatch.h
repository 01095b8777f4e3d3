// Which instruction set to use: the best this CPU has, or the one that STORE_ENGINE_SIMD names.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace store_engine {

// Each includes those before it.
enum class Simd {
  kBaseline,  // what every CPU of the architecture has: SSE2 on x86-64, NEON on AArch64
  kAvx2,      // with fma, popcnt and bmi2
  kAvx512,    // avx512f and avx512dq
};

constexpr const char* kSimdNames[] = {"baseline", "avx2", "avx512"};

inline Simd best_simd() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi2")) {
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
    return has_avx512 ? Simd::kAvx512 : Simd::kAvx2;
  }
#endif
  return Simd::kBaseline;
}

// Read once. Throws std::invalid_argument if STORE_ENGINE_SIMD names what this CPU does not have.
inline Simd simd() {
  static const Simd chosen = [] {
    const char* name = std::getenv("STORE_ENGINE_SIMD");
    const Simd best = best_simd();
    if (name == nullptr || *name == '\0') return best;
    for (int i = 0; i <= static_cast<int>(best); ++i) {
      if (name == std::string(kSimdNames[i])) return static_cast<Simd>(i);
    }
    throw std::invalid_argument("STORE_ENGINE_SIMD must be baseline or up to " +
                                std::string(kSimdNames[static_cast<int>(best)]) + ", got " + name);
  }();
  return chosen;
}

}  // namespace store_engine

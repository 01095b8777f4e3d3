// Tests on random inputs: one round per seed.
#pragma once

#include <doctest/doctest.h>

#include "inputs.h"

// Calls run(random) for `usual` seeds, or as many as the environment's ROUNDS. Use REQUIRE within:
// it ends a test at the first round that fails, and names its seed.
template <typename Run>
void for_each_round(int64_t usual, const Run& run) {
  for (int64_t seed = 0; seed < rounds(usual); ++seed) {
    CAPTURE(seed);
    Random random(static_cast<uint64_t>(seed));
    run(random);
  }
}

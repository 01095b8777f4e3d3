// The log-softmax kernels of every target that this CPU has, against a plain sum in double.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "each_round.h"
#include "inputs.h"
#include "store_engine/search/softmax.h"

using namespace store_engine;

namespace {

constexpr int64_t kVocabSizes[] = {1, 2, 15, 16, 17, 63, 256, 1000, 2048, 65536};

// Calls use(kernels) for each target that this process may use.
template <typename Use>
void for_each_target(const Use& use) {
  for (int i = 0; i <= static_cast<int>(simd::chosen_target()); ++i) {
    CAPTURE(std::string(simd::kTargetNames[i]));
    use(simd::kernels_for<SoftmaxKernels>(static_cast<simd::Target>(i)));
  }
}

float log_sum_exp(const SoftmaxKernels& kernels, const std::vector<float>& row) {
  const auto size = static_cast<int64_t>(row.size());
  return kernels.log_sum_exp(row.data(), size, kernels.row_max(row.data(), size));
}

double expected(const std::vector<float>& row) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float x : row) sum += std::exp(x - max);
  return max + std::log(sum);
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

}  // namespace

TEST_CASE("log-sum-exp is that of double, and never below the maximum") {
  Random random(0);
  for (const float scale : {0.01f, 2.0f, 50.0f, 1e4f}) {
    for (const int64_t vocab_size : kVocabSizes) {
      std::vector<float> row = random.logits(vocab_size);  // with deviation 2
      for (float& x : row) x *= scale / 2;
      const double want = expected(row);
      for_each_target([&](const SoftmaxKernels& kernels) {
        const float got = log_sum_exp(kernels, row);
        REQUIRE(std::abs(got - want) <= 5e-7 + 1.5e-7 * std::abs(want));
        // so that no log-probability is positive
        REQUIRE(got >= *std::max_element(row.begin(), row.end()));
      });
    }
  }
}

TEST_CASE("every target gives the same bits") {
  for_each_round(200, [](Random& random) {
    std::vector<float> row = random.logits(random.number(1, 600));
    const float scale = random.one_of({0.25f, 2.5f, 50.0f});
    for (float& x : row) x = random.number(0, 9) == 0 ? -kInfinity : x * scale;
    const uint32_t want = bits_of(log_sum_exp(simd::kernels<SoftmaxKernels>(), row));
    for_each_target([&](const SoftmaxKernels& kernels) {
      REQUIRE(bits_of(log_sum_exp(kernels, row)) == want);
    });
  });
}

TEST_CASE("rows with nothing, with one code, with NaN and with infinity") {
  for (const int64_t vocab_size : {1, 16, 33}) {
    for_each_target([vocab_size](const SoftmaxKernels& kernels) {
      std::vector<float> row(static_cast<size_t>(vocab_size), -kInfinity);
      CHECK(log_sum_exp(kernels, row) == -kInfinity);
      row.back() = 3;
      CHECK(log_sum_exp(kernels, row) == 3);
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
        row.back() = bad;
        CHECK(std::isnan(log_sum_exp(kernels, row)));
      }
    });
  }
}

TEST_CASE("the baseline is always there, and more is chosen only where the CPU has it") {
  CHECK(simd::chosen_target() <= simd::best_target());
  CHECK(std::string(simd::kTargetNames[0]) == "baseline");
}

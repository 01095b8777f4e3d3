// The log-probabilities of given codes, each behind one of a request's beams: what a beam step adds
// to a beam's score, for paths that are walked whether they are among the best or not.
//
// O(codebook_size) for each beam that is asked for, once, however many of its codes are. The same
// bits as beam_step's.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "store_engine/base/parallel_for.h"
#include "store_engine/search/softmax.h"

namespace store_engine {

// What is asked for: behind beam beams[i], -1 for none, the code codes[i].
template <typename Logit>
struct CodeQuery {
  const Logit* logits;  // (batch, beam_width, vocab_size), float or the bits of bfloat16
  int64_t batch, beam_width, vocab_size;
  const int64_t* beams;  // (batch, size)
  const int64_t* codes;  // (batch, size)
  int64_t size;
};

// out (batch, size): -inf for no beam, NaN where the beam's logits hold NaN or +inf.
// Throws std::invalid_argument for a beam or a code that is out of range.
template <typename Logit>
void code_logprobs(const CodeQuery<Logit>& query, int64_t num_threads, float* out) {
  const SoftmaxKernels& kernels = simd::kernels<SoftmaxKernels>();
  const int64_t beam_width = query.beam_width, vocab_size = query.vocab_size;
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(query.batch, options, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<float> wide(std::is_same_v<Logit, float> ? 0 : vocab_size);
    std::vector<float> lse(static_cast<size_t>(beam_width));
    std::vector<char> is_known(static_cast<size_t>(beam_width));
    for (int64_t request = begin; request < end; ++request) {
      std::fill(is_known.begin(), is_known.end(), 0);
      for (int64_t i = request * query.size; i < (request + 1) * query.size; ++i) {
        const int64_t beam = query.beams[i], code = query.codes[i];
        if (beam < -1 || beam >= beam_width || code < 0 || code >= vocab_size) {
          throw std::invalid_argument("request " + std::to_string(request) + ": beam " +
                                      std::to_string(beam) + " with code " + std::to_string(code) +
                                      " is out of range");
        }
        out[i] = -kInfinity;
        if (beam < 0) continue;
        const Logit* row = query.logits + (request * beam_width + beam) * vocab_size;
        float logit;
        if constexpr (std::is_same_v<Logit, float>) {
          logit = row[code];
        } else {
          kernels.widen_bfloat16(row + code, 1, &logit);
        }
        if (!is_known[beam]) {
          const float* numbers;
          if constexpr (std::is_same_v<Logit, float>) {
            numbers = row;
          } else {
            kernels.widen_bfloat16(row, vocab_size, wide.data());
            numbers = wide.data();
          }
          lse[beam] =
              kernels.log_sum_exp(numbers, vocab_size, kernels.row_max(numbers, vocab_size));
          is_known[beam] = 1;
        }
        if (lse[beam] != -kInfinity) out[i] = logit - lse[beam];
      }
    }
  });
}

}  // namespace store_engine

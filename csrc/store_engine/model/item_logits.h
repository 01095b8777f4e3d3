// The last level of a SID where it is the item itself: the logit of each item under a prefix is the
// dot product of the beam's state and the item's row.
//
// Item rows lie in the order of the trie, so those under one prefix mostly are neighbours and are
// streamed: bound by the bandwidth of memory, hidden_size numbers per child. Each row is read at
// the place that its slot names, so rows that were added later may lie anywhere. Sums are in
// float32 and in a fixed order, whatever the batch, the threads and where a row lies; multiply-adds
// are fused where the CPU can, so another instruction set may round differently.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "store_engine/base/parallel_for.h"
#include "store_engine/simd/vec.h"

namespace store_engine {

constexpr int64_t kDotRows = 8;  // at once, so that the state is read once for all of them

// item_logits-inl.h says what it computes. T: float, or uint16_t for the bits of bfloat16.
template <typename T>
struct ItemLogitKernels {
  void (*dots)(const float* state, const T* const* rows, int64_t size, float* out);
};

}  // namespace store_engine

namespace store_engine::simd {
#define STORE_ENGINE_KERNELS "store_engine/model/item_logits-inl.h"
#include "store_engine/simd/foreach_target.h"
}  // namespace store_engine::simd

namespace store_engine {

// The items' rows, and where the row of each prefix's each last code is.
template <typename T>
struct ItemRows {
  const T* rows;         // (num_rows, hidden_size)
  const int32_t* slots;  // (num_prefixes, fanout), or -1: the prefix has no item with that code
  int64_t num_rows, hidden_size, num_prefixes, fanout;
};

// The beams of a batch.
template <typename T>
struct PrefixStates {
  const T* states;          // (batch, width, hidden_size), or (batch, 1, hidden_size) if is_shared
  const int64_t* prefixes;  // (batch, width), or -1: no beam
  int64_t batch, width;
  bool is_shared;  // the beams of a request have one state
};

inline void widen_to(const float* row, int64_t size, float* wide) { std::copy_n(row, size, wide); }
inline void widen_to(const uint16_t* row, int64_t size, float* wide) {
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
    std::memcpy(wide + i, &bits, sizeof(bits));
  }
}

// The logits of one prefix's items: out (fanout,), -inf where there is no item.
// Throws std::invalid_argument for a slot that is out of range.
template <typename T>
void prefix_logits(const ItemRows<T>& items, int64_t prefix, const float* state, float* out) {
  const ItemLogitKernels<T>& kernels = simd::kernels<ItemLogitKernels<T>>();
  const T* rows[kDotRows];
  int64_t codes[kDotRows], size = 0;
  const auto multiply = [&] {
    float dots[kDotRows];
    std::fill(rows + size, rows + kDotRows, rows[0]);
    kernels.dots(state, rows, items.hidden_size, dots);
    for (int64_t i = 0; i < size; ++i) out[codes[i]] = dots[i];
    size = 0;
  };
  const int32_t* slots = items.slots + prefix * items.fanout;
  for (int64_t code = 0; code < items.fanout; ++code) {
    const int64_t slot = slots[code];
    if (slot < -1 || slot >= items.num_rows) {
      throw std::invalid_argument("slots[" + std::to_string(prefix) + ", " + std::to_string(code) +
                                  "] = " + std::to_string(slot) + " is neither -1 nor in [0, " +
                                  std::to_string(items.num_rows) + ")");
    }
    if (slot < 0) {
      out[code] = -kInfinity;
      continue;
    }
    rows[size] = items.rows + slot * items.hidden_size;
    codes[size++] = code;
    if (size == kDotRows) multiply();
  }
  if (size > 0) multiply();
}

// The logits of all beams: out (batch, width, fanout), all 0 where there is no beam.
// Throws std::invalid_argument for a prefix or a slot that is out of range.
template <typename T>
void item_logits(const ItemRows<T>& items, const PrefixStates<T>& beams, int64_t num_threads,
                 float* out) {
  const int64_t num_beams = beams.batch * beams.width;
  if (num_beams == 0) return;
  const ParallelOptions options{4 * num_threads, num_threads, Threads::kOpenMp};
  parallel_for(num_beams, options, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<float> state(static_cast<size_t>(items.hidden_size));
    for (int64_t beam = begin; beam < end; ++beam) {
      const int64_t prefix = beams.prefixes[beam];
      if (prefix < -1 || prefix >= items.num_prefixes) {
        throw std::invalid_argument("request " + std::to_string(beam / beams.width) + ": prefix " +
                                    std::to_string(prefix) + " is neither -1 nor in [0, " +
                                    std::to_string(items.num_prefixes) + ")");
      }
      float* logits = out + beam * items.fanout;
      if (prefix < 0) {
        std::fill_n(logits, items.fanout, 0.0f);
        continue;
      }
      const int64_t row = beams.is_shared ? beam / beams.width : beam;
      widen_to(beams.states + row * items.hidden_size, items.hidden_size, state.data());
      prefix_logits(items, prefix, state.data(), logits);
    }
  });
}

}  // namespace store_engine

// What a transformer layer needs beside its matrix products: vector kernels in float32, the
// instruction set chosen at run time. layer_lanes.h says what each computes.
//
// Sums run in a fixed order on one machine, so results depend neither on the batch nor on threads;
// multiply-adds are fused where the CPU can, so another instruction set may round differently.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "store_engine/softmax.h"

namespace store_engine {

// c = a b, or c += a b if is_sum: a (num_rows, depth) in any layout, b (depth, num_lanes) and
// c (num_rows, num_lanes) row by row; num_lanes is a multiple of kLanes.
struct Product {
  const float* a;
  int64_t a_row, a_column;  // distance of neighbours
  const float* b;
  float* c;
  int64_t num_rows, depth, num_lanes;
  bool is_sum;
};

struct LayerKernels {
  void (*widen)(const uint16_t* row, int64_t size, float* wide);
  void (*narrow)(const float* wide, int64_t size, uint16_t* row);
  float (*dot)(const float* a, const float* b, int64_t size);
  void (*add_scaled)(const float* x, float factor, int64_t size, float* y);
  void (*scale_by)(const float* x, const float* weight, float scale, int64_t size, float* out);
  void (*rotate)(const float* cosine, const float* sine, int64_t half, float* x);
  void (*multiply)(const Product& product);
  void (*softmax_block)(float* scores, int64_t num_slots, int64_t num_lanes,
                        const int32_t* num_seen, float* max, float* sum, float* correction);
  void (*multiply_lanes)(const float* factor, int64_t num_rows, int64_t num_lanes, float* rows);

  // Rows of the model's dtype, float or the bits of bfloat16, to and from float.
  void load(const uint16_t* row, int64_t size, float* wide) const { widen(row, size, wide); }
  void load(const float* row, int64_t size, float* wide) const {
    std::memcpy(wide, row, static_cast<size_t>(size) * sizeof(float));
  }
  void store(const float* wide, int64_t size, uint16_t* row) const { narrow(wide, size, row); }
  void store(const float* wide, int64_t size, float* row) const {
    std::memcpy(row, wide, static_cast<size_t>(size) * sizeof(float));
  }
  // x / sqrt(mean(x^2) + eps) * weight
  void rms_norm(const float* x, const float* weight, float eps, int64_t size, float* out) const {
    const float mean = dot(x, x, size) / static_cast<float>(size);
    scale_by(x, weight, 1.0f / std::sqrt(mean + eps), size, out);
  }
};

#define STORE_ENGINE_KERNELS "store_engine/layer_lanes.h"
#include "store_engine/for_each_target.h"

// The kernels for this CPU.
inline const LayerKernels& layer_kernels() {
#ifdef __x86_64__
  if (simd() >= Simd::kAvx512) return avx512::kLayerKernels;
  if (simd() >= Simd::kAvx2) return avx2::kLayerKernels;
#endif
  return baseline::kLayerKernels;
}

}  // namespace store_engine

// What a transformer layer needs beside its matrix products: vector kernels in float32.
// layer_kernels-inl.h says what each computes.
//
// Sums run in a fixed order on one machine, so results depend neither on the batch nor on threads;
// multiply-adds are fused where the CPU can, so another instruction set may round differently.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "store_engine/simd/vec.h"

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

// The RMSNorm of one head of q or k, which comes before RoPE.
struct HeadNorm {
  int64_t head_dim;
  const float* norm;  // weight of RMSNorm, or null
  float norm_eps;
};

// T: the model's dtype, float, or uint16_t for the bits of bfloat16.
template <typename T>
struct LayerKernels {
  void (*rms_norm)(const T* x, const float* weight, float eps, int64_t size, T* out);
  void (*read_head)(const T* x, const HeadNorm& head_norm, const float* cosine, const float* sine,
                    float factor, float* out);
  void (*read_rows)(const T* rows, int64_t stride, int64_t num_rows, int64_t size, float* out);
  float (*dot)(const float* a, const T* b, int64_t size);
  void (*add_scaled)(const T* x, float factor, int64_t size, float* out);
  void (*scale)(const float* x, const float* weight, float factor, int64_t size, T* out);
  void (*multiply)(const Product& product);
  void (*softmax_block)(float* scores, int64_t num_slots, int64_t num_lanes,
                        const int32_t* num_seen, float* max, float* sum, float* correction);
  void (*multiply_lanes)(const float* factor, int64_t num_rows, int64_t num_lanes, float* rows);
};

}  // namespace store_engine

namespace store_engine::simd {
#define STORE_ENGINE_KERNELS "store_engine/model/layer_kernels-inl.h"
#include "store_engine/simd/foreach_target.h"
}  // namespace store_engine::simd

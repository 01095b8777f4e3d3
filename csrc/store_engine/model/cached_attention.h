// Attention of a model's new tokens to a cache of keys and values, which they first join.
//
//   out = softmax(q k^T / sqrt(head_dim), over the slots that the token sees) v
//
// Takes the projected q, k and v of one layer as they come out of their matrix product: norms of q
// and k (Qwen3), RoPE, the cache's write and the attention are one pass over each head, in float32.
//
// The cache is (batch, num_slots, num_kv_heads, head_dim). A token of a history sees the slots up
// to its own. A beam sees the context of its request, and of the beam tree its ancestors and itself
// alone, whose slots it lists: so the cost of the tree is beams * depth, never beams^2, and nothing
// is padded or masked but the last register.
//
// One task is a request and a key head: the queries of all its tokens and of the query heads that
// share the key. Queries stand in the lanes of the registers, so keys and values are read as they
// are, once per tile of kTile queries, and the softmax needs no reduction across lanes. Bound by
// multiply-adds: 2 * queries * slots * head_dim per head.
// Source: Dao et al. 2022 (FlashAttention's softmax over blocks), https://arxiv.org/abs/2205.14135.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "store_engine/base/parallel_for.h"
#include "store_engine/model/layer_kernels.h"
#include "store_engine/simd/vec.h"

namespace store_engine {

struct AttentionShape {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t num_slots;  // of each request in the cache
};

// Tokens that are run through the model together, request by request, and what they see.
struct TokenBlock {
  std::vector<int64_t> begins;       // (batch + 1,) first token of each request
  std::vector<int64_t> first_slots;  // (batch,) of a request's first token; the others follow
  std::vector<int64_t> num_context;  // (batch,) slots from 0 on that all its tokens see
  int64_t depth = 0;                 // ancestors of each token, itself included, or 0:
  std::vector<int64_t> ancestors;    // (num_tokens, depth) slots; or a token sees those before it
  int64_t batch() const { return static_cast<int64_t>(first_slots.size()); }
  int64_t num_tokens() const { return begins.back(); }
};

// One layer's part. T: float, or uint16_t for the bits of bfloat16.
template <typename T>
struct AttentionLayer {
  const T* qkv;         // (num_tokens, num_heads + 2 * num_kv_heads, head_dim)
  T *keys, *values;     // of the cache
  const float* cosine;  // (num_tokens, head_dim / 2), as `sine`
  const float* sine;
  const float* q_norm;  // (head_dim,) weights of a norm of each head, or null
  const float* k_norm;
  float norm_eps;
  bool is_last_only;  // only each request's last token is asked for
  T* out;             // (num_tokens, num_heads, head_dim), or (batch, ...) if is_last_only
};

// The work on one request and key head, with one thread's scratch memory.
template <typename T>
class HeadAttention {
 public:
  void run(const AttentionShape& shape, const TokenBlock& block, const AttentionLayer<T>& layer,
           int64_t request, int64_t kv_head);

 private:
  static constexpr int64_t kTile = 4 * kLanes;  // queries
  static constexpr int64_t kSlots = 48;         // of the cache, per step of the softmax

  struct Task {
    const AttentionShape& shape;
    const TokenBlock& block;
    int64_t request, kv_head, begin;  // begin: first token
    int64_t group() const { return shape.num_heads / shape.num_kv_heads; }
    int64_t slot_stride() const { return shape.num_kv_heads * shape.head_dim; }
    // Where slot 0 of this request and head stands in the keys or values.
    int64_t offset() const {
      return (request * shape.num_slots * shape.num_kv_heads + kv_head) * shape.head_dim;
    }
    int64_t heads_per_token() const { return shape.num_heads + 2 * shape.num_kv_heads; }
  };

  void reserve(int64_t head_dim);
  void write_cache(const Task& task, const AttentionLayer<T>& layer, int64_t num_tokens);
  void read_queries(const Task& task, const AttentionLayer<T>& layer, int64_t first);
  void attend_context(const Task& task, const AttentionLayer<T>& layer, int64_t num_seen);
  void finish(const Task& task, const AttentionLayer<T>& layer, int64_t first, T* out);

  const LayerKernels<T>& kernels_ = simd::kernels<LayerKernels<T>>();
  int64_t num_queries_ = 0, num_lanes_ = 0;   // of the tile
  std::vector<float> queries_, query_lanes_;  // (kTile, head_dim) and its transpose
  std::vector<float> scores_;                 // (kSlots, num_lanes)
  std::vector<float> sums_;                   // (head_dim, num_lanes), weighted values
  std::vector<float> rows_;                   // (kSlots, head_dim), keys or values
  std::vector<float> row_;                    // (head_dim,)
  float max_[kTile], sum_[kTile], correction_[kTile];
  int64_t num_seen_[kTile];       // of the context
  int32_t num_seen_here_[kTile];  // of the block of slots
};

template <typename T>
void HeadAttention<T>::reserve(int64_t head_dim) {
  const auto size = [head_dim](int64_t n) { return static_cast<size_t>(n * head_dim); };
  if (row_.size() >= size(1)) return;
  queries_.resize(size(kTile));
  query_lanes_.resize(size(kTile));
  scores_.resize(static_cast<size_t>(kSlots * kTile));
  sums_.resize(size(kTile));
  rows_.resize(size(kSlots));
  row_.resize(size(1));
}

template <typename T>
void HeadAttention<T>::run(const AttentionShape& shape, const TokenBlock& block,
                           const AttentionLayer<T>& layer, int64_t request, int64_t kv_head) {
  reserve(shape.head_dim);
  const Task task{shape, block, request, kv_head, block.begins[request]};
  const int64_t num_tokens = block.begins[request + 1] - task.begin, group = task.group();
  write_cache(task, layer, num_tokens);
  // queries of this head are numbered token by token, heads of the group within
  const int64_t first = layer.is_last_only ? (num_tokens - 1) * group : 0;
  for (int64_t query = first; query < num_tokens * group; query += num_queries_) {
    num_queries_ = std::min(kTile, num_tokens * group - query);
    num_lanes_ = (num_queries_ + kLanes - 1) / kLanes * kLanes;
    read_queries(task, layer, query);
    attend_context(task, layer, num_seen_[num_queries_ - 1]);
    const int64_t row = layer.is_last_only ? request : task.begin;
    finish(task, layer, query, layer.out + row * shape.num_heads * shape.head_dim);
  }
}

// Writes the new tokens' keys, normed and rotated, and values.
template <typename T>
void HeadAttention<T>::write_cache(const Task& task, const AttentionLayer<T>& layer,
                                   int64_t num_tokens) {
  const int64_t head_dim = task.shape.head_dim, half = head_dim / 2;
  for (int64_t i = 0; i < num_tokens; ++i) {
    const int64_t token = task.begin + i;
    const T* key =
        layer.qkv +
        (token * task.heads_per_token() + task.shape.num_heads + task.kv_head) * head_dim;
    const T* value = key + task.slot_stride();
    const int64_t slot = task.block.first_slots[task.request] + i;
    const int64_t at = task.offset() + slot * task.slot_stride();
    kernels_.read_head(key, {head_dim, layer.k_norm, layer.norm_eps}, layer.cosine + token * half,
                       layer.sine + token * half, 1.0f, row_.data());
    kernels_.scale(row_.data(), nullptr, 1.0f, head_dim, layer.keys + at);  // to the cache's dtype
    std::copy_n(value, head_dim, layer.values + at);
  }
}

// Reads a tile of queries, normed, rotated and scaled, and how much of the context each sees.
template <typename T>
void HeadAttention<T>::read_queries(const Task& task, const AttentionLayer<T>& layer,
                                    int64_t first) {
  const int64_t head_dim = task.shape.head_dim, half = head_dim / 2, group = task.group();
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const bool is_causal = task.block.depth == 0;
  for (int64_t i = 0; i < num_lanes_; ++i) {
    float* query = queries_.data() + i * head_dim;
    if (i < num_queries_) {
      const int64_t nth = (first + i) / group, token = task.begin + nth;
      const int64_t head = task.kv_head * group + (first + i) % group;
      kernels_.read_head(layer.qkv + (token * task.heads_per_token() + head) * head_dim,
                         {head_dim, layer.q_norm, layer.norm_eps}, layer.cosine + token * half,
                         layer.sine + token * half, scale, query);
      num_seen_[i] = task.block.num_context[task.request] + (is_causal ? nth + 1 : 0);
    } else {  // a lane without a query
      std::fill_n(query, head_dim, 0.0f);
      num_seen_[i] = std::numeric_limits<int32_t>::max();
    }
    for (int64_t d = 0; d < head_dim; ++d) query_lanes_[d * num_lanes_ + i] = query[d];
  }
}

// Attends to the first num_seen slots of the context, a block at a time: max_, sum_ and sums_.
template <typename T>
void HeadAttention<T>::attend_context(const Task& task, const AttentionLayer<T>& layer,
                                      int64_t num_seen) {
  const int64_t head_dim = task.shape.head_dim;
  std::fill_n(max_, num_lanes_, -kInfinity);
  std::fill_n(sum_, num_lanes_, 0.0f);
  for (int64_t begin = 0; begin < num_seen; begin += kSlots) {
    const int64_t size = std::min(kSlots, num_seen - begin);
    const int64_t at = task.offset() + begin * task.slot_stride();
    kernels_.read_rows(layer.keys + at, task.slot_stride(), size, head_dim, rows_.data());
    kernels_.multiply({rows_.data(), head_dim, 1, query_lanes_.data(), scores_.data(), size,
                       head_dim, num_lanes_, false});
    bool sees_all = true;
    for (int64_t i = 0; i < num_lanes_; ++i) {
      num_seen_here_[i] = static_cast<int32_t>(std::clamp<int64_t>(num_seen_[i] - begin, 0, size));
      sees_all = sees_all && num_seen_here_[i] == size;
    }
    kernels_.softmax_block(scores_.data(), size, num_lanes_, sees_all ? nullptr : num_seen_here_,
                           max_, sum_, correction_);
    if (begin > 0) kernels_.multiply_lanes(correction_, head_dim, num_lanes_, sums_.data());
    kernels_.read_rows(layer.values + at, task.slot_stride(), size, head_dim, rows_.data());
    kernels_.multiply({rows_.data(), 1, head_dim, scores_.data(), sums_.data(), head_dim, size,
                       num_lanes_, begin > 0});
  }
}

// Adds each query's ancestors to what it saw of the context, and writes the results.
template <typename T>
void HeadAttention<T>::finish(const Task& task, const AttentionLayer<T>& layer, int64_t first,
                              T* out) {
  const int64_t head_dim = task.shape.head_dim, group = task.group(), depth = task.block.depth;
  const int64_t skipped = layer.is_last_only ? first / group : 0;  // tokens that have no result
  float* scores = scores_.data();
  for (int64_t i = 0; i < num_queries_; ++i) {
    const int64_t nth = (first + i) / group, head = task.kv_head * group + (first + i) % group;
    const int64_t* slots = task.block.ancestors.data() + (task.begin + nth) * depth;
    const auto at = [&](int64_t a) { return task.offset() + slots[a] * task.slot_stride(); };
    float largest = max_[i];
    for (int64_t a = 0; a < depth; ++a) {
      scores[a] = kernels_.dot(queries_.data() + i * head_dim, layer.keys + at(a), head_dim);
      largest = std::max(largest, scores[a]);
    }
    const float of_context = std::exp(max_[i] - largest);  // 1 where there are no ancestors
    float total = sum_[i] * of_context;
    float* result = queries_.data() + i * head_dim;  // the query is done with
    for (int64_t d = 0; d < head_dim; ++d) result[d] = of_context * sums_[d * num_lanes_ + i];
    for (int64_t a = 0; a < depth; ++a) {
      const float weight = std::exp(scores[a] - largest);
      total += weight;
      kernels_.add_scaled(layer.values + at(a), weight, head_dim, result);
    }
    kernels_.scale(result, nullptr, 1.0f / total, head_dim,
                   out + ((nth - skipped) * task.shape.num_heads + head) * head_dim);
  }
}

// Runs one layer, on up to num_threads threads.
template <typename T>
void attend(const AttentionShape& shape, const TokenBlock& block, const AttentionLayer<T>& layer,
            int64_t num_threads) {
  const int64_t num_tasks = block.batch() * shape.num_kv_heads;
  const ParallelOptions options{num_tasks, num_threads, Threads::kOpenMp};
  parallel_for(num_tasks, options, [&](int64_t, int64_t begin, int64_t end) {
    static thread_local HeadAttention<T> head;        // its memory is kept from call to call
    for (int64_t task = begin; task < end; ++task) {  // one, or none of an empty batch
      head.run(shape, block, layer, task / shape.num_kv_heads, task % shape.num_kv_heads);
    }
  });
}

// Normalises rows: out = x / sqrt(mean(x^2) + eps) * weight, both (num_rows, size).
template <typename T>
void rms_norm(const T* x, const float* weight, float eps, int64_t num_rows, int64_t size, T* out,
              int64_t num_threads) {
  const LayerKernels<T>& kernels = simd::kernels<LayerKernels<T>>();
  const ParallelOptions options{num_threads, num_threads, Threads::kOpenMp};
  parallel_for(num_rows, options, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels.rms_norm(x + i * size, weight, eps, size, out + i * size);
    }
  });
}

}  // namespace store_engine

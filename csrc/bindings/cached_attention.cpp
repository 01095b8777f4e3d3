// store_engine._C.CachedAttention and rms_norm
#include "store_engine/model/cached_attention.h"

#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <utility>
#include <variant>

#include "bindings/bindings.h"
#include "bindings/objects.h"

namespace store_engine::bindings {
namespace {

constexpr int64_t kMaxHeads = 1 << 16;

// Throws ValueError unless a norm's epsilon is a number that a norm can add.
void check_eps(const char* name, float eps) {
  if (std::isfinite(eps) && eps >= 0) return;
  throw py::value_error(std::string(name) + " must be finite and not negative, got " +
                        std::to_string(eps));
}

// A cache and the tokens that join it; T: float, or uint16_t for the bits of bfloat16.
template <typename T>
class AttentionOf {
 public:
  AttentionOf(NumpyArray<T> cache, int64_t num_heads, const NumpyArray<int64_t>& begins,
              const NumpyArray<int64_t>& first_slots, const NumpyArray<int64_t>& num_context,
              const std::optional<NumpyArray<int64_t>>& ancestors, int64_t num_threads)
      : cache_(std::move(cache)), num_threads_(num_threads) {
    if (cache_.ndim() != 6 || cache_.shape(1) != 2) {
      throw py::value_error(
          "cache must have shape (num_layers, 2, batch, num_slots, num_kv_heads, head_dim)");
    }
    data_ = cache_.mutable_data();  // throws if it is read-only
    nbytes_ = cache_.nbytes();
    num_layers_ = cache_.shape(0);
    shape_ = {num_heads, cache_.shape(4), cache_.shape(5), cache_.shape(3)};
    check_num_threads(num_threads);
    if (shape_.head_dim < 2 || shape_.head_dim % 2 != 0) {
      throw py::value_error("head_dim must be even, got " + std::to_string(shape_.head_dim));
    }
    if (shape_.num_kv_heads < 1 || num_heads < 1 || num_heads % shape_.num_kv_heads != 0) {
      throw py::value_error("num_heads must be a multiple of num_kv_heads " +
                            std::to_string(shape_.num_kv_heads) + ", got " +
                            std::to_string(num_heads));
    }
    require_in("num_heads", num_heads, 1, kMaxHeads);
    num_columns_ = checked_product("(num_heads + 2 * num_kv_heads) * head_dim",
                                   num_heads + 2 * shape_.num_kv_heads, shape_.head_dim);
    read_block(begins, first_slots, num_context, ancestors);
  }

  void run(int64_t layer, const NumpyArray<T>& qkv, const NumpyArray<float>& cosine,
           const NumpyArray<float>& sine, NumpyArray<T>& out, bool last_only,
           const std::optional<NumpyArray<float>>& q_norm,
           const std::optional<NumpyArray<float>>& k_norm, float norm_eps) {
    const int64_t num_tokens = block_.num_tokens(), batch = block_.batch();
    const int64_t heads = shape_.num_heads, head_dim = shape_.head_dim;
    if (layer < 0 || layer >= num_layers_) {
      throw py::value_error("layer must be in [0, " + std::to_string(num_layers_) + "), got " +
                            std::to_string(layer));
    }
    check_eps("norm_eps", norm_eps);
    // Python may have given the array another shape, which does not matter, or other memory
    if (cache_.mutable_data() != data_ || cache_.nbytes() != nbytes_) {
      throw py::value_error("the cache was resized");
    }
    require_shape(qkv, "qkv", {num_tokens, num_columns_},
                  "(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim) = (" +
                      std::to_string(num_tokens) + ", " + std::to_string(num_columns_) + ")");
    require_shape(cosine, "cosine", {num_tokens, head_dim / 2}, "(num_tokens, head_dim / 2)");
    require_shape(sine, "sine", {num_tokens, head_dim / 2}, "(num_tokens, head_dim / 2)");
    require_shape(out, "out", {last_only ? batch : num_tokens, heads * head_dim},
                  last_only ? "(batch, num_heads * head_dim), as last_only is set"
                            : "(num_tokens, num_heads * head_dim)");
    const auto norm = [head_dim](const std::optional<NumpyArray<float>>& weight, const char* name) {
      if (!weight) return static_cast<const float*>(nullptr);
      require_shape(*weight, name, {head_dim}, "(head_dim,)");
      return weight->data();
    };
    const int64_t size = batch * shape_.num_slots * shape_.num_kv_heads * head_dim;
    T* keys = data_ + 2 * layer * size;
    const AttentionLayer<T> call{qkv.data(),
                                 keys,
                                 keys + size,
                                 cosine.data(),
                                 sine.data(),
                                 norm(q_norm, "q_norm"),
                                 norm(k_norm, "k_norm"),
                                 norm_eps,
                                 last_only,
                                 out.mutable_data()};
    py::gil_scoped_release release;
    store_engine::attend(shape_, block_, call, num_threads_);
  }

 private:
  void read_block(const NumpyArray<int64_t>& begins, const NumpyArray<int64_t>& first_slots,
                  const NumpyArray<int64_t>& num_context,
                  const std::optional<NumpyArray<int64_t>>& ancestors) {
    const int64_t batch = cache_.shape(2), num_slots = shape_.num_slots;
    const std::string slots = " must be in [0, num_slots = " + std::to_string(num_slots) + ")";
    require_shape(begins, "begins", {batch + 1}, "(batch + 1,)");
    require_shape(first_slots, "first_slots", {batch}, "(batch,)");
    require_shape(num_context, "num_context", {batch}, "(batch,)");
    block_.begins.assign(begins.data(), begins.data() + batch + 1);
    block_.first_slots.assign(first_slots.data(), first_slots.data() + batch);
    block_.num_context.assign(num_context.data(), num_context.data() + batch);
    if (block_.begins[0] != 0) throw py::value_error("begins must begin with 0");
    for (int64_t r = 0; r < batch; ++r) {
      const int64_t size = block_.begins[r + 1] - block_.begins[r];
      const int64_t first = block_.first_slots[r], context = block_.num_context[r];
      const std::string where = "request " + std::to_string(r) + ": ";
      if (size < 1) throw py::value_error(where + "begins must ascend: it has at least one token");
      // size is at most num_slots then, so that no sum overflows
      if (first < 0 || size > num_slots || first > num_slots - size) {
        throw py::value_error(where + "its tokens' slots" + slots);
      }
      if (ancestors ? context < 1 || context > num_slots : context != first) {
        throw py::value_error(where +
                              (ancestors ? "num_context must be in [1, num_slots]"
                                         : "num_context must be first_slots") +
                              ", got " + std::to_string(context));
      }
    }
    if (!ancestors) return;
    const int64_t depth = ancestors->ndim() == 2 ? ancestors->shape(1) : 0;
    if (depth < 1 || depth > 16) {
      throw py::value_error("ancestors must have shape (num_tokens, depth), depth in [1, 16]");
    }
    require_shape(*ancestors, "ancestors", {block_.num_tokens(), depth}, "(num_tokens, depth)");
    block_.depth = depth;
    block_.ancestors.assign(ancestors->data(), ancestors->data() + ancestors->size());
    for (const int64_t slot : block_.ancestors) {
      if (slot < 0 || slot >= num_slots) {
        throw py::value_error("ancestors" + slots + ", got " + std::to_string(slot));
      }
    }
  }

  NumpyArray<T> cache_;
  T* data_;
  py::ssize_t nbytes_;
  int64_t num_layers_, num_columns_;  // columns of qkv
  AttentionShape shape_;
  TokenBlock block_;
  int64_t num_threads_;
};

template <typename T>
void rms_norm(const NumpyArray<T>& x, const NumpyArray<float>& weight, NumpyArray<T>& out,
              float eps, int64_t num_threads) {
  if (x.ndim() != 2) throw py::value_error("x must be 2-D (num_rows, size)");
  require_shape(weight, "weight", {x.shape(1)}, "(size,)");
  require_shape(out, "out", {x.shape(0), x.shape(1)}, "(num_rows, size) as x");
  if (x.shape(1) < 1) throw py::value_error("x must have at least one column");
  check_eps("eps", eps);
  check_num_threads(num_threads);
  T* result = out.mutable_data();
  py::gil_scoped_release release;
  store_engine::rms_norm(x.data(), weight.data(), eps, x.shape(0), x.shape(1), result, num_threads);
}

}  // namespace

// Either, as one Python class.
struct CachedAttention {
  std::variant<AttentionOf<float>, AttentionOf<uint16_t>> attention;
};

namespace {

template <typename T>
void call_attention(CachedAttention& self, int64_t layer, const NumpyArray<T>& qkv,
                    const NumpyArray<float>& cosine, const NumpyArray<float>& sine,
                    NumpyArray<T>& out, bool last_only,
                    const std::optional<NumpyArray<float>>& q_norm,
                    const std::optional<NumpyArray<float>>& k_norm, float norm_eps) {
  auto* attention = std::get_if<AttentionOf<T>>(&self.attention);
  if (attention == nullptr) throw py::type_error("qkv and out must have the dtype of the cache");
  attention->run(layer, qkv, cosine, sine, out, last_only, q_norm, k_norm, norm_eps);
}

// What takes a dtype, once for each: an argument of neither is a TypeError.
template <typename T>
void def_attention_of(py::module_& m, py::class_<CachedAttention>& attention) {
  using Ids = NumpyArray<int64_t>;
  attention
      .def(py::init([](NumpyArray<T> cache, int64_t num_heads, const Ids& begins,
                       const Ids& first_slots, const Ids& num_context,
                       const std::optional<Ids>& ancestors, int64_t num_threads) {
             return CachedAttention{AttentionOf<T>(std::move(cache), num_heads, begins, first_slots,
                                                   num_context, ancestors, num_threads)};
           }),
           "cache"_a, integer("num_heads"), "begins"_a, "first_slots"_a, "num_context"_a,
           "ancestors"_a = py::none(), py::kw_only(), integer("num_threads") = 1)
      .def("__call__", &call_attention<T>, integer("layer"), "qkv"_a, "cosine"_a, "sine"_a, "out"_a,
           py::kw_only(), py::arg("last_only").noconvert() = false, "q_norm"_a = py::none(),
           "k_norm"_a = py::none(), "norm_eps"_a = 1e-6f);
  m.def("rms_norm", &rms_norm<T>, "x"_a, "weight"_a, "out"_a, "eps"_a, py::kw_only(),
        integer("num_threads") = 1);
}

}  // namespace

void bind_cached_attention(py::module_& m) {
  py::class_<CachedAttention> attention(m, "CachedAttention");
  def_attention_of<float>(m, attention);
  def_attention_of<uint16_t>(m, attention);
}

}  // namespace store_engine::bindings

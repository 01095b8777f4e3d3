// store_engine._C.beam_step and what it is made of; only_leaves
#pragma once

#include <type_traits>

#include "bindings/arrays.h"
#include "store_engine/beam_search.h"
#include "store_engine/only_leaves.h"
#include "store_engine/softmax.h"

// filter: null allows everything
inline void check_filter(const store_engine::ItemFilter* filter, const Snapshot& snapshot,
                         int64_t batch) {
  if (filter != nullptr && !(filter->snapshot() == snapshot)) {
    throw py::value_error("item_filter is of another catalogue or snapshot");
  }
  if (filter != nullptr && filter->batch() != batch) {
    throw py::value_error("item_filter is for a batch of " + std::to_string(filter->batch()) +
                          ", got " + std::to_string(batch));
  }
}

// Logit: float, or uint16_t for the bits of bfloat16, which NumPy does not know.
template <typename Logit>
py::object beam_step(const Catalogue& catalogue, int64_t depth, const Array<Logit>& logits,
                     const Array<float>& scores, const Array<int64_t>& nodes,
                     const Array<int64_t>& num_valid, int64_t width,
                     const store_engine::ItemFilter* filter, const std::string& normalize,
                     int64_t num_threads) {
  const Snapshot snapshot = snapshot_of(catalogue);
  const int64_t vocab_size = snapshot.codebook_size(checked_depth(*snapshot.base, depth));
  if (scores.ndim() != 2) throw py::value_error("scores must be 2-D (batch, beam_width)");
  const int64_t batch = scores.shape(0), beam_width = scores.shape(1);
  require_shape(logits, "logits", {batch, beam_width, vocab_size},
                "(batch, beam_width, codebook_size) = (" + std::to_string(batch) + ", " +
                    std::to_string(beam_width) + ", " + std::to_string(vocab_size) + ")");
  require_shape(nodes, "nodes", {batch, beam_width}, "(batch, beam_width) as scores");
  require_shape(num_valid, "num_valid", {batch}, "(batch,) as scores");
  if (width < 1) throw py::value_error("width must be at least 1, got " + std::to_string(width));
  check_num_threads(num_threads);
  if (normalize != "codebook" && normalize != "children") {
    throw py::value_error("normalize must be 'codebook' or 'children', got '" + normalize + "'");
  }
  check_filter(filter, snapshot, batch);
  store_engine::Beams beams{batch,   beam_width,    vocab_size,   nullptr,
                            nullptr, scores.data(), nodes.data(), num_valid.data()};
  if constexpr (std::is_same_v<Logit, float>) {
    beams.logits = logits.data();
  } else {
    beams.bfloat16 = logits.data();
  }
  const std::vector<py::ssize_t> shape{batch, width};
  py::array_t<float> out_scores(shape);
  py::array_t<int64_t> parents(shape), tokens(shape), out_nodes(shape), out_num_valid(batch);
  const store_engine::Children out{width,
                                   out_scores.mutable_data(),
                                   parents.mutable_data(),
                                   tokens.mutable_data(),
                                   out_nodes.mutable_data(),
                                   out_num_valid.mutable_data()};
  {
    py::gil_scoped_release release;
    store_engine::beam_step(
        snapshot, depth, beams, filter,
        normalize == "codebook" ? store_engine::Normalize::kCodebook : store_engine::Normalize::kChildren,
        num_threads, out);
  }
  return py::module_::import("store_engine._C")
      .attr("BeamStep")(out_scores, parents, tokens, out_nodes, out_num_valid);
}

inline py::tuple only_leaves(const Catalogue& catalogue, int64_t depth, const Array<int64_t>& nodes,
                             const store_engine::ItemFilter* filter) {
  const Snapshot snapshot = snapshot_of(catalogue);
  checked_depth(*snapshot.base, depth);
  if (nodes.ndim() != 2) throw py::value_error("nodes must be 2-D (batch, width)");
  const int64_t batch = nodes.shape(0), width = nodes.shape(1);
  check_filter(filter, snapshot, batch);
  const std::vector<py::ssize_t> shape{batch, width};
  py::array_t<int64_t> leaves(shape), tokens(shape);
  const int64_t* of_depth = nodes.data();
  int64_t *found = leaves.mutable_data(), *last = tokens.mutable_data();
  {
    py::gil_scoped_release release;
    const store_engine::ItemFilter everything(snapshot, batch);
    store_engine::only_leaves(filter == nullptr ? everything : *filter, depth, of_depth, width,
                              found, last);
  }
  return py::make_tuple(leaves, tokens);
}

inline py::tuple simd_targets() {
  py::list names;
  for (const auto& kernels : store_engine::softmax_kernels()) names.append(kernels.target);
  return py::tuple(names);
}

inline py::array_t<float> log_sum_exp(const Array<float>& logits, const std::string& target) {
  if (logits.ndim() != 2) throw py::value_error("logits must be 2-D (num_rows, vocab_size)");
  for (const auto& kernels : store_engine::softmax_kernels()) {
    if (target != "auto" && target != kernels.target) continue;
    const int64_t num_rows = logits.shape(0), vocab_size = logits.shape(1);
    py::array_t<float> result(num_rows);
    const float* row = logits.data();
    float* out = result.mutable_data();
    py::gil_scoped_release release;
    for (int64_t i = 0; i < num_rows; ++i, row += vocab_size) {
      out[i] = kernels.log_sum_exp(row, vocab_size, kernels.row_max(row, vocab_size));
    }
    return result;
  }
  throw py::value_error("target must be 'auto' or one of simd_targets(), got '" + target + "'");
}

inline void bind_beam_search(py::module_& m) {
  m.attr("BeamStep") = py::module_::import("collections")
                           .attr("namedtuple")("BeamStep", "scores parents tokens nodes num_valid",
                                               "module"_a = "store_engine._C");
  const auto def_beam_step = [&m](auto function) {
    m.def("beam_step", function, "trie"_a, "level"_a, py::arg("logits").noconvert(),
          py::arg("scores").noconvert(), py::arg("nodes").noconvert(),
          py::arg("num_valid").noconvert(), "width"_a, py::kw_only(), "item_filter"_a = py::none(),
          "normalize"_a = "codebook", "num_threads"_a = 1);
  };
  def_beam_step(&beam_step<float>);
  def_beam_step(&beam_step<uint16_t>);
  m.def("only_leaves", &only_leaves, "trie"_a, "level"_a, py::arg("nodes").noconvert(),
        py::kw_only(), "item_filter"_a = py::none());
  m.def("log_sum_exp", &log_sum_exp, py::arg("logits").noconvert(), py::kw_only(),
        "target"_a = "auto");
  m.def("simd_targets", &simd_targets);
}

// store_engine._C.beam_step, code_logprobs, prefixes_beside, unique_leaves, next_codes, rank_items
// and simd_targets
#include "store_engine/search/beam_search.h"

#include <pybind11/stl.h>

#include <type_traits>

#include "bindings/bindings.h"
#include "bindings/objects.h"
#include "store_engine/search/code_logprobs.h"
#include "store_engine/search/next_codes.h"
#include "store_engine/search/prefixes_beside.h"
#include "store_engine/search/rank_items.h"
#include "store_engine/search/unique_leaves.h"
#include "store_engine/simd/dispatch.h"

namespace store_engine::bindings {
namespace {

constexpr int64_t kMaxMask = int64_t{1} << 32;  // bytes
constexpr int64_t kMaxFirstCode = int64_t{1} << 40;

Normalize normalize_of(const std::string& name) {
  if (name == "codebook") return Normalize::kCodebook;
  if (name == "children") return Normalize::kChildren;
  throw py::value_error("normalize must be 'codebook' or 'children', got '" + name + "'");
}

// Logit: float, or uint16_t for the bits of bfloat16, which NumPy does not know.
template <typename Logit>
py::object call_beam_step(const py::object& trie, int64_t level, const NumpyArray<Logit>& logits,
                          const NumpyArray<float>& scores, const NumpyArray<int64_t>& nodes,
                          const NumpyArray<int64_t>& num_valid, int64_t width,
                          const py::object& item_filter, const std::string& normalize,
                          int64_t num_threads) {
  const Snapshot snapshot = snapshot_of(trie);
  const int64_t vocab_size = snapshot.codebook_size(checked_level(snapshot, level));
  if (scores.ndim() != 2) throw py::value_error("scores must be 2-D (batch, beam_width)");
  const int64_t batch = scores.shape(0), beam_width = scores.shape(1);
  require_shape(logits, "logits", {batch, beam_width, vocab_size},
                "(batch, beam_width, codebook_size) = (" + std::to_string(batch) + ", " +
                    std::to_string(beam_width) + ", " + std::to_string(vocab_size) + ")");
  require_shape(nodes, "nodes", {batch, beam_width}, "(batch, beam_width) as scores");
  require_shape(num_valid, "num_valid", {batch}, "(batch,) as scores");
  check_num_slots(batch, "width", width);
  check_num_threads(num_threads);
  const Normalize over = normalize_of(normalize);
  const ItemFilter* filter = filter_of(item_filter, snapshot, batch);
  Beams beams{batch,   beam_width,    vocab_size,   nullptr,
              nullptr, scores.data(), nodes.data(), num_valid.data()};
  if constexpr (std::is_same_v<Logit, float>) {
    beams.logits = logits.data();
  } else {
    beams.bfloat16 = logits.data();
  }
  const std::vector<py::ssize_t> shape{batch, width};
  py::array_t<float> out_scores(shape);
  py::array_t<int64_t> parents(shape), tokens(shape), out_nodes(shape), out_num_valid(batch);
  const BeamStepOut out{width,
                        out_scores.mutable_data(),
                        parents.mutable_data(),
                        tokens.mutable_data(),
                        out_nodes.mutable_data(),
                        out_num_valid.mutable_data()};
  {
    py::gil_scoped_release release;
    beam_step(snapshot, level, beams, filter, over, num_threads, out);
  }
  return py::module_::import("store_engine._C")
      .attr("BeamStep")(out_scores, parents, tokens, out_nodes, out_num_valid);
}

template <typename Logit>
py::array_t<float> call_code_logprobs(const NumpyArray<Logit>& logits,
                                      const NumpyArray<int64_t>& beams,
                                      const NumpyArray<int64_t>& codes, int64_t num_threads) {
  if (logits.ndim() != 3) throw py::value_error("logits must be 3-D (batch, beam_width, size)");
  const int64_t batch = logits.shape(0);
  if (beams.ndim() != 2) throw py::value_error("beams must be 2-D (batch, num_codes)");
  const int64_t size = beams.shape(1);
  require_shape(beams, "beams", {batch, size}, "(batch, num_codes) as logits");
  require_shape(codes, "codes", {batch, size}, "(batch, num_codes) as beams");
  require_in("batch", batch, 0, kMaxBatch);
  check_num_threads(num_threads);
  const CodeQuery<Logit> query{logits.data(), batch, logits.shape(1), logits.shape(2), beams.data(),
                               codes.data(),  size};
  py::array_t<float> out(std::vector<py::ssize_t>{batch, size});
  float* logprobs = out.mutable_data();
  {
    py::gil_scoped_release release;
    code_logprobs(query, num_threads, logprobs);
  }
  return out;
}

py::tuple call_prefixes_beside(const NumpyArray<int64_t>& parents,
                               const NumpyArray<int64_t>& tokens, const NumpyArray<int64_t>& places,
                               const NumpyArray<int64_t>& codes) {
  if (parents.ndim() != 2) throw py::value_error("parents must be 2-D (batch, width)");
  if (places.ndim() != 2) throw py::value_error("places must be 2-D (batch, num_paths)");
  const int64_t batch = parents.shape(0), width = parents.shape(1), size = places.shape(1);
  require_shape(tokens, "tokens", {batch, width}, "(batch, width) as parents");
  require_shape(places, "places", {batch, size}, "(batch, num_paths) as parents");
  require_shape(codes, "codes", {batch, size}, "(batch, num_paths) as places");
  require_in("batch", batch, 0, kMaxBatch);
  const PathsBeside paths{parents.data(), tokens.data(), places.data(), codes.data(),
                          batch,          width,         size};
  py::array_t<int64_t> new_places(std::vector<py::ssize_t>{batch, size});
  int64_t* to = new_places.mutable_data();
  PrefixesBeside found;
  {
    py::gil_scoped_release release;
    found = prefixes_beside(paths, to);
  }
  const std::vector<py::ssize_t> shape{batch, found.num_new};
  return py::make_tuple(py::array_t<int64_t>(shape, found.codes.data()),
                        py::array_t<int64_t>(shape, found.parents.data()), new_places);
}

py::tuple call_unique_leaves(const py::object& trie, int64_t level,
                             const NumpyArray<int64_t>& nodes, const py::object& item_filter) {
  const Snapshot snapshot = snapshot_of(trie);
  checked_level(snapshot, level);
  if (nodes.ndim() != 2) throw py::value_error("nodes must be 2-D (batch, width)");
  const int64_t batch = nodes.shape(0), width = nodes.shape(1);
  require_in("batch", batch, 0, kMaxBatch);
  const ItemFilter* filter = filter_of(item_filter, snapshot, batch);
  const std::vector<py::ssize_t> shape{batch, width};
  py::array_t<int64_t> leaves(shape), tokens(shape);
  const int64_t* of_level = nodes.data();
  int64_t *found = leaves.mutable_data(), *last = tokens.mutable_data();
  {
    py::gil_scoped_release release;
    const ItemFilter everything(snapshot, batch);
    unique_leaves(filter == nullptr ? everything : *filter, level, of_level, width, found, last);
  }
  return py::make_tuple(leaves, tokens);
}

py::tuple call_next_codes(const py::object& trie, const NumpyArray<int64_t>& tokens,
                          int64_t first_code, int64_t num_threads) {
  const Snapshot snapshot = snapshot_of(trie);
  if (tokens.ndim() != 2) throw py::value_error("tokens must be 2-D (batch, width)");
  const int64_t batch = tokens.shape(0);
  int64_t num_codes = 0;
  for (int64_t level = 0; level < snapshot.num_levels(); ++level) {
    num_codes += snapshot.codebook_size(level);
  }
  require_in("batch", batch, 0, kMaxBatch);
  require_in("batch * num_codes", batch * num_codes, 0, kMaxMask);  // small enough to multiply
  require_in("first_code", first_code, 0, kMaxFirstCode);
  check_num_threads(num_threads);
  const SequenceEnds ends{tokens.data(), batch, tokens.shape(1), first_code};
  py::array_t<bool> is_allowed(std::vector<py::ssize_t>{batch, num_codes});
  py::array_t<int64_t> levels(batch);
  bool* mask = is_allowed.mutable_data();
  int64_t* level_of = levels.mutable_data();
  {
    py::gil_scoped_release release;
    next_codes(snapshot, ends, num_threads, mask, level_of);
  }
  return py::make_tuple(is_allowed, levels);
}

py::tuple call_rank_items(const py::object& trie,
                          const std::vector<NumpyArray<float>>& level_logprobs, int64_t k,
                          const py::object& item_filter, int64_t num_threads) {
  const Snapshot snapshot = snapshot_of(trie);
  if (static_cast<int64_t>(level_logprobs.size()) != snapshot.num_levels()) {
    throw py::value_error("level_logprobs must have an array for each of " +
                          std::to_string(snapshot.num_levels()) + " levels, got " +
                          std::to_string(level_logprobs.size()));
  }
  const int64_t batch = level_logprobs[0].ndim() == 2 ? level_logprobs[0].shape(0) : 0;
  std::vector<const float*> logprobs;
  for (int64_t level = 0; level < snapshot.num_levels(); ++level) {
    const int64_t size = snapshot.codebook_size(level);
    require_shape(level_logprobs[level], "level_logprobs[" + std::to_string(level) + "]",
                  {batch, size}, "(batch, codebook_size) = (batch, " + std::to_string(size) + ")");
    logprobs.push_back(level_logprobs[level].data());
  }
  check_num_slots(batch, "k", k);
  check_num_threads(num_threads);
  const ItemFilter* filter = filter_of(item_filter, snapshot, batch);
  const std::vector<py::ssize_t> shape{batch, k};
  py::array_t<int64_t> rows(shape);
  py::array_t<float> scores(shape);
  const RankingOut out{k, rows.mutable_data(), scores.mutable_data()};
  {
    py::gil_scoped_release release;
    rank_items(snapshot, logprobs, batch, filter, num_threads, out);
  }
  return py::make_tuple(rows, scores);
}

py::tuple simd_targets() {
  py::list names;
  for (int i = static_cast<int>(simd::chosen_target()); i >= 0; --i) {
    names.append(simd::kTargetNames[i]);
  }
  return py::tuple(names);
}

}  // namespace

void bind_beam_search(py::module_& m) {
  m.attr("BeamStep") = py::module_::import("collections")
                           .attr("namedtuple")("BeamStep", "scores parents tokens nodes num_valid",
                                               "module"_a = "store_engine._C");
  const auto def_beam_step = [&m](auto function) {
    m.def("beam_step", function, "trie"_a, integer("level"), "logits"_a, "scores"_a, "nodes"_a,
          "num_valid"_a, integer("width"), py::kw_only(), "item_filter"_a = py::none(),
          "normalize"_a = "codebook", integer("num_threads") = 1);
  };
  def_beam_step(&call_beam_step<float>);
  def_beam_step(&call_beam_step<uint16_t>);
  const auto def_code_logprobs = [&m](auto function) {
    m.def("code_logprobs", function, "logits"_a, "beams"_a, "codes"_a, py::kw_only(),
          integer("num_threads") = 1);
  };
  def_code_logprobs(&call_code_logprobs<float>);
  def_code_logprobs(&call_code_logprobs<uint16_t>);
  m.def("prefixes_beside", &call_prefixes_beside, "parents"_a, "tokens"_a, "places"_a, "codes"_a);
  m.def("unique_leaves", &call_unique_leaves, "trie"_a, integer("level"), "nodes"_a, py::kw_only(),
        "item_filter"_a = py::none());
  m.def("next_codes", &call_next_codes, "trie"_a, "tokens"_a, integer("first_code"), py::kw_only(),
        integer("num_threads") = 1);
  m.def("rank_items", &call_rank_items, "trie"_a, "level_logprobs"_a, integer("k"), py::kw_only(),
        "item_filter"_a = py::none(), integer("num_threads") = 1);
  m.def("simd_targets", &simd_targets);
}

}  // namespace store_engine::bindings

// Python bindings of the C++ core: checks types, shapes and bounds, releases the GIL, copies
// nothing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "store_engine/beam_search.h"
#include "store_engine/item_filter.h"
#include "store_engine/item_trie.h"
#include "store_engine/row_set.h"

namespace py = pybind11;
using namespace pybind11::literals;
using Path = std::filesystem::path;
using store_engine::Bitmap;
using store_engine::ItemFilter;
using store_engine::ItemTrie;
using store_engine::RowSet;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// A read-only NumPy view of `size` numbers, kept alive by `owner`.
template <typename T>
py::array view(const T* data, int64_t size, py::handle owner) {
  py::array_t<T> array(size, data, owner);
  array.attr("setflags")("write"_a = false);
  return std::move(array);
}

template <typename T>
void require_shape(const Array<T>& array, const std::string& name,
                   const std::vector<int64_t>& shape, const std::string& legend) {
  bool ok = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; ok && i < shape.size(); ++i) ok = array.shape(i) == shape[i];
  if (!ok) throw py::value_error(name + " must have shape " + legend);
}

void check_num_threads(int64_t num_threads) {
  if (num_threads < 1 || num_threads > 1024) {
    throw py::value_error("num_threads must be in [1, 1024], got " + std::to_string(num_threads));
  }
}

ItemTrie make_trie(const Array<int32_t>& sids, const std::vector<int64_t>& codebook_sizes,
                   const std::string& mode, int64_t num_threads) {
  if (sids.ndim() != 2) throw py::value_error("sids must be 2-D (num_items, num_levels)");
  const int64_t num_items = sids.shape(0), num_levels = sids.shape(1);
  if (num_levels != static_cast<int64_t>(codebook_sizes.size())) {
    throw py::value_error("sids have " + std::to_string(num_levels) + " levels, codebook_sizes " +
                          std::to_string(codebook_sizes.size()));
  }
  if (mode != "fast" && mode != "compact") {
    throw py::value_error("mode must be 'fast' or 'compact', got '" + mode + "'");
  }
  check_num_threads(num_threads);
  const int32_t* codes = sids.data();
  py::gil_scoped_release release;  // the core never touches Python
  return ItemTrie({codes, num_items, codebook_sizes}, {mode == "compact", num_threads});
}

int64_t checked_depth(const ItemTrie& trie, int64_t depth) {
  if (depth < 0 || depth >= trie.num_levels()) {
    throw py::value_error("level must be in [0, " + std::to_string(trie.num_levels()) + "), got " +
                          std::to_string(depth));
  }
  return depth;
}

std::vector<int64_t> codebook_sizes(const ItemTrie& trie) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < trie.num_levels(); ++d) sizes.push_back(trie.codebook_size(d));
  return sizes;
}

std::vector<int64_t> level_sizes(const ItemTrie& trie) {
  std::vector<int64_t> sizes;
  for (int64_t d = 1; d <= trie.num_levels(); ++d) sizes.push_back(trie.num_nodes(d));
  return sizes;
}

py::dict memory(const ItemTrie& trie) {
  size_t indices = 0;
  for (int64_t depth = 0; depth < trie.num_levels(); ++depth) indices += trie.index(depth).nbytes();
  return py::dict("tokens"_a = trie.tokens_nbytes(), "children"_a = indices,
                  "leaves"_a = trie.index(trie.num_levels()).nbytes(),
                  "rows"_a = trie.rows_nbytes(), "positions"_a = trie.positions_nbytes());
}

py::tuple level(const py::object& self, int64_t depth) {
  const auto& trie = self.cast<const ItemTrie&>();
  checked_depth(trie, depth);
  const int64_t num_nodes = trie.num_nodes(depth);
  py::array_t<int64_t> child_begin(num_nodes + 1);
  int64_t* begin = child_begin.mutable_data();
  begin[0] = 0;
  for (int64_t node = 0; node < num_nodes; ++node) {
    begin[node + 1] = trie.index(depth).children(node).end;
  }
  return trie.with_tokens(depth, [&](const auto* tokens) {
    return py::make_tuple(child_begin, view(tokens, trie.num_nodes(depth + 1), self));
  });
}

// The rows under each leaf, less those that `mask(i)`, a NodeMask of positions, does not allow leaf
// i.
template <typename Mask>
py::tuple leaf_rows(const ItemTrie& trie, const int64_t* leaves, int64_t num_leaves,
                    const Mask& mask) {
  std::vector<int64_t> rows;
  py::array_t<int64_t> offsets(num_leaves + 1);
  int64_t* offset = offsets.mutable_data();
  *offset++ = 0;
  for (int64_t i = 0; i < num_leaves; ++i) {
    const int64_t leaf = leaves[i];
    if (leaf < -1 || leaf >= trie.num_nodes(trie.num_levels())) {
      throw py::value_error("leaves[" + std::to_string(i) + "] = " + std::to_string(leaf) +
                            " is neither a leaf node nor -1");
    }
    if (leaf >= 0) {
      const store_engine::Range positions = trie.index(trie.num_levels()).children(leaf);
      mask(i).for_each_word(positions, [&](int64_t first, uint64_t bits) {
        for (; bits != 0; bits &= bits - 1) {
          rows.push_back(trie.row_at(first + __builtin_ctzll(bits)));
        }
      });
    }
    *offset++ = static_cast<int64_t>(rows.size());
  }
  return py::make_tuple(offsets, py::array_t<int64_t>(rows.size(), rows.data()));
}

py::tuple all_leaf_rows(const ItemTrie& trie, const Array<int64_t>& leaves) {
  if (leaves.ndim() != 1) throw py::value_error("leaves must be 1-D (num_leaves,)");
  return leaf_rows(trie, leaves.data(), leaves.size(),
                   [](int64_t) { return store_engine::NodeMask{}; });
}

py::tuple allowed_leaf_rows(const ItemFilter& filter, const Array<int64_t>& leaves) {
  if (leaves.ndim() != 2 || leaves.shape(0) != filter.batch()) {
    throw py::value_error("leaves must have shape (batch, width), and batch be " +
                          std::to_string(filter.batch()));
  }
  const ItemTrie& trie = *filter.trie();
  return leaf_rows(trie, leaves.data(), leaves.size(), [&](int64_t i) {
    return filter.mask(i / leaves.shape(1), trie.num_levels() + 1);
  });
}

using SharedSet = std::shared_ptr<RowSet>;  // null for None

SharedSet row_set(std::shared_ptr<ItemTrie> trie, const Array<int64_t>& rows) {
  if (rows.ndim() != 1) throw py::value_error("rows must be 1-D (num_rows,)");
  const int64_t* data = rows.data();
  const int64_t size = rows.size();
  py::gil_scoped_release release;
  Bitmap positions = store_engine::positions_of(*trie, data, size);
  return std::make_shared<RowSet>(std::move(trie), std::move(positions));
}

template <typename Combine>
SharedSet combine(const RowSet& a, const RowSet& b, const Combine& combine) {
  if (a.trie() != b.trie()) throw py::value_error("the two sets are of different tries");
  Bitmap positions = a.positions();
  combine(positions, b.positions());
  return std::make_shared<RowSet>(a.trie(), std::move(positions));
}

py::array_t<int64_t> rows_of(const RowSet& set) {
  std::vector<int64_t> rows;
  set.positions().for_each({0, set.positions().size()},
                           [&](int64_t position) { rows.push_back(set.trie()->row_at(position)); });
  std::sort(rows.begin(), rows.end());
  return py::array_t<int64_t>(rows.size(), rows.data());
}

using Ragged = std::pair<Array<int64_t>, Array<int64_t>>;

ItemFilter make_filter(std::shared_ptr<ItemTrie> trie, int64_t batch,
                       const std::variant<SharedSet, std::vector<SharedSet>>& allow,
                       const std::optional<Ragged>& exclude) {
  if (batch < 0) throw py::value_error("batch must not be negative");
  std::vector<SharedSet> allowed(batch);
  if (const auto* one = std::get_if<SharedSet>(&allow)) {
    std::fill(allowed.begin(), allowed.end(), *one);
  } else {
    allowed = std::get<std::vector<SharedSet>>(allow);
  }
  if (static_cast<int64_t>(allowed.size()) != batch) {
    throw py::value_error("allow must be one RowSet or " + std::to_string(batch) + ", got " +
                          std::to_string(allowed.size()));
  }
  std::vector<int64_t> none(batch + 1);
  const int64_t *offsets = none.data(), *rows = nullptr;
  if (exclude) {
    require_shape(exclude->first, "exclude's offsets", {batch + 1}, "(batch + 1,)");
    if (exclude->second.ndim() != 1) throw py::value_error("exclude's rows must be 1-D");
    offsets = exclude->first.data();
    rows = exclude->second.data();
    bool is_rising = offsets[0] == 0 && offsets[batch] == exclude->second.size();
    for (int64_t i = 0; i < batch; ++i) is_rising &= offsets[i] <= offsets[i + 1];
    if (!is_rising) throw py::value_error("exclude's offsets must rise from 0 to the rows' end");
  }
  py::gil_scoped_release release;
  ItemFilter filter(std::move(trie), batch);
  for (int64_t i = 0; i < batch; ++i) {
    filter.restrict(i, allowed[i], rows + offsets[i], offsets[i + 1] - offsets[i]);
  }
  return filter;
}

py::array_t<int64_t> num_allowed(const ItemFilter& filter) {
  py::array_t<int64_t> counts(filter.batch());
  for (int64_t i = 0; i < filter.batch(); ++i) counts.mutable_at(i) = filter.num_allowed(i);
  return counts;
}

// Logit: float, or uint16_t for the bits of bfloat16, which NumPy does not know.
template <typename Logit>
py::object beam_step(const ItemTrie& trie, int64_t depth, const Array<Logit>& logits,
                     const Array<float>& scores, const Array<int64_t>& nodes,
                     const Array<int64_t>& num_valid, int64_t width, const ItemFilter* filter,
                     const std::string& normalize, int64_t num_threads) {
  const int64_t vocab_size = trie.codebook_size(checked_depth(trie, depth));
  if (scores.ndim() != 2) throw py::value_error("scores must be 2-D (batch, beam_width)");
  const int64_t batch = scores.shape(0), beam_width = scores.shape(1);
  require_shape(logits, "logits", {batch, beam_width, vocab_size},
                "(batch, beam_width, codebook_size) = (" + std::to_string(batch) + ", " +
                    std::to_string(beam_width) + ", " + std::to_string(vocab_size) + ")");
  require_shape(nodes, "nodes", {batch, beam_width}, "(batch, beam_width) as scores");
  require_shape(num_valid, "num_valid", {batch}, "(batch,) as scores");
  if (width < 1) throw py::value_error("width must be at least 1, got " + std::to_string(width));
  check_num_threads(num_threads);
  if (normalize != "vocab" && normalize != "children") {
    throw py::value_error("normalize must be 'vocab' or 'children', got '" + normalize + "'");
  }
  if (filter != nullptr && filter->trie().get() != &trie) {
    throw py::value_error("item_filter is of another trie");
  }
  if (filter != nullptr && filter->batch() != batch) {
    throw py::value_error("item_filter is for a batch of " + std::to_string(filter->batch()) +
                          ", got " + std::to_string(batch));
  }
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
        trie, depth, beams, filter,
        normalize == "vocab" ? store_engine::Normalize::kVocab : store_engine::Normalize::kChildren,
        num_threads, out);
  }
  return py::module_::import("store_engine._C")
      .attr("BeamStep")(out_scores, parents, tokens, out_nodes, out_num_valid);
}

py::tuple simd_targets() {
  py::list names;
  for (const auto& kernels : store_engine::softmax_kernels()) names.append(kernels.target);
  return py::tuple(names);
}

py::array_t<float> log_sum_exp(const Array<float>& logits, const std::string& target) {
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

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "C++ core of store_engine. See store_engine/_C.pyi for the documented API.";

  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::system_error& e) {  // OSError picks its subclass by the number
      py::set_error(PyExc_OSError, py::make_tuple(e.code().value(), e.what()));
    }
  });

  py::class_<ItemTrie, std::shared_ptr<ItemTrie>>(m, "ItemTrie")
      .def(py::init(&make_trie), py::arg("sids").noconvert(), "codebook_sizes"_a, py::kw_only(),
           "mode"_a = "fast", "num_threads"_a = 1)
      .def_property_readonly("num_items", &ItemTrie::num_items)
      .def_property_readonly("num_levels", &ItemTrie::num_levels)
      .def_property_readonly(
          "codebook_sizes",
          [](const ItemTrie& trie) { return py::tuple(py::cast(codebook_sizes(trie))); })
      .def_property_readonly(
          "level_sizes",
          [](const ItemTrie& trie) { return py::tuple(py::cast(level_sizes(trie))); })
      .def_property_readonly("nbytes", &ItemTrie::nbytes)
      .def("memory", &memory)
      .def("level", &level, "level"_a)
      .def("leaf_rows", &all_leaf_rows, py::arg("leaves").noconvert())
      .def(
          "save", [](const ItemTrie& trie, const Path& path) { trie.save(path.string()); },
          "path"_a, py::call_guard<py::gil_scoped_release>())
      .def_static(
          "load", [](const Path& path) { return ItemTrie::load(path.string()); }, "path"_a,
          py::call_guard<py::gil_scoped_release>());

  py::class_<RowSet, SharedSet>(m, "RowSet")
      .def_static("from_rows", &row_set, "trie"_a, py::arg("rows").noconvert())
      .def("__and__",
           [](const RowSet& a, const RowSet& b) {
             return combine(a, b, [](Bitmap& x, const Bitmap& y) { x &= y; });
           })
      .def("__or__",
           [](const RowSet& a, const RowSet& b) {
             return combine(a, b, [](Bitmap& x, const Bitmap& y) { x |= y; });
           })
      .def("__invert__",
           [](const RowSet& set) { return std::make_shared<RowSet>(set.trie(), ~set.positions()); })
      .def_property_readonly("count", &RowSet::count)
      .def_property_readonly("nbytes", &RowSet::nbytes)
      .def("rows", &rows_of);

  py::class_<ItemFilter>(m, "ItemFilter")
      .def(py::init(&make_filter), "trie"_a, "batch"_a, py::kw_only(), "allow"_a = py::none(),
           "exclude"_a = py::none())
      .def_property_readonly("num_allowed", &num_allowed)
      .def("leaf_rows", &allowed_leaf_rows, py::arg("leaves").noconvert());

  m.attr("BeamStep") = py::module_::import("collections")
                           .attr("namedtuple")("BeamStep", "scores parents tokens nodes num_valid",
                                               "module"_a = "store_engine._C");
  const auto def_beam_step = [&m](auto function) {
    m.def("beam_step", function, "trie"_a, "level"_a, py::arg("logits").noconvert(),
          py::arg("scores").noconvert(), py::arg("nodes").noconvert(),
          py::arg("num_valid").noconvert(), "width"_a, py::kw_only(), "item_filter"_a = py::none(),
          "normalize"_a = "vocab", "num_threads"_a = 1);
  };
  def_beam_step(&beam_step<float>);
  def_beam_step(&beam_step<uint16_t>);
  m.def("log_sum_exp", &log_sum_exp, py::arg("logits").noconvert(), py::kw_only(),
        "target"_a = "auto");
  m.def("simd_targets", &simd_targets);
}

// store_engine._C.ItemTrie
#include "store_engine/trie/item_trie.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>

#include "bindings/bindings.h"
#include "bindings/objects.h"

namespace store_engine::bindings {
namespace {

ItemTrie make_trie(const NumpyArray<int32_t>& sids, const std::vector<int64_t>& sizes,
                   const std::string& mode, int64_t num_threads) {
  const ItemTrie::Options options = checked_options(sids, sizes, mode, num_threads);
  const int64_t num_items = sids.shape(0);
  const int32_t* codes = sids.data();
  py::gil_scoped_release release;  // the core never touches Python
  return ItemTrie({codes, num_items, sizes}, options);
}

py::dict memory(const ItemTrie& trie) {
  size_t indices = 0;
  for (int64_t level = 0; level < trie.num_levels(); ++level) indices += trie.index(level).nbytes();
  return py::dict("tokens"_a = trie.tokens_nbytes(), "children"_a = indices,
                  "leaves"_a = trie.index(trie.num_levels()).nbytes(),
                  "rows"_a = trie.rows_nbytes(), "positions"_a = trie.positions_nbytes());
}

py::tuple level_arrays(const ItemTrie& trie, int64_t level) {
  checked_level(trie, level);
  const int64_t num_nodes = trie.num_nodes(level);
  py::array_t<int64_t> child_begin(num_nodes + 1);
  int64_t* begin = child_begin.mutable_data();
  begin[0] = 0;
  for (int64_t node = 0; node < num_nodes; ++node) {
    begin[node + 1] = trie.index(level).children(node).end;
  }
  return trie.with_tokens(level, [&](const auto* tokens) {
    return py::make_tuple(child_begin, view(tokens, trie.num_nodes(level + 1), object_of(trie)));
  });
}

}  // namespace

void bind_item_trie(py::module_& m) {
  using Path = std::filesystem::path;
  py::class_<ItemTrie, std::shared_ptr<ItemTrie>> type(m, "ItemTrie");
  type.def(py::init(&make_trie), "sids"_a, integer("codebook_sizes"), py::kw_only(),
           "mode"_a = "fast", integer("num_threads") = 1)
      .def("memory", &memory)
      .def("level", &level_arrays, integer("level"))
      .def(
          "save", [](const ItemTrie& trie, const Path& path) { trie.save(path.string()); },
          "path"_a, py::call_guard<py::gil_scoped_release>())
      .def_static(
          "load", [](const Path& path) { return ItemTrie::load(path.string()); }, "path"_a,
          py::call_guard<py::gil_scoped_release>());
  def_trie(type);
}

}  // namespace store_engine::bindings

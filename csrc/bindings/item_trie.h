// store_engine._C.ItemTrie
#pragma once

#include <pybind11/stl/filesystem.h>

#include <filesystem>

#include "bindings/arrays.h"

inline ItemTrie make_trie(const Array<int32_t>& sids, const std::vector<int64_t>& sizes,
                          const std::string& mode, int64_t num_threads) {
  const ItemTrie::Options options = checked_options(sids, sizes, mode, num_threads);
  const int64_t num_items = sids.shape(0);
  const int32_t* codes = sids.data();
  py::gil_scoped_release release;  // the core never touches Python
  return ItemTrie({codes, num_items, sizes}, options);
}

inline py::dict memory(const ItemTrie& trie) {
  size_t indices = 0;
  for (int64_t depth = 0; depth < trie.num_levels(); ++depth) indices += trie.index(depth).nbytes();
  return py::dict("tokens"_a = trie.tokens_nbytes(), "children"_a = indices,
                  "leaves"_a = trie.index(trie.num_levels()).nbytes(),
                  "rows"_a = trie.rows_nbytes(), "positions"_a = trie.positions_nbytes());
}

inline py::tuple level(const py::object& self, int64_t depth) {
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

inline void bind_item_trie(py::module_& m) {
  using Path = std::filesystem::path;
  using Shared = std::shared_ptr<ItemTrie>;
  py::class_<ItemTrie, Shared>(m, "ItemTrie")
      .def(py::init(&make_trie), py::arg("sids").noconvert(), "codebook_sizes"_a, py::kw_only(),
           "mode"_a = "fast", "num_threads"_a = 1)
      .def_property_readonly("num_items", &ItemTrie::num_items)
      .def_property_readonly("num_levels", &ItemTrie::num_levels)
      .def_property_readonly("codebook_sizes",
                             [](const Shared& trie) { return codebook_sizes({trie}); })
      .def_property_readonly("level_sizes", [](const Shared& trie) { return level_sizes({trie}); })
      .def_property_readonly("nbytes", &ItemTrie::nbytes)
      .def("memory", &memory)
      .def("level", &level, "level"_a)
      .def(
          "leaf_rows",
          [](const Shared& trie, const Array<int64_t>& leaves) {
            return all_leaf_rows({trie}, leaves);
          },
          py::arg("leaves").noconvert())
      .def(
          "save", [](const ItemTrie& trie, const Path& path) { trie.save(path.string()); },
          "path"_a, py::call_guard<py::gil_scoped_release>())
      .def_static(
          "load", [](const Path& path) { return ItemTrie::load(path.string()); }, "path"_a,
          py::call_guard<py::gil_scoped_release>());
}

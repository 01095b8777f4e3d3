// store_engine._C.LiveTrie and Snapshot
#pragma once

#include <optional>

#include "bindings/arrays.h"
#include "store_engine/live_trie.h"

using store_engine::LiveTrie;

inline std::unique_ptr<LiveTrie> make_live_trie(const Array<int32_t>& sids,
                                                const Array<int64_t>& item_ids,
                                                const std::vector<int64_t>& sizes,
                                                const std::string& mode, int64_t num_threads,
                                                std::optional<int64_t> max_changes) {
  const ItemTrie::Options options = checked_options(sids, sizes, mode, num_threads);
  const int64_t num_items = sids.shape(0);
  require_shape(item_ids, "item_ids", {num_items}, "(num_items,) as sids");
  if (max_changes && *max_changes < 1) throw py::value_error("max_changes must be at least 1");
  const int32_t* codes = sids.data();
  const int64_t* ids = item_ids.data();
  py::gil_scoped_release release;
  return std::make_unique<LiveTrie>(store_engine::Sids{codes, num_items, sizes}, ids,
                                    LiveTrie::Options{options, max_changes.value_or(0)});
}

inline void add_items(LiveTrie& trie, const Array<int32_t>& sids, const Array<int64_t>& item_ids) {
  require_1d(item_ids, "item_ids");
  const int64_t num_items = item_ids.size();
  const auto num_levels = static_cast<int64_t>(trie.codebook_sizes().size());
  require_shape(sids, "sids", {num_items, num_levels}, "(num_items, num_levels) as item_ids");
  const int32_t* codes = sids.data();
  const int64_t* ids = item_ids.data();
  py::gil_scoped_release release;
  trie.add(codes, ids, num_items);
}

inline void remove_items(LiveTrie& trie, const Array<int64_t>& item_ids) {
  require_1d(item_ids, "item_ids");
  const int64_t* ids = item_ids.data();
  const int64_t num_items = item_ids.size();
  py::gil_scoped_release release;
  trie.remove(ids, num_items);
}

inline py::array_t<int64_t> rows_of(const Snapshot& snapshot, const Array<int64_t>& item_ids) {
  require_1d(item_ids, "item_ids");
  py::array_t<int64_t> rows(item_ids.size());
  for (int64_t i = 0; i < rows.size(); ++i) rows.mutable_at(i) = snapshot.find(item_ids.at(i));
  return rows;
}

inline py::array_t<int64_t> item_ids(const Snapshot& snapshot, const Array<int64_t>& rows) {
  require_1d(rows, "rows");
  py::array_t<int64_t> ids(rows.size());
  for (int64_t i = 0; i < rows.size(); ++i) {
    const int64_t row = rows.at(i);
    if (row < 0 || row >= snapshot.num_rows()) {
      throw py::value_error("rows[" + std::to_string(i) + "] = " + std::to_string(row) +
                            " is outside [0, " + std::to_string(snapshot.num_rows()) + ")");
    }
    ids.mutable_at(i) = snapshot.id(row);
  }
  return ids;
}

inline py::tuple items(const Snapshot& snapshot) {
  store_engine::SortedItems items;
  {
    py::gil_scoped_release release;
    items = snapshot.items();
  }
  const std::vector<py::ssize_t> shape{items.size(), items.num_levels};
  return py::make_tuple(py::array_t<int32_t>(shape, items.sids.data()), to_array(items.ids));
}

inline void bind_live_trie(py::module_& m) {
  py::class_<Snapshot, std::shared_ptr<Snapshot>>(m, "Snapshot")
      .def_property_readonly("num_items", &Snapshot::num_items)
      .def_property_readonly("num_levels", &Snapshot::num_levels)
      .def_property_readonly("num_changes", &Snapshot::num_changes)
      .def_property_readonly("codebook_sizes", &codebook_sizes)
      .def_property_readonly("level_sizes", &level_sizes)
      .def_property_readonly("nbytes", &Snapshot::nbytes)
      .def("leaf_rows", &all_leaf_rows, py::arg("leaves").noconvert())
      .def("rows_of", &rows_of, py::arg("item_ids").noconvert())
      .def("item_ids", &item_ids, py::arg("rows").noconvert())
      .def("items", &items);

  py::class_<LiveTrie>(m, "LiveTrie")
      .def(py::init(&make_live_trie), py::arg("sids").noconvert(), py::arg("item_ids").noconvert(),
           "codebook_sizes"_a, py::kw_only(), "mode"_a = "fast", "num_threads"_a = 1,
           "max_changes"_a = py::none())
      .def("add", &add_items, py::arg("sids").noconvert(), py::arg("item_ids").noconvert())
      .def("remove", &remove_items, py::arg("item_ids").noconvert())
      .def("compact", &LiveTrie::compact, py::call_guard<py::gil_scoped_release>())
      .def("snapshot", [](const LiveTrie& trie) {
        // Python has no const, and a Snapshot nothing that changes it
        return std::const_pointer_cast<Snapshot>(trie.snapshot());
      });
}

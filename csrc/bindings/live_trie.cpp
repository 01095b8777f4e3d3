// store_engine._C.LiveTrie and Snapshot
#include "store_engine/trie/live_trie.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/bindings.h"
#include "bindings/objects.h"

namespace store_engine::bindings {
namespace {

std::unique_ptr<LiveTrie> make_live_trie(const NumpyArray<int32_t>& sids,
                                         const NumpyArray<int64_t>& item_ids,
                                         const std::vector<int64_t>& sizes, const std::string& mode,
                                         int64_t num_threads, std::optional<int64_t> max_changes) {
  const ItemTrie::Options options = checked_options(sids, sizes, mode, num_threads);
  const int64_t num_items = sids.shape(0);
  require_shape(item_ids, "item_ids", {num_items}, "(num_items,) as sids");
  if (max_changes && *max_changes < 1) throw py::value_error("max_changes must be at least 1");
  const int32_t* codes = sids.data();
  const int64_t* ids = item_ids.data();
  py::gil_scoped_release release;
  return std::make_unique<LiveTrie>(Sids{codes, num_items, sizes}, ids,
                                    LiveTrie::Options{options, max_changes.value_or(0)});
}

void add_items(LiveTrie& trie, const NumpyArray<int32_t>& sids,
               const NumpyArray<int64_t>& item_ids) {
  require_1d(item_ids, "item_ids");
  const int64_t num_items = item_ids.size();
  const auto num_levels = static_cast<int64_t>(trie.codebook_sizes().size());
  require_shape(sids, "sids", {num_items, num_levels}, "(num_items, num_levels) as item_ids");
  const int32_t* codes = sids.data();
  const int64_t* ids = item_ids.data();
  py::gil_scoped_release release;
  trie.add(codes, ids, num_items);
}

void remove_items(LiveTrie& trie, const NumpyArray<int64_t>& item_ids) {
  require_1d(item_ids, "item_ids");
  const int64_t* ids = item_ids.data();
  const int64_t num_items = item_ids.size();
  py::gil_scoped_release release;
  trie.remove(ids, num_items);
}

py::array_t<int64_t> rows_of(const Snapshot& snapshot, const NumpyArray<int64_t>& item_ids) {
  require_1d(item_ids, "item_ids");
  py::array_t<int64_t> rows(item_ids.size());
  for (int64_t i = 0; i < rows.size(); ++i) rows.mutable_at(i) = snapshot.find(item_ids.at(i));
  return rows;
}

py::array_t<int64_t> item_ids(const Snapshot& snapshot, const NumpyArray<int64_t>& rows) {
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

py::tuple items(const Snapshot& snapshot) {
  SortedItems items;
  {
    py::gil_scoped_release release;
    items = snapshot.items();
  }
  const std::vector<py::ssize_t> shape{items.size(), items.num_levels};
  return py::make_tuple(py::array_t<int32_t>(shape, items.sids.data()), to_array(items.ids));
}

py::tuple compacted(const Snapshot& snapshot) {
  const CompactedItems* made;
  {
    py::gil_scoped_release release;
    made = &snapshot.compacted();
  }
  // Python has no const, and an ItemTrie nothing that changes it
  auto* trie = const_cast<ItemTrie*>(&made->trie);
  return py::make_tuple(
      std::shared_ptr<ItemTrie>(snapshot.compacted_items, trie),
      view(made->ids.data(), static_cast<int64_t>(made->ids.size()), object_of(snapshot)));
}

}  // namespace

void bind_live_trie(py::module_& m) {
  py::class_<Snapshot, std::shared_ptr<Snapshot>> type(m, "Snapshot");
  type.def_property_readonly("num_changes", &Snapshot::num_changes)
      .def("rows_of", &rows_of, "item_ids"_a)
      .def("item_ids", &item_ids, "rows"_a)
      .def("items", &items)
      .def("compacted", &compacted);
  def_trie(type);

  py::class_<LiveTrie>(m, "LiveTrie")
      .def(py::init(&make_live_trie), "sids"_a, "item_ids"_a, integer("codebook_sizes"),
           py::kw_only(), "mode"_a = "fast", integer("num_threads") = 1,
           integer("max_changes") = py::none())
      .def("add", &add_items, "sids"_a, "item_ids"_a)
      .def("remove", &remove_items, "item_ids"_a)
      .def("compact", &LiveTrie::compact, py::call_guard<py::gil_scoped_release>())
      .def("snapshot", [](const LiveTrie& trie) {
        // Python has no const, and a Snapshot nothing that changes it
        return std::const_pointer_cast<Snapshot>(trie.snapshot());
      });
}

}  // namespace store_engine::bindings

// store_engine._C.RowSet and ItemFilter
#include "store_engine/search/item_filter.h"

#include <pybind11/stl.h>

#include <optional>

#include "bindings/bindings.h"
#include "bindings/objects.h"
#include "store_engine/search/row_set.h"

namespace store_engine::bindings {
namespace {

std::shared_ptr<RowSet> row_set(const py::object& trie, const NumpyArray<int64_t>& rows) {
  const Snapshot snapshot = snapshot_of(trie);
  require_1d(rows, "rows");
  const int64_t* data = rows.data();
  const int64_t size = rows.size();
  py::gil_scoped_release release;
  return RowSet::from_rows(snapshot, data, size);
}

// A RowSet, or null for None.
std::shared_ptr<RowSet> optional_row_set(py::handle value) {
  if (value.is_none()) return nullptr;
  if (!holds<RowSet>(value)) {
    throw_type_error("allow must be a RowSet, None or a sequence of these", value);
  }
  return value.cast<std::shared_ptr<RowSet>>();
}

// The RowSet of each request; null: everything is allowed.
std::vector<std::shared_ptr<RowSet>> row_sets(py::handle allow, int64_t batch) {
  if (!py::isinstance<py::sequence>(allow)) {
    return {static_cast<size_t>(batch), optional_row_set(allow)};
  }
  std::vector<std::shared_ptr<RowSet>> sets;
  for (const py::handle one : allow) sets.push_back(optional_row_set(one));
  if (static_cast<int64_t>(sets.size()) != batch) {
    throw py::value_error("allow must be one RowSet or " + std::to_string(batch) + ", got " +
                          std::to_string(sets.size()));
  }
  return sets;
}

using Ragged = std::pair<NumpyArray<int64_t>, NumpyArray<int64_t>>;

ItemFilter make_filter(const py::object& trie, int64_t batch, const py::object& allow,
                       const std::optional<Ragged>& exclude) {
  const Snapshot snapshot = snapshot_of(trie);
  require_in("batch", batch, 0, kMaxBatch);
  const std::vector<std::shared_ptr<RowSet>> allowed = row_sets(allow, batch);
  std::vector<int64_t> offsets(static_cast<size_t>(batch) + 1);
  const int64_t* rows = nullptr;
  if (exclude) {
    require_1d(exclude->second, "exclude's rows");
    offsets = checked_offsets(exclude->first, "exclude's offsets", batch, exclude->second.size());
    rows = exclude->second.data();
  }
  py::gil_scoped_release release;
  ItemFilter filter(snapshot, batch);
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

py::tuple allowed_leaf_rows(const ItemFilter& filter, const NumpyArray<int64_t>& leaves) {
  if (leaves.ndim() != 2 || leaves.shape(0) != filter.batch()) {
    throw py::value_error("leaves must have shape (batch, width), and batch be " +
                          std::to_string(filter.batch()));
  }
  const int64_t width = leaves.shape(1), level = filter.snapshot().num_levels() + 1;
  return leaf_rows(
      filter.snapshot(), leaves, [&](int64_t i) { return filter.base_mask(i / width, level); },
      [&](int64_t i) { return filter.delta_mask(i / width, level); });
}

}  // namespace

void bind_item_filter(py::module_& m) {
  py::class_<RowSet, std::shared_ptr<RowSet>>(m, "RowSet")
      .def_static("from_rows", &row_set, "trie"_a, "rows"_a)
      .def("__and__", &RowSet::operator&)
      .def("__or__", &RowSet::operator|)
      .def("__invert__", &RowSet::operator~)
      .def_property_readonly("count", py::overload_cast<>(&RowSet::count, py::const_))
      .def_property_readonly("nbytes", &RowSet::nbytes)
      .def("rows", [](const RowSet& set) { return to_array(set.rows()); });

  py::class_<ItemFilter>(m, "ItemFilter")
      .def(py::init(&make_filter), "trie"_a, integer("batch"), py::kw_only(),
           "allow"_a = py::none(), "exclude"_a = py::none())
      .def_property_readonly("num_allowed", &num_allowed)
      .def("leaf_rows", &allowed_leaf_rows, "leaves"_a);
}

}  // namespace store_engine::bindings

// store_engine._C.RowSet and ItemFilter
#pragma once

#include <algorithm>
#include <optional>

#include "bindings/arrays.h"
#include "store_engine/item_filter.h"
#include "store_engine/row_set.h"

using store_engine::ItemFilter;
using store_engine::RowSet;

inline std::shared_ptr<RowSet> row_set(const Catalogue& catalogue, const Array<int64_t>& rows) {
  require_1d(rows, "rows");
  const int64_t* data = rows.data();
  const int64_t size = rows.size();
  py::gil_scoped_release release;
  return RowSet::from_rows(snapshot_of(catalogue), data, size);
}

using OneOrMany = std::variant<std::shared_ptr<RowSet>, std::vector<std::shared_ptr<RowSet>>>;
using Ragged = std::pair<Array<int64_t>, Array<int64_t>>;

inline ItemFilter make_filter(const Catalogue& catalogue, int64_t batch, const OneOrMany& allow,
                              const std::optional<Ragged>& exclude) {
  if (batch < 0) throw py::value_error("batch must not be negative");
  std::vector<std::shared_ptr<RowSet>> allowed(batch);
  if (const auto* one = std::get_if<0>(&allow)) {
    std::fill(allowed.begin(), allowed.end(), *one);
  } else {
    allowed = std::get<1>(allow);
  }
  if (static_cast<int64_t>(allowed.size()) != batch) {
    throw py::value_error("allow must be one RowSet or " + std::to_string(batch) + ", got " +
                          std::to_string(allowed.size()));
  }
  const std::vector<int64_t> none(batch + 1);
  const int64_t *offsets = none.data(), *rows = nullptr;
  if (exclude) {
    require_shape(exclude->first, "exclude's offsets", {batch + 1}, "(batch + 1,)");
    require_1d(exclude->second, "exclude's rows");
    offsets = exclude->first.data();
    rows = exclude->second.data();
    bool is_rising = offsets[0] == 0 && offsets[batch] == exclude->second.size();
    for (int64_t i = 0; i < batch; ++i) is_rising &= offsets[i] <= offsets[i + 1];
    if (!is_rising) throw py::value_error("exclude's offsets must rise from 0 to the rows' end");
  }
  py::gil_scoped_release release;
  ItemFilter filter(snapshot_of(catalogue), batch);
  for (int64_t i = 0; i < batch; ++i) {
    filter.restrict(i, allowed[i], rows + offsets[i], offsets[i + 1] - offsets[i]);
  }
  return filter;
}

inline py::array_t<int64_t> num_allowed(const ItemFilter& filter) {
  py::array_t<int64_t> counts(filter.batch());
  for (int64_t i = 0; i < filter.batch(); ++i) counts.mutable_at(i) = filter.num_allowed(i);
  return counts;
}

inline py::tuple allowed_leaf_rows(const ItemFilter& filter, const Array<int64_t>& leaves) {
  if (leaves.ndim() != 2 || leaves.shape(0) != filter.batch()) {
    throw py::value_error("leaves must have shape (batch, width), and batch be " +
                          std::to_string(filter.batch()));
  }
  const int64_t width = leaves.shape(1), depth = filter.snapshot().num_levels() + 1;
  return leaf_rows(
      filter.snapshot(), leaves, [&](int64_t i) { return filter.base_mask(i / width, depth); },
      [&](int64_t i) { return filter.delta_mask(i / width, depth); });
}

inline void bind_item_filter(py::module_& m) {
  py::class_<RowSet, std::shared_ptr<RowSet>>(m, "RowSet")
      .def_static("from_rows", &row_set, "trie"_a, py::arg("rows").noconvert())
      .def("__and__", &RowSet::operator&)
      .def("__or__", &RowSet::operator|)
      .def("__invert__", &RowSet::operator~)
      .def_property_readonly("count", &RowSet::count)
      .def_property_readonly("nbytes", &RowSet::nbytes)
      .def("rows", [](const RowSet& set) { return to_array(set.rows()); });

  py::class_<ItemFilter>(m, "ItemFilter")
      .def(py::init(&make_filter), "trie"_a, "batch"_a, py::kw_only(), "allow"_a = py::none(),
           "exclude"_a = py::none())
      .def_property_readonly("num_allowed", &num_allowed)
      .def("leaf_rows", &allowed_leaf_rows, py::arg("leaves").noconvert());
}

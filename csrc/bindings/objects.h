// Objects of the bound classes as arguments.
//
// Python can make an object without running its __init__ (Class.__new__(Class)). Such an object
// holds nothing, and pybind11 would pass a pointer to memory that was never written. The caster
// below refuses it, and None, wherever an object of a bound class is expected: a TypeError.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#include "bindings/arrays.h"
#include "store_engine/search/item_filter.h"
#include "store_engine/search/row_set.h"
#include "store_engine/trie/item_trie.h"
#include "store_engine/trie/live_trie.h"
#include "store_engine/trie/snapshot.h"

namespace store_engine::bindings {

struct CachedAttention;
class Evidence;

// The classes that the caster below is for: all that are bound.
template <typename T>
constexpr bool kIsBound = false;
template <>
inline constexpr bool kIsBound<ItemTrie> = true;
template <>
inline constexpr bool kIsBound<LiveTrie> = true;
template <>
inline constexpr bool kIsBound<Snapshot> = true;
template <>
inline constexpr bool kIsBound<RowSet> = true;
template <>
inline constexpr bool kIsBound<ItemFilter> = true;
template <>
inline constexpr bool kIsBound<CachedAttention> = true;
template <>
inline constexpr bool kIsBound<Evidence> = true;

// Whether `value` is an object of T whose __init__ has been run.
template <typename T>
bool holds(py::handle value) {
  const auto* type = py::detail::get_type_info(typeid(T));
  if (!value || type == nullptr ||
      !py::isinstance(value, reinterpret_cast<PyObject*>(type->type))) {
    return false;
  }
  auto* instance = reinterpret_cast<py::detail::instance*>(value.ptr());
  return instance->get_value_and_holder(type).holder_constructed();
}

}  // namespace store_engine::bindings

namespace pybind11::detail {

template <typename T>
struct type_caster<T, enable_if_t<store_engine::bindings::kIsBound<T>>> : type_caster_base<T> {
  bool load(handle source, bool convert) {
    return store_engine::bindings::holds<T>(source) && type_caster_base<T>::load(source, convert);
  }
};

}  // namespace pybind11::detail

namespace store_engine::bindings {

[[noreturn]] inline void throw_type_error(const std::string& wanted, py::handle value) {
  const std::string type = py::str(py::type::handle_of(value).attr("__name__"));
  throw py::type_error(wanted + ", got " + type);
}

// An ItemTrie, or the Snapshot of a live one, as what a search reads.
inline Snapshot snapshot_of(py::handle trie) {
  if (holds<Snapshot>(trie)) return trie.cast<const Snapshot&>();
  if (!holds<ItemTrie>(trie)) throw_type_error("trie must be an ItemTrie or a Snapshot", trie);
  Snapshot snapshot;
  snapshot.base = trie.cast<std::shared_ptr<ItemTrie>>();
  return snapshot;
}

// The filter of a batch, or null for None: everything is allowed.
inline const ItemFilter* filter_of(py::handle item_filter, int64_t batch) {
  if (item_filter.is_none()) return nullptr;
  if (!holds<ItemFilter>(item_filter)) {
    throw_type_error("item_filter must be an ItemFilter or None", item_filter);
  }
  const auto& filter = item_filter.cast<const ItemFilter&>();
  if (filter.batch() != batch) {
    throw py::value_error("item_filter is for a batch of " + std::to_string(filter.batch()) +
                          ", got " + std::to_string(batch));
  }
  return &filter;
}

// The same, which must be of the catalogue that is searched.
inline const ItemFilter* filter_of(py::handle item_filter, const Snapshot& snapshot,
                                   int64_t batch) {
  const ItemFilter* filter = filter_of(item_filter, batch);
  if (filter != nullptr && !(filter->snapshot() == snapshot)) {
    throw py::value_error("item_filter is of another catalogue or snapshot");
  }
  return filter;
}

// The Python object that holds `value`.
template <typename T>
py::object object_of(const T& value) {
  return py::cast(&value, py::return_value_policy::reference);
}

// Checks a level of a trie that has codes below it.
template <typename Trie>
int64_t checked_level(const Trie& trie, int64_t level) {
  if (level < 0 || level >= trie.num_levels()) {
    throw py::value_error("level must be in [0, " + std::to_string(trie.num_levels()) + "), got " +
                          std::to_string(level));
  }
  return level;
}

// The rows under each leaf; base_mask(i) and delta_mask(i) say which of them leaf i may give.
template <typename Mask, typename DeltaMask>
py::tuple leaf_rows(const Snapshot& snapshot, const NumpyArray<int64_t>& leaves,
                    const Mask& base_mask, const DeltaMask& delta_mask) {
  const int64_t num_nodes = snapshot.num_nodes(snapshot.num_levels());
  std::vector<int64_t> rows;
  py::array_t<int64_t> offsets(leaves.size() + 1);
  int64_t* offset = offsets.mutable_data();
  *offset++ = 0;
  for (int64_t i = 0; i < leaves.size(); ++i) {
    const int64_t leaf = leaves.data()[i];
    if (leaf < -1 || leaf >= num_nodes) {
      throw py::value_error("leaves[" + std::to_string(i) + "] = " + std::to_string(leaf) +
                            " is neither a leaf node nor -1");
    }
    if (leaf >= 0) snapshot.append_leaf_rows(leaf, base_mask(i), delta_mask(i), rows);
    *offset++ = static_cast<int64_t>(rows.size());
  }
  return py::make_tuple(offsets, to_array(rows));
}

// The rows under each leaf that have not been removed.
inline py::tuple all_leaf_rows(const py::object& trie, const NumpyArray<int64_t>& leaves) {
  const Snapshot snapshot = snapshot_of(trie);
  require_1d(leaves, "leaves");
  const NodeMask alive{snapshot.alive_nodes(snapshot.num_levels() + 1)};
  return leaf_rows(
      snapshot, leaves, [alive](int64_t) { return alive; }, [](int64_t) { return NodeMask{}; });
}

// What ItemTrie and Snapshot have in common.
template <typename Trie, typename... Options>
void def_trie(py::class_<Trie, Options...>& type) {
  type.def_property_readonly("num_items", &Trie::num_items)
      .def_property_readonly("num_levels", &Trie::num_levels)
      .def_property_readonly("codebook_sizes",
                             [](const Trie& trie) {
                               py::list sizes;
                               for (int64_t level = 0; level < trie.num_levels(); ++level) {
                                 sizes.append(trie.codebook_size(level));
                               }
                               return py::tuple(sizes);
                             })
      .def_property_readonly("level_sizes",
                             [](const Trie& trie) {
                               py::list sizes;
                               for (int64_t level = 1; level <= trie.num_levels(); ++level) {
                                 sizes.append(trie.num_nodes(level));
                               }
                               return py::tuple(sizes);
                             })
      .def_property_readonly("nbytes", &Trie::nbytes)
      .def("leaf_rows", &all_leaf_rows, py::arg("leaves"));
}

// Checks the shape of SIDs, and how the trie over them is to be built.
inline ItemTrie::Options checked_options(const NumpyArray<int32_t>& sids,
                                         const std::vector<int64_t>& codebook_sizes,
                                         const std::string& mode, int64_t num_threads) {
  if (sids.ndim() != 2) throw py::value_error("sids must be 2-D (num_items, num_levels)");
  if (sids.shape(1) != static_cast<int64_t>(codebook_sizes.size())) {
    throw py::value_error("sids have " + std::to_string(sids.shape(1)) +
                          " levels, codebook_sizes " + std::to_string(codebook_sizes.size()));
  }
  if (mode != "fast" && mode != "compact") {
    throw py::value_error("mode must be 'fast' or 'compact', got '" + mode + "'");
  }
  check_num_threads(num_threads);
  return {mode == "compact", num_threads};
}

}  // namespace store_engine::bindings

// What the bindings share: NumPy arrays with their checks, and the catalogue as an argument.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "store_engine/item_trie.h"
#include "store_engine/snapshot.h"

namespace py = pybind11;
using namespace pybind11::literals;
using store_engine::ItemTrie;
using store_engine::Snapshot;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

// A read-only NumPy view of `size` numbers, kept alive by `owner`.
template <typename T>
inline py::array view(const T* data, int64_t size, py::handle owner) {
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

template <typename T>
void require_1d(const Array<T>& array, const std::string& name) {
  if (array.ndim() != 1) throw py::value_error(name + " must be 1-D");
}

inline void check_num_threads(int64_t num_threads) {
  if (num_threads < 1 || num_threads > 1024) {
    throw py::value_error("num_threads must be in [1, 1024], got " + std::to_string(num_threads));
  }
}

inline int64_t checked_depth(const ItemTrie& trie, int64_t depth) {
  if (depth < 0 || depth >= trie.num_levels()) {
    throw py::value_error("level must be in [0, " + std::to_string(trie.num_levels()) + "), got " +
                          std::to_string(depth));
  }
  return depth;
}

inline py::array_t<int64_t> to_array(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

// A trie, or a live catalogue as it was at one moment.
using Catalogue = std::variant<std::shared_ptr<ItemTrie>, std::shared_ptr<Snapshot>>;

inline Snapshot snapshot_of(const Catalogue& catalogue) {
  if (const auto* snapshot = std::get_if<std::shared_ptr<Snapshot>>(&catalogue)) return **snapshot;
  Snapshot snapshot;
  snapshot.base = std::get<std::shared_ptr<ItemTrie>>(catalogue);
  // pybind11 makes a null pointer of None
  if (snapshot.base == nullptr) throw py::type_error("trie must be an ItemTrie or a Snapshot");
  return snapshot;
}

// The rows under each leaf; base_mask(i) and delta_mask(i) say which of them leaf i may give.
template <typename Mask, typename DeltaMask>
py::tuple leaf_rows(const Snapshot& snapshot, const Array<int64_t>& leaves, const Mask& base_mask,
                    const DeltaMask& delta_mask) {
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
inline py::tuple all_leaf_rows(const Snapshot& snapshot, const Array<int64_t>& leaves) {
  require_1d(leaves, "leaves");
  const store_engine::NodeMask alive{snapshot.alive_nodes(snapshot.num_levels() + 1)};
  return leaf_rows(
      snapshot, leaves, [alive](int64_t) { return alive; },
      [](int64_t) { return store_engine::NodeMask{}; });
}

inline py::tuple codebook_sizes(const Snapshot& snapshot) {
  py::list sizes;
  for (int64_t d = 0; d < snapshot.num_levels(); ++d) sizes.append(snapshot.codebook_size(d));
  return py::tuple(sizes);
}

inline py::tuple level_sizes(const Snapshot& snapshot) {
  py::list sizes;
  for (int64_t d = 1; d <= snapshot.num_levels(); ++d) sizes.append(snapshot.num_nodes(d));
  return py::tuple(sizes);
}

// Checks SIDs' shape and how the trie over them is to be built.
inline ItemTrie::Options checked_options(const Array<int32_t>& sids,
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

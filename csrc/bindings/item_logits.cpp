// store_engine._C.item_logits
#include "store_engine/model/item_logits.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace store_engine::bindings {
namespace {

template <typename T>
void call_item_logits(const NumpyArray<T>& states, const NumpyArray<T>& rows,
                      const NumpyArray<int32_t>& slots, const NumpyArray<int64_t>& prefixes,
                      NumpyArray<float>& out, int64_t num_threads) {
  if (rows.ndim() != 2) throw py::value_error("rows must be 2-D (num_slots, hidden_size)");
  if (slots.ndim() != 2) throw py::value_error("slots must be 2-D (num_prefixes, fanout)");
  if (prefixes.ndim() != 2) throw py::value_error("prefixes must be 2-D (batch, width)");
  const int64_t batch = prefixes.shape(0), width = prefixes.shape(1);
  const int64_t hidden_size = rows.shape(1), fanout = slots.shape(1);
  if (hidden_size < 1) throw py::value_error("rows must have at least one column");
  const bool is_shared = states.ndim() == 3 && states.shape(1) == 1;
  require_shape(states, "states", {batch, is_shared ? 1 : width, hidden_size},
                "(batch, width, hidden_size) or (batch, 1, hidden_size) as prefixes and rows");
  require_shape(out, "out", {batch, width, fanout}, "(batch, width, fanout) as prefixes and slots");
  check_num_threads(num_threads);
  const ItemRows<T> items{rows.data(), slots.data(),   rows.shape(0),
                          hidden_size, slots.shape(0), fanout};
  const PrefixStates<T> beams{states.data(), prefixes.data(), batch, width, is_shared};
  float* logits = out.mutable_data();  // throws if it is read-only
  py::gil_scoped_release release;
  item_logits(items, beams, num_threads, logits);
}

}  // namespace

void bind_item_logits(py::module_& m) {
  const auto def_item_logits = [&m](auto function) {
    m.def("item_logits", function, "states"_a, "rows"_a, "slots"_a, "prefixes"_a, "out"_a,
          py::kw_only(), integer("num_threads") = 1);
  };
  def_item_logits(&call_item_logits<float>);
  def_item_logits(&call_item_logits<uint16_t>);
}

}  // namespace store_engine::bindings

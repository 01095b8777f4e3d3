// The module store_engine._C. The bindings check types, shapes and bounds, release the GIL and copy
// nothing that is large; each class has a file of its own.
#include <pybind11/pybind11.h>

#include <system_error>

#include "bindings/bindings.h"

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "C++ core of store_engine. See store_engine/_C.pyi for the "
      "documented API.";

  pybind11::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::system_error& e) {  // OSError picks its subclass by the number
      pybind11::set_error(PyExc_OSError, pybind11::make_tuple(e.code().value(), e.what()));
    }
  });

  store_engine::bindings::bind_item_trie(m);
  store_engine::bindings::bind_live_trie(m);
  store_engine::bindings::bind_item_filter(m);
  store_engine::bindings::bind_beam_search(m);
  store_engine::bindings::bind_cached_attention(m);
  store_engine::bindings::bind_item_logits(m);
  store_engine::bindings::bind_evidence(m);
}

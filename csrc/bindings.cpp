// Python bindings of the C++ core: they check types, shapes and bounds, release the GIL and copy
// nothing that is large. Here is the module; bindings/*.h has one file per header of the core.
#include <pybind11/pybind11.h>

#include <system_error>

#include "bindings/beam_search.h"
#include "bindings/cached_attention.h"
#include "bindings/item_filter.h"
#include "bindings/item_trie.h"
#include "bindings/live_trie.h"

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "C++ core of store_engine. See store_engine/_C.pyi for the "
      "documented API.";

  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const std::system_error& e) {  // OSError picks its subclass by the number
      py::set_error(PyExc_OSError, py::make_tuple(e.code().value(), e.what()));
    }
  });

  bind_item_trie(m);
  bind_live_trie(m);
  bind_item_filter(m);
  bind_beam_search(m);
  bind_cached_attention(m);
}

// The parts of store_engine._C, a file each.
#pragma once

#include <pybind11/pybind11.h>

namespace store_engine::bindings {

void bind_item_trie(pybind11::module_& m);
void bind_live_trie(pybind11::module_& m);
void bind_item_filter(pybind11::module_& m);
void bind_beam_search(pybind11::module_& m);
void bind_cached_attention(pybind11::module_& m);
void bind_item_logits(pybind11::module_& m);
void bind_evidence(pybind11::module_& m);

}  // namespace store_engine::bindings

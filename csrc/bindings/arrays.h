// NumPy arrays as arguments and results, and the checks of numbers that come from Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace store_engine::bindings {

namespace py = pybind11;
using namespace pybind11::literals;

// An argument that must be a C-contiguous, aligned array of T; nothing is ever converted.
template <typename T>
class NumpyArray : public py::array_t<T, py::array::c_style> {
 public:
  using Base = py::array_t<T, py::array::c_style>;
  using Base::Base;
  static bool check_(py::handle value) {
    return Base::check_(value) && py::detail::check_flags(value.ptr(), kAligned);
  }

 private:
  static constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
};

// An argument that must be an integer, or integers: a float of any kind is a TypeError.
inline py::arg integer(const char* name) { return py::arg(name).noconvert(); }

// More than any search needs; they bound the memory that a wrong number can ask for.
constexpr int64_t kMaxBatch = 1 << 20;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxSlots = 1 << 27;  // of a batch together
constexpr int64_t kMaxThreads = 1024;

// Throws ValueError unless value is in [low, high].
inline void require_in(const std::string& name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw py::value_error(name + " must be in [" + std::to_string(low) + ", " + std::to_string(high) +
                        "], got " + std::to_string(value));
}

inline void check_num_threads(int64_t num_threads) {
  require_in("num_threads", num_threads, 1, kMaxThreads);
}

// Throws ValueError unless a batch with `width` results for each request is one to make room for.
inline void check_num_slots(int64_t batch, const std::string& name, int64_t width) {
  require_in("batch", batch, 0, kMaxBatch);
  if (width < 1) throw py::value_error(name + " must be at least 1, got " + std::to_string(width));
  require_in(name, width, 1, kMaxWidth);
  require_in("batch * " + name, batch * width, 0, kMaxSlots);  // small enough to multiply
}

// Throws ValueError if the product of two numbers that are not negative is no int64.
inline int64_t checked_product(const std::string& name, int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw py::value_error(name + " is too large");
  return product;
}

template <typename T>
void require_shape(const NumpyArray<T>& array, const std::string& name,
                   const std::vector<int64_t>& shape, const std::string& legend) {
  bool ok = array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; ok && i < shape.size(); ++i) ok = array.shape(i) == shape[i];
  if (!ok) throw py::value_error(name + " must have shape " + legend);
}

template <typename T>
void require_1d(const NumpyArray<T>& array, const std::string& name) {
  if (array.ndim() != 1) throw py::value_error(name + " must be 1-D");
}

// Copies where the rows of each request of a batch begin, and the end. Throws ValueError unless
// they rise from 0 to `size`.
inline std::vector<int64_t> checked_offsets(const NumpyArray<int64_t>& array,
                                            const std::string& name, int64_t batch, int64_t size) {
  require_shape(array, name, {batch + 1}, "(batch + 1,)");
  std::vector<int64_t> offsets(array.data(), array.data() + batch + 1);
  bool is_rising = offsets.front() == 0 && offsets.back() == size;
  for (int64_t i = 0; i < batch; ++i) is_rising &= offsets[i] <= offsets[i + 1];
  if (!is_rising) throw py::value_error(name + " must rise from 0 to the rows' end");
  return offsets;
}

// A read-only NumPy view of `size` numbers that keeps their owner alive.
template <typename T>
py::array view(const T* data, int64_t size, py::handle owner) {
  py::array_t<T> array(size, data, owner);
  array.attr("setflags")("write"_a = false);
  return std::move(array);
}

inline py::array_t<int64_t> to_array(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace store_engine::bindings

namespace pybind11::detail {

template <typename T>
struct handle_type_name<store_engine::bindings::NumpyArray<T>>
    : handle_type_name<array_t<T, array::c_style>> {};

}  // namespace pybind11::detail

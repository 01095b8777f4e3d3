// A fixed array of numbers, in memory of its own or in a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace store_engine {

template <typename T>
class Array {
 public:
  Array() = default;
  explicit Array(int64_t size)  // not initialised: the caller writes every number
      : data_(new T[static_cast<size_t>(size)], std::default_delete<T[]>()),
        size_(static_cast<size_t>(size)) {}
  Array(const std::shared_ptr<const char>& file, const void* data, size_t size)
      // only owned arrays are ever written, through mutable_data()
      : data_(file, const_cast<T*>(static_cast<const T*>(data))), size_(size) {}

  const T& operator[](int64_t i) const { return data_.get()[i]; }
  const T* data() const { return data_.get(); }
  T* mutable_data() { return data_.get(); }
  size_t size() const { return size_; }
  size_t nbytes() const { return size_ * sizeof(T); }

 private:
  std::shared_ptr<T> data_;
  size_t size_ = 0;
};

}  // namespace store_engine

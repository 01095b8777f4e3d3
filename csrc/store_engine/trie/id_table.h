// Finds the row of an item id: a hash table with open addressing that holds rows only, 5 to 11
// bytes per item. The ids themselves stay in the array it is made from.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace store_engine {

class IdTable {
 public:
  // Throws std::invalid_argument naming an id that is there twice.
  explicit IdTable(std::vector<int64_t> ids) : ids_(std::move(ids)) {
    while (int64_t{1} << bits_ < static_cast<int64_t>(ids_.size()) * 5 / 4 + 1) ++bits_;
    slots_.assign(size_t{1} << bits_, kEmpty);
    for (size_t row = 0; row < ids_.size(); ++row) {
      uint32_t& slot = slots_[find_slot(ids_[row])];
      if (slot != kEmpty) {
        throw std::invalid_argument("item id " + std::to_string(ids_[row]) + " is there twice");
      }
      slot = static_cast<uint32_t>(row);
    }
  }

  // The row of an id, or -1.
  int64_t find(int64_t id) const {
    const uint32_t row = slots_[find_slot(id)];
    return row == kEmpty ? -1 : int64_t{row};
  }
  int64_t operator[](int64_t row) const { return ids_[row]; }
  size_t nbytes() const { return ids_.size() * sizeof(int64_t) + slots_.size() * sizeof(uint32_t); }

 private:
  static constexpr uint32_t kEmpty = std::numeric_limits<uint32_t>::max();

  // Where the id is, or the empty slot where it would be.
  size_t find_slot(int64_t id) const {
    size_t slot = static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15 >> (64 - bits_);
    while (slots_[slot] != kEmpty && ids_[slots_[slot]] != id) {
      slot = (slot + 1) & (slots_.size() - 1);
    }
    return slot;
  }

  std::vector<int64_t> ids_;
  int bits_ = 1;
  std::vector<uint32_t> slots_;  // rows, or kEmpty; at least a fifth is empty
};

}  // namespace store_engine

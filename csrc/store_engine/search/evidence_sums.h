// What the entries of one request sum up to, by item.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "store_engine/search/evidence_matrix.h"

namespace store_engine {

// Spreads items over 2^(32 - shift) places (Fibonacci hashing).
inline uint32_t spread(uint32_t item, int shift) { return item * 0x9e3779b1 >> shift; }

// A value by item, in a hash table; the memory of one thread.
template <typename Value>
class ItemTable {
 public:
  struct Entry {
    int32_t item = -1;  // none
    Value value{};
  };

  // Forgets everything, and makes room for `size` items.
  void reserve(int64_t size) {
    int bits = 1;
    while (int64_t{1} << bits < 4 * size) ++bits;  // few collisions, for these no one can predict
    shift_ = 32 - bits;
    entries_.assign(size_t{1} << bits, Entry{});
  }
  // Where an item is, or the empty place where it would be.
  Entry& at(uint32_t item) {
    size_t place = spread(item, shift_);
    const auto is_other = [item](const Entry& entry) {  // one branch, for the same reason
      return !((entry.item == static_cast<int32_t>(item)) | (entry.item < 0));
    };
    while (__builtin_expect(is_other(entries_[place]), 0)) {
      place = (place + 1) & (entries_.size() - 1);
    }
    return entries_[place];
  }

 protected:
  std::vector<Entry> entries_;  // 2^n

 private:
  int shift_ = 0;
};

// Where some items are in a list. Most items that are looked for are not in it: a bit says so,
// 64 for each that is, before the table is asked.
class ListedItems {
 public:
  // Takes other items; what is no item below num_items is left out, of equals the first counts.
  void list(const int64_t* items, int64_t size, int64_t num_items) {
    int bits = 6;
    while (bits < 30 && int64_t{1} << bits < 64 * size) ++bits;
    shift_ = 32 - bits;
    may_have_.assign(size_t{1} << (bits - 6), 0);
    places_.reserve(size);
    for (int64_t i = 0; i < size; ++i) {
      if (items[i] < 0 || items[i] >= num_items) continue;
      const auto item = static_cast<uint32_t>(items[i]);
      may_have_[bit(item) >> 6] |= uint64_t{1} << (bit(item) & 63);
      auto& entry = places_.at(item);
      if (entry.item < 0) entry = {static_cast<int32_t>(item), i};
    }
  }
  // The place of an item, -1 if it is not in the list.
  int64_t find(uint32_t item) {
    if (__builtin_expect((may_have_[bit(item) >> 6] >> (bit(item) & 63) & 1) == 0, 1)) return -1;
    const auto& entry = places_.at(item);
    return entry.item < 0 ? -1 : entry.value;
  }

 private:
  uint32_t bit(uint32_t item) const { return spread(item, shift_); }

  std::vector<uint64_t> may_have_;
  ItemTable<int64_t> places_;
  int shift_ = 0;
};

// The evidence of one request, by item.
class EvidenceTable : public ItemTable<float> {
 public:
  void sum(const EventEntries& entries, int64_t num_entries) {
    reserve(num_entries);
    entries.for_each([this](uint32_t item, float vote) {
      Entry& entry = at(item);
      entry.item = static_cast<int32_t>(item);
      entry.value += vote;
    });
  }
  // Calls use(item, sum) for each item with at least bound(), in any order.
  template <typename Bound, typename Use>
  void for_each_above(const Bound& bound, const Use& use) const {
    for (const Entry& entry : entries_) {
      if ((entry.item >= 0) & (entry.value >= bound())) use(entry.item, entry.value);
    }
  }
};

// The same in an array of all items. Where the entries are about as many as these, all are looked
// at in the end; else those that were found, which cost more to note.
class EvidenceArray {
 public:
  static constexpr int64_t kMaxItems = 1 << 17;  // 512 KiB, in a second-level cache
  static bool looks_at_all(int64_t num_items, int64_t num_entries) {
    return num_items <= 2 * num_entries;
  }

  void sum(const EventEntries& entries, int64_t num_entries) {
    const auto num_items = static_cast<size_t>(entries.num_items());
    clear(num_items);
    has_list_ = !looks_at_all(entries.num_items(), num_entries);
    float* sums = sums_.data();
    uint8_t* is_found = is_found_.data();
    if (!has_list_) {
      entries.for_each([sums, is_found](uint32_t item, float vote) {
        is_found[item] = 1;
        sums[item] += vote;
      });
      return;
    }
    found_.resize(static_cast<size_t>(num_entries) + 1);
    uint32_t* end = found_.data();
    entries.for_each([sums, is_found, &end](uint32_t item, float vote) {  // without a branch
      *end = item;
      end += 1 - is_found[item];
      is_found[item] = 1;
      sums[item] += vote;
    });
    found_.resize(static_cast<size_t>(end - found_.data()));
  }
  float at(uint32_t item) const { return sums_[item]; }
  template <typename Bound, typename Use>
  void for_each_above(const Bound& bound, const Use& use) const {
    if (has_list_) {
      for (const uint32_t item : found_) {
        if (sums_[item] >= bound()) use(item, sums_[item]);
      }
      return;
    }
    for (size_t item = 0; item < sums_.size(); ++item) {
      if ((is_found_[item] != 0) & (sums_[item] >= bound())) use(item, sums_[item]);
    }
  }

 private:
  void clear(size_t num_items) {
    if (has_list_) {
      for (const uint32_t item : found_) {
        sums_[item] = 0;
        is_found_[item] = 0;
      }
      sums_.resize(num_items);
      is_found_.resize(num_items);
    } else {
      sums_.assign(num_items, 0.0f);
      is_found_.assign(num_items, 0);
    }
    found_.clear();
  }

  bool has_list_ = true;
  std::vector<float> sums_;
  std::vector<uint8_t> is_found_;  // not bits: entries of neighbours would wait for each other
  std::vector<uint32_t> found_;    // only if has_list_
};

}  // namespace store_engine

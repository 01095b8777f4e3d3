// ItemTrie::load on hostile bytes: it must refuse them, or give a trie that is safe to use.
//
// With Clang, -fsanitize=fuzzer drives LLVMFuzzerTestOneInput. Without, as with g++, main() does:
// fuzz_load [EXECUTIONS] [SEED] mutates valid files, most of them with the checksum put right, so
// that the checks behind it are reached too. A sanitizer, or an exception that is not
// std::invalid_argument, ends it.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "inputs.h"
#include "search.h"

using namespace store_engine;

namespace {

// Walks all that a search, a filter or a look-up may read.
void use(ItemTrie loaded) {
  Snapshot snapshot;
  snapshot.base = std::make_shared<ItemTrie>(std::move(loaded));
  const ItemTrie& trie = *snapshot.base;
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < trie.num_items(); row += 2) rows.push_back(row);
  const std::shared_ptr<RowSet> allow =
      RowSet::from_rows(snapshot, rows.data(), static_cast<int64_t>(rows.size()));
  ItemFilter filter(snapshot, 1);
  filter.restrict(0, allow, rows.data(), static_cast<int64_t>(rows.size() / 2));
  require(static_cast<int64_t>(trie.sids().size()) == trie.num_items() * trie.num_levels(),
          "every item has a SID");
  Random random(0);
  const std::vector<Found> found = search(snapshot, random_logits(random, snapshot), &filter, 1, 1);
  require(static_cast<int64_t>(found.size()) == filter.num_allowed(0),
          "a search finds all that is allowed");
}

// A file in memory that load() can open by name.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("fuzz_load", 0)) {
    require(fd_ >= 0, "a file in memory opens");
  }
  ~MemoryFile() { ::close(fd_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  void write(const uint8_t* data, size_t size) const {
    require(::ftruncate(fd_, 0) == 0, "a file in memory can be emptied");
    require(::pwrite(fd_, data, size, 0) == static_cast<ssize_t>(size),
            "a file in memory can be written");
  }

 private:
  int fd_;
};

bool is_accepted(const uint8_t* data, size_t size) {
  static const MemoryFile file;
  file.write(data, size);
  try {
    use(ItemTrie::load(file.path()));
    return true;
  } catch (const std::invalid_argument&) {
    return false;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  is_accepted(data, size);
  return 0;
}

#ifndef STORE_ENGINE_LIBFUZZER

namespace {

using Bytes = std::vector<uint8_t>;

Bytes valid_file(Random& random) {
  const std::vector<int64_t> sizes = random.codebook_sizes();
  const int64_t num_items = random.one_of({0, 1, 5, 40, 300});
  std::vector<int32_t> sids = random.sids(num_items, sizes);
  if (random.number(0, 1) == 1) {  // in SID order: no rows are stored
    const ItemTrie trie({sids.data(), num_items, sizes}, {});
    sids = trie.sids();
  }
  const ItemTrie trie({sids.data(), num_items, sizes}, {random.number(0, 1) == 1, 1});
  const std::string path = temporary_path();
  trie.save(path);
  std::ifstream file(path, std::ios::binary);
  const Bytes bytes{std::istreambuf_iterator<char>(file), {}};
  ::unlink(path.c_str());
  return bytes;
}

void put_checksum_right(Bytes& bytes) {
  Checksum checksum;
  checksum.add(bytes.data() + kSummedFrom, bytes.size() - kSummedFrom);
  const uint64_t value = checksum.value();
  std::memcpy(bytes.data() + 2 * sizeof(value), &value, sizeof(value));
}

void mutate(Random& random, Bytes& bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t at = random.number(0, size - 1);
  switch (random.number(0, 5)) {
    case 0:
      bytes[at] ^= static_cast<uint8_t>(1 << random.number(0, 7));
      break;
    case 1:
      bytes[at] = static_cast<uint8_t>(random.number(0, 255));
      break;
    case 2: {  // a number of the header, off by little
      const int64_t word = random.number(3, std::min<int64_t>(size / 8 - 1, 60)) * 8;
      bytes[word] = static_cast<uint8_t>(bytes[word] + random.one_of({-2, -1, 1, 2}));
      break;
    }
    case 3: {  // any word, often an extreme one
      const auto value =
          static_cast<uint64_t>(random.one_of<int64_t>({0, 1, -1, int64_t{1} << 32, 1 << 16}));
      std::memcpy(bytes.data() + at / 8 * 8, &value, sizeof(value));
      break;
    }
    case 4:  // a stretch moved
      std::memmove(bytes.data() + at, bytes.data() + random.number(0, at), size - at);
      break;
    default:  // cut off or drawn out
      bytes.resize(static_cast<size_t>(random.number(1, size / 64 + 2) * 64));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t executions = argc > 1 ? std::atoll(argv[1]) : 20'000;
  Random random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0);
  int64_t num_accepted = 0;
  Bytes valid;
  for (int64_t i = 0; i < executions; ++i) {
    if (i % 500 == 0) {
      valid = valid_file(random);
      require(is_accepted(valid.data(), valid.size()), "what save() wrote is accepted");
    }
    Bytes bytes = valid;
    for (int64_t n = random.number(1, 3); n > 0; --n) mutate(random, bytes);
    if (random.number(0, 9) > 0 && bytes.size() >= kSummedFrom) put_checksum_right(bytes);
    num_accepted += is_accepted(bytes.data(), bytes.size());
  }
  std::printf("fuzz_load: %lld executions, %lld accepted and walked\n",
              static_cast<long long>(executions), static_cast<long long>(num_accepted));
}

#endif

// The checked file format that arrays are kept in.
//
// File, little endian words: magic, version, checksum of all that follows, how many numbers, the
// numbers; then the arrays, each at a multiple of 64 bytes. Reading maps the file: nothing is
// copied or allocated by sizes the file claims, and processes that load one file share its pages.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "store_engine/base/array.h"

namespace store_engine {

constexpr uint64_t kMagic = 0x0a45495254525453;  // "STRTRIE\n"
constexpr uint64_t kVersion = 2;
constexpr size_t kAlignment = 64;
constexpr size_t kHeadWords = 4;    // magic, version, checksum, how many numbers follow
constexpr size_t kSummedFrom = 24;  // the checksum covers all bytes after itself

inline size_t padded(size_t nbytes, size_t multiple) {
  return (nbytes + multiple - 1) / multiple * multiple;
}

// A running checksum over 8-byte words. Each step is a bijection of the state, so a change in any
// single word always changes the result.
class Checksum {
 public:
  void add(const void* data, size_t nbytes) {  // a last part of a word is filled with zeros
    const char* bytes = static_cast<const char*>(data);
    for (size_t i = 0; i < nbytes; i += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, bytes + i, std::min(sizeof(word), nbytes - i));
      state_ = (state_ ^ word) * 0x9e3779b97f4a7c15;
      state_ ^= state_ >> 32;
    }
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = kVersion;
};

[[noreturn]] inline void throw_errno(const std::string& path) {
  throw std::system_error(errno, std::generic_category(), path);
}

// Closes a file descriptor when it goes out of scope.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// The folder that a file is in.
inline std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Creates a new file of an unpredictable name in a folder, follows no link that stands there, and
// sets `part` to its path. Returns the descriptor, or -1 with errno set.
inline int create_part(const std::string& folder, std::string& part) {
  constexpr int kAttempts = 100;
  std::random_device random;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    char name[32];
    std::snprintf(name, sizeof(name), "/.part-%08x%08x", random(), random());
    part = folder + name;
    const int fd = ::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0 || errno != EEXIST) return fd;
  }
  return -1;
}

// Writes a folder's entries to the disk, where the file system can. Throws std::system_error.
inline void sync_folder(const std::string& folder) {
  const FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 && errno == EACCES) return;  // files may be made here, but not listed
  if (fd.get() < 0 || (::fsync(fd.get()) != 0 && errno != EINVAL)) throw_errno(folder);
}

// Collects numbers and arrays, then writes them all: the numbers first.
class FileWriter {
 public:
  void number(int64_t value) { numbers_.push_back(static_cast<uint64_t>(value)); }
  // `values` must live until save().
  template <typename T>
  void array(const Array<T>& values) {
    if (values.size() > 0) pieces_.push_back({values.data(), values.nbytes()});
  }
  // Writes a new file beside `path` and renames it: `path` is the old file or the new one at any
  // moment, after a power cut too. Throws std::system_error if it cannot be written.
  void save(const std::string& path) const;

 private:
  struct Piece {
    const void* data;
    size_t nbytes;
  };
  std::vector<uint64_t> numbers_;
  std::vector<Piece> pieces_;
};

// Reads back what a FileWriter wrote, in the same order, and refuses anything else.
class FileReader {
 public:
  explicit FileReader(const std::string& path);
  // Throws std::invalid_argument unless the next number is in [low, high].
  int64_t number(int64_t low, int64_t high);
  template <typename T>
  Array<T> array(int64_t size);
  // Throws std::invalid_argument if anything is left.
  void finish() const { check(position_ == nbytes_, "bytes are left over"); }
  // Throws std::invalid_argument naming the file and `what` is wrong with it unless `ok`.
  void check(bool ok, const char* what) const {
    if (!ok) throw std::invalid_argument(path_ + ": not a valid trie file: " + what);
  }

 private:
  uint64_t word(size_t i) const {
    uint64_t value;
    std::memcpy(&value, file_.get() + i * sizeof(value), sizeof(value));
    return value;
  }

  std::string path_;
  std::shared_ptr<const char> file_;
  size_t nbytes_ = 0;
  size_t next_number_ = kHeadWords, end_of_numbers_ = 0;  // in words
  size_t position_ = 0;                                   // of the next array, in bytes
};

inline void FileWriter::save(const std::string& path) const {
  std::vector<uint64_t> head{kMagic, kVersion, 0, numbers_.size()};
  head.insert(head.end(), numbers_.begin(), numbers_.end());
  std::vector<Piece> pieces{{head.data(), head.size() * sizeof(head[0])}};
  pieces.insert(pieces.end(), pieces_.begin(), pieces_.end());

  static const char zeros[kAlignment] = {};
  Checksum checksum;
  for (const Piece& piece : pieces) {
    const size_t skip = piece.data == head.data() ? kSummedFrom : 0;
    checksum.add(static_cast<const char*>(piece.data) + skip, piece.nbytes - skip);
    checksum.add(zeros, padded(piece.nbytes, kAlignment) - padded(piece.nbytes, sizeof(uint64_t)));
  }
  head[2] = checksum.value();

  const std::string folder = folder_of(path);
  std::string part;
  const int fd = create_part(folder, part);
  if (fd < 0) throw_errno(path);
  std::FILE* file = ::fdopen(fd, "wb");
  bool ok = file != nullptr;
  for (const Piece& piece : pieces) {
    const size_t padding = padded(piece.nbytes, kAlignment) - piece.nbytes;
    ok = ok && std::fwrite(piece.data, 1, piece.nbytes, file) == piece.nbytes;
    ok = ok && std::fwrite(zeros, 1, padding, file) == padding;
  }
  ok = ok && std::fflush(file) == 0 && ::fsync(fd) == 0;
  const int error = errno;
  const bool closed = file != nullptr ? std::fclose(file) == 0 : ::close(fd) == 0;
  if (!ok || !closed || std::rename(part.c_str(), path.c_str()) != 0) {
    if (!ok) errno = error;
    const int kept = errno;
    ::unlink(part.c_str());
    errno = kept;
    throw_errno(path);
  }
  sync_folder(folder);
}

inline FileReader::FileReader(const std::string& path) : path_(path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status;
  if (fd.get() < 0 || ::fstat(fd.get(), &status) != 0) throw_errno(path);
  check(S_ISREG(status.st_mode), "not a regular file");
  nbytes_ = static_cast<size_t>(status.st_size);
  check(nbytes_ >= kAlignment && nbytes_ % kAlignment == 0, "wrong size, is it cut off?");
  void* mapped = ::mmap(nullptr, nbytes_, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED) throw_errno(path);
  file_ = std::shared_ptr<const char>(
      static_cast<const char*>(mapped),
      [mapped, size = nbytes_](const char*) { ::munmap(mapped, size); });
  check(word(0) == kMagic, "wrong magic");
  if (word(1) != kVersion) {
    throw std::invalid_argument(path + ": trie file version " + std::to_string(word(1)) +
                                ", this build reads version " + std::to_string(kVersion));
  }
  Checksum checksum;
  checksum.add(file_.get() + kSummedFrom, nbytes_ - kSummedFrom);
  check(word(2) == checksum.value(), "wrong checksum, it is damaged");
  check(word(3) <= nbytes_ / sizeof(uint64_t) - kHeadWords, "wrong header");
  end_of_numbers_ = kHeadWords + word(3);
  position_ = padded(end_of_numbers_ * sizeof(uint64_t), kAlignment);
}

inline int64_t FileReader::number(int64_t low, int64_t high) {
  check(next_number_ < end_of_numbers_, "wrong header");
  const auto value = static_cast<int64_t>(word(next_number_++));
  check(value >= low && value <= high, "a size is out of range");
  return value;
}

template <typename T>
Array<T> FileReader::array(int64_t size) {
  const auto count = static_cast<size_t>(size);
  check(count <= (nbytes_ - position_) / sizeof(T), "an array is cut off");
  Array<T> values(file_, file_.get() + position_, count);
  position_ += padded(values.nbytes(), kAlignment);
  return values;
}

}  // namespace store_engine

// What happens to locks and threads when the process forks.
//
// The child of fork() has a copy of the memory but only the thread that called fork(). A lock that
// another thread held stays locked there for ever, and a thread that is waited for never ends. So
// an object with locks or threads of its own has a ForkGuard: its locks are taken before the fork,
// so that the copy is consistent, and in the child it replaces what belonged to lost threads.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace store_engine {

class ForkGuard {
 public:
  struct Handlers {
    std::function<void()> before;     // takes the object's locks
    std::function<void()> in_parent;  // releases them
    std::function<void()> in_child;   // replaces locks and threads; must not wait for anything
  };

  explicit ForkGuard(Handlers handlers) : handlers_(std::move(handlers)) {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    registry().guards.push_back(this);
  }
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;
  ~ForkGuard() {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    std::vector<ForkGuard*>& guards = registry().guards;
    guards.erase(std::find(guards.begin(), guards.end(), this));
  }

  // Whether this process was forked after the library was loaded.
  static bool is_forked_child() { return registry().is_child.load(std::memory_order_relaxed); }

 private:
  struct Registry {
    Registry() {
      if (pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child) != 0) {
        throw std::bad_alloc();
      }
    }
    std::mutex mutex;
    std::vector<ForkGuard*> guards;
    std::atomic<bool> is_child{false};
  };
  static Registry& registry() {
    static Registry& made = *new Registry;  // never destroyed: a fork may come at any time
    return made;
  }
  static void before_fork() {
    registry().mutex.lock();
    for (const ForkGuard* guard : registry().guards) guard->handlers_.before();
  }
  static void after_fork_in_parent() {
    for (const ForkGuard* guard : registry().guards) guard->handlers_.in_parent();
    registry().mutex.unlock();
  }
  static void after_fork_in_child() {
    for (const ForkGuard* guard : registry().guards) guard->handlers_.in_child();
    registry().is_child = true;
    registry().mutex.unlock();
  }

  const Handlers handlers_;
};

// Watches from the time the library is loaded on.
inline const bool kWasForkedBeforeLoading = ForkGuard::is_forked_child();

}  // namespace store_engine

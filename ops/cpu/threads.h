// Work in equal pieces on as many threads as the caller says. Results never depend on that number.
//
// And what the functions of the C interface return: memory that cannot be had is all that they throw inside.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <new>
#include <thread>
#include <vector>

constexpr int DONE = 0, NO_MEMORY = -1;

// Calls `run(data)` on as many threads at a time as are wanted, and returns when all have returned.
//
// With the threads that torch itself has, where they are those of GNU's OpenMP, which torch brings along: others would
// compete with them, since they wait for their next work without sleeping. They are not there in a forked process.
inline void on_threads(int threads, void (*run)(void *), void *data) {
  using Team = void (*)(void (*)(void *), void *, unsigned, unsigned);
  static const Team team = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  static const pid_t owner = getpid();
  if (team && owner == getpid()) return team(run, data, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  for (int t = 1; t < threads; ++t) others.emplace_back(run, data);
  run(data);
  for (auto &thread : others) thread.join();
}

template <class Work>
void parallel_for(int64_t count, int threads, Work work) {
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i);
    return;
  }
  struct Share {
    Work &work;
    int64_t count;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
  } share{work, count};
  const auto run = [](void *data) {
    Share &share = *static_cast<Share *>(data);
    try {
      for (int64_t i; (i = share.next.fetch_add(1)) < share.count;) share.work(i);
    } catch (const std::exception &) {  // which must not leave a thread
      share.failed = true;
    }
  };
  on_threads(threads, run, &share);
  if (share.failed) throw std::bad_alloc();
}

// Work in equal pieces on as many threads as the caller says. Results never depend on that number.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

template <class Work>
void parallel_for(int64_t count, int threads, Work work) {
  if (threads > count) threads = static_cast<int>(count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) work(i);
    return;
  }
  std::atomic<int64_t> next{0};
  auto run = [&] {
    for (int64_t i; (i = next.fetch_add(1)) < count;) work(i);
  };
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  for (int t = 1; t < threads; ++t) others.emplace_back(run);
  run();
  for (auto &thread : others) thread.join();
}

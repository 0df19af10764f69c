// Memory that a thread keeps from call to call: what the system gives anew costs a page fault for every 4 kB.
#pragma once

#include <cstdint>
#include <memory>

// At least `count` of T, one such place for each T; what is in it is anything.
template <class T>
T *scratch(int64_t count) {
  static thread_local std::unique_ptr<T[]> memory;
  static thread_local int64_t size = 0;
  if (count > size) {
    memory.reset(new T[count]);
    size = count;
  }
  return memory.get();
}

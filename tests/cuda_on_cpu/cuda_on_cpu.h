// Lets g++ compile and run the text of a .cu file, so that kernels are proven without a GPU.
//
// One OS thread, one fiber per CUDA thread. Blocks run one after another; inside a block the
// fibers run in turn (forward, reverse or random order), each until it waits at a barrier or a
// warp collective. Shared memory is poisoned before every block. Errors that a kernel can make
// against the programming model (a barrier that not all threads reach, a partial warp mask) end
// the process with a message.
//
// Under -fsanitize=thread every fiber is a thread of its own for the detector, ordered by barriers
// and collectives alone: a missing barrier or a shared update without an atomic is a reported race.
// Neighbouring blocks run in two crews of fibers, which nothing orders from begin to end of a
// launch: so is an update of global memory without an atomic.
// Not seen here: launch limits, streams, time.
//
// Not offered on purpose: atomicAdd on float (its result depends on the order), partial masks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/mman.h>
#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_SWITCH_ASM
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_java_alloc(unsigned long begin, unsigned long bytes);
extern "C" void __tsan_java_free(unsigned long begin, unsigned long bytes);
#define CUDA_ON_CPU_TSAN(call) call
#else
#define CUDA_ON_CPU_TSAN(call)
#endif
// The scheduler must stay invisible to the race detector.
#define CUDA_ON_CPU_UNSEEN __attribute__((no_sanitize("thread"), noinline))

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;  // set at every fiber switch
constexpr int warpSize = 32;

namespace cuda_on_cpu {

constexpr size_t STACK_BYTES = 256 << 10;  // reserved; pages are taken as they are touched
enum Order { FORWARD, REVERSE, RANDOM };

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "cuda_on_cpu: %s (block %u,%u,%u thread %u,%u,%u)\n", what, blockIdx.x,
                 blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    std::abort();
}

// ---- fibers -------------------------------------------------------------------------------

// Threads that wait for one another: a block, or a warp.
struct Group {
    int members, arrived;
    unsigned generation;
    int line;  // where the first thread of this generation arrived
    char token[2];  // addresses for the race detector, by the generation's parity
};

struct Fiber {
    char* stack;
#if defined(CUDA_ON_CPU_SWITCH_ASM)
    void* saved;  // stack pointer
#else
    ucontext_t saved;
#endif
    void* tsan;
    dim3 index;
    Group* waits;
    unsigned generation;  // of the group it waits for
    bool done;
};

struct Warp {
    Group group;
    uint64_t slot[2][32];  // values to exchange, by the generation's parity
};

// The fibers that run a block. Blocks whose indices differ by one along one axis run in different
// crews; to the detector, those of one crew come one after another.
struct Crew {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Group block;
};

#if defined(__SANITIZE_THREAD__)
constexpr unsigned CREWS = 2;
#else
constexpr unsigned CREWS = 1;
#endif
static Crew crews[CREWS];
static Crew* crew = crews;  // of the block that runs
static Fiber scheduler;
static Fiber* current;
static void (*body)(void*);
static void* body_arguments;
static char begin_token, end_token;
static char* dynamic_shared;  // allocated at its exact size, so that overruns are found
static uint64_t random_state;

#if defined(CUDA_ON_CPU_SWITCH_ASM)
// Saves the callee-saved registers and the stack pointer, and resumes the other side.
extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.weak cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_on_cpu_switch,.-cuda_on_cpu_switch
)");
#endif

CUDA_ON_CPU_UNSEEN inline void switch_to(Fiber& from, Fiber& to) {
    current = &to;
    threadIdx = to.index;
    CUDA_ON_CPU_TSAN(__tsan_switch_to_fiber(to.tsan, 1));  // 1: a switch orders nothing
#if defined(CUDA_ON_CPU_SWITCH_ASM)
    cuda_on_cpu_switch(&from.saved, to.saved);
#else
    swapcontext(&from.saved, &to.saved);
#endif
}

CUDA_ON_CPU_UNSEEN inline void release_group(Group& group) {
    group.arrived = 0;
    group.generation++;
}

CUDA_ON_CPU_UNSEEN inline void leave(Group& group) {  // a finished thread is waited for no more
    group.members--;
    if (group.members > 0 && group.arrived == group.members) release_group(group);
}

CUDA_ON_CPU_UNSEEN inline void wait(Group& group, int line) {
    const unsigned generation = group.generation;
    char* token = &group.token[generation & 1];
    if (group.arrived == 0) group.line = line;
    if (group.line != line) fail("threads wait at different barriers or collectives");
    CUDA_ON_CPU_TSAN(__tsan_release(token));
    if (++group.arrived == group.members) {
        release_group(group);
    } else {
        current->waits = &group;
        current->generation = generation;
        switch_to(*current, scheduler);
    }
    CUDA_ON_CPU_TSAN(__tsan_acquire(token));
}

CUDA_ON_CPU_UNSEEN inline Warp& warp_of(const Fiber* fiber) {
    return crew->warps[(fiber - crew->fibers.data()) / warpSize];
}

CUDA_ON_CPU_UNSEEN inline void fiber_main() {
    CUDA_ON_CPU_TSAN(__tsan_acquire(&begin_token));
    body(body_arguments);
    CUDA_ON_CPU_TSAN(__tsan_release(&end_token));
    current->done = true;
    leave(crew->block);
    leave(warp_of(current).group);
    switch_to(*current, scheduler);
    fail("a finished thread was resumed");
}

CUDA_ON_CPU_UNSEEN inline void make_stack(Fiber& fiber) {
    fiber.stack = static_cast<char*>(mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (fiber.stack == MAP_FAILED) fail("no memory for a thread's stack");
    CUDA_ON_CPU_TSAN(fiber.tsan = __tsan_create_fiber(0));
}

CUDA_ON_CPU_UNSEEN inline void prepare(Fiber& fiber) {
    fiber.done = false;
    fiber.waits = nullptr;
#if defined(CUDA_ON_CPU_SWITCH_ASM)
    // As if fiber_main had been called: six registers, its address, and a 16-byte aligned frame.
    void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES) - 2;
    top[0] = reinterpret_cast<void*>(&fiber_main);
    top[1] = nullptr;
    fiber.saved = top - 6;
#else
    getcontext(&fiber.saved);
    fiber.saved.uc_stack.ss_sp = fiber.stack;
    fiber.saved.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber.saved, fiber_main, 0);
#endif
}

// ---- launching ----------------------------------------------------------------------------

extern "C" char __start_cuda_shared[] __attribute__((weak));
extern "C" char __stop_cuda_shared[] __attribute__((weak));

CUDA_ON_CPU_UNSEEN __attribute__((no_sanitize("address"))) inline void poison(char* begin,
                                                                              char* end) {
    volatile uint64_t* word = reinterpret_cast<uint64_t*>(begin);  // both starts are aligned
    for (; reinterpret_cast<volatile char*>(word + 1) <= end; ++word) *word = 0xA5A5A5A5A5A5A5A5u;
    volatile char* byte = reinterpret_cast<volatile char*>(word);
    for (; byte < end; ++byte) *byte = static_cast<char>(0xA5);
#if defined(__SANITIZE_THREAD__)
    // Each block's shared memory is its own. The detector forgets what it saw of the last one's by
    // its interface for heaps that use memory again.
    if (begin != end) {
        __tsan_java_free(reinterpret_cast<uintptr_t>(begin), end - begin);
        __tsan_java_alloc(reinterpret_cast<uintptr_t>(begin), end - begin);
    }
#endif
}

CUDA_ON_CPU_UNSEEN inline uint64_t next_random() {  // xorshift64
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

CUDA_ON_CPU_UNSEEN inline void run_block(Order order, size_t shared_bytes) {
    const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    poison(__start_cuda_shared, __stop_cuda_shared);
    poison(dynamic_shared, dynamic_shared + shared_bytes);
    crew = &crews[(blockIdx.x + blockIdx.y + blockIdx.z) % CREWS];
    crew->block = {threads, 0, 0, 0, {}};
    for (size_t w = 0; w < crew->warps.size(); ++w) {
        const int members = std::min(warpSize, threads - static_cast<int>(w) * warpSize);
        crew->warps[w].group = {members, 0, 0, 0, {}};
    }
    std::vector<int> turn(threads);
    for (int i = 0; i < threads; ++i) {
        prepare(crew->fibers[i]);
        const unsigned t = i;
        crew->fibers[i].index = {t % blockDim.x, t / blockDim.x % blockDim.y,
                                 t / blockDim.x / blockDim.y};
        turn[i] = order == REVERSE ? threads - 1 - i : i;
    }
    CUDA_ON_CPU_TSAN(__tsan_release(&begin_token));
    for (int running = threads; running > 0;) {
        if (order == RANDOM) {
            for (int i = threads - 1; i > 0; --i) std::swap(turn[i], turn[next_random() % (i + 1)]);
        }
        bool progress = false;
        for (const int i : turn) {
            Fiber& fiber = crew->fibers[i];
            if (fiber.done || (fiber.waits && fiber.waits->generation == fiber.generation)) continue;
            fiber.waits = nullptr;
            switch_to(scheduler, fiber);
            running -= fiber.done;
            progress = true;
        }
        if (!progress) fail("deadlock: some threads wait at a barrier, others elsewhere");
    }
}

CUDA_ON_CPU_UNSEEN inline void launch(void (*kernel)(void*), void* arguments, dim3 grid,
                                      dim3 threads, size_t shared_bytes, Order order,
                                      uint64_t seed) {
    const size_t n = static_cast<size_t>(threads.x) * threads.y * threads.z;
    blockDim = threads;
    gridDim = grid;
    if (n == 0 || n > 1024) fail("a block has 1 to 1024 threads");
    for (Crew& each : crews) {
        while (each.fibers.size() < n) {
            each.fibers.emplace_back();
            make_stack(each.fibers.back());
        }
        each.warps.resize((n + warpSize - 1) / warpSize);
    }
    body = kernel;
    body_arguments = arguments;
    random_state = seed * 2654435761u + 88172645463325252u;
    CUDA_ON_CPU_TSAN(scheduler.tsan = __tsan_get_current_fiber());
    if (posix_memalign(reinterpret_cast<void**>(&dynamic_shared), 16, shared_bytes)) {
        fail("no memory for dynamic shared memory");
    }
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                run_block(order, shared_bytes);
            }
        }
    }
    CUDA_ON_CPU_TSAN(__tsan_acquire(&end_token));
    std::free(dynamic_shared);
    dynamic_shared = nullptr;
}

// ---- argument types, for Python to check ------------------------------------------------------

// A NumPy type code: "i4", "f4", "u1"; vectors are arrays of their element ("u1" for uchar4).
template <typename T>
std::string type_code() {
    if constexpr (std::is_class_v<T>) {
        return type_code<decltype(T::x)>();
    } else {
        const char kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
        return kind + std::to_string(sizeof(T));
    }
}

template <typename T>
std::string argument_code() {  // "f4" a value, "*f4" written through, "*const f4" only read
    if constexpr (std::is_pointer_v<T>) {
        using Element = std::remove_pointer_t<T>;
        return (std::is_const_v<Element> ? "*const " : "*") +
               type_code<std::remove_const_t<Element>>();
    } else {
        return type_code<T>();
    }
}

template <typename... Arguments>
std::string argument_codes(void (*)(Arguments...)) {
    std::string codes;
    ((codes += argument_code<Arguments>() + ","), ...);
    return codes;
}

template <auto Kernel, typename... Arguments, size_t... I>
CUDA_ON_CPU_UNSEEN void call(void** values, void (*)(Arguments...), std::index_sequence<I...>) {
    Kernel(*static_cast<Arguments*>(values[I])...);
}

template <auto Kernel, typename... Arguments>
CUDA_ON_CPU_UNSEEN void call(void** values, void (*kernel)(Arguments...)) {
    call<Kernel>(values, kernel, std::index_sequence_for<Arguments...>());
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_EXPORT(kernel)                                                             \
    extern "C" const char* kernel##_arguments() {                                              \
        static const std::string codes = cuda_on_cpu::argument_codes(&kernel);                 \
        return codes.c_str();                                                                  \
    }                                                                                          \
    extern "C" void kernel##_launch(void** values, const unsigned* grid, const unsigned* block, \
                                    size_t shared_bytes, int order, uint64_t seed) {           \
        cuda_on_cpu::launch(                                                                   \
            [](void* v) { cuda_on_cpu::call<&kernel>(static_cast<void**>(v), &kernel); },      \
            values, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, \
            static_cast<cuda_on_cpu::Order>(order), seed);                                     \
    }

// ---- the language ---------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
// Not inside templates: GCC ignores the section there, and the poison would miss the variable.
#define __shared__ static __attribute__((section("cuda_shared")))
// `extern __shared__ T name[];` is rewritten to this by the harness.
#define CUDA_ON_CPU_DYNAMIC(T, name) T* const name = reinterpret_cast<T*>(cuda_on_cpu::dynamic_shared)

#define __syncthreads() cuda_on_cpu::wait(cuda_on_cpu::crew->block, __LINE__)

struct alignas(2) uchar2 { unsigned char x, y; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    return b < a ? b : a;
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    return a < b ? b : a;
}
template <typename T>
T __ldg(const T* address) {
    return *address;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::rint(x)); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(std::rint(x)); }
inline long long __float2ll_rn(float x) { return static_cast<long long>(std::rint(x)); }
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
// As CUDA's and libm's (a NaN loses), but without a call: they are in inner loops.
inline float cuda_on_cpu_fminf(float a, float b) {
    const float least = a < b ? a : b;
    return b == b ? least : a;
}
inline float cuda_on_cpu_fmaxf(float a, float b) {
    const float most = a > b ? a : b;
    return b == b ? most : a;
}
#define fminf cuda_on_cpu_fminf
#define fmaxf cuda_on_cpu_fmaxf
using std::fabs;
using std::floor;
using std::fmax;
using std::fmin;
using std::rint;
using std::sqrt;

// Atomics: relaxed, as in CUDA. Integers only.
template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
    static_assert(std::is_integral_v<T>, "atomicAdd on float depends on the order of threads");
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicOr(T* address, std::common_type_t<T> value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    return expected;  // what was there
}
template <typename T>
T atomicMax(T* address, std::common_type_t<T> value) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(address, &old, value, false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <typename T>
T atomicMin(T* address, std::common_type_t<T> value) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (value < old && !__atomic_compare_exchange_n(address, &old, value, false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

// The same updates without atomicity: a mutation run puts `plain::` before a call.
namespace plain {
template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
    return std::exchange(*address, *address + value);
}
template <typename T>
T atomicMax(T* address, std::common_type_t<T> value) {
    return std::exchange(*address, max(*address, value));
}
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
    return std::exchange(*address, *address == expected ? value : *address);
}
}  // namespace plain

// Warp collectives: every lane gives a value, waits for the warp, and reads what it needs.
namespace cuda_on_cpu {

struct Exchange {
    const uint64_t* slot;
    int lane;
};

CUDA_ON_CPU_UNSEEN inline Exchange exchange(unsigned mask, uint64_t value, int line) {
    if (mask != 0xffffffffu) fail("warp collectives are supported for the full mask only");
    Warp& warp = warp_of(current);
    if (warp.group.members != warpSize) fail("a warp collective needs 32 running lanes");
    const int own = static_cast<int>(current - crew->fibers.data()) % warpSize;
    uint64_t* slot = warp.slot[warp.group.generation & 1];
    slot[own] = value;
    wait(warp.group, line);
    return {slot, own};
}

template <typename T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <typename T>
CUDA_ON_CPU_UNSEEN T read_lane(const Exchange& all, int lane, int width) {
    // A source outside the sub-warp, as in CUDA, gives the thread's own value.
    const bool inside = lane >= 0 && lane / width == all.lane / width;
    T value;
    __builtin_memcpy(&value, &all.slot[inside ? lane : all.lane], sizeof value);
    return value;
}

CUDA_ON_CPU_UNSEEN inline unsigned ballot(const Exchange& all) {
    unsigned bits = 0;
    for (int lane = 0; lane < warpSize; ++lane) bits |= unsigned(all.slot[lane] != 0) << lane;
    return bits;
}

template <typename T>
CUDA_ON_CPU_UNSEEN T sum(const Exchange& all) {
    T total = 0;
    for (int lane = 0; lane < warpSize; ++lane) total += static_cast<T>(all.slot[lane]);
    return total;
}

template <typename T>
T shuffle_xor(unsigned mask, T value, int lanes, int width, int line) {
    const Exchange all = exchange(mask, to_bits(value), line);
    return read_lane<T>(all, all.lane ^ lanes, width);
}
template <typename T>
T shuffle_down(unsigned mask, T value, unsigned delta, int width, int line) {
    const Exchange all = exchange(mask, to_bits(value), line);
    return read_lane<T>(all, all.lane + static_cast<int>(delta), width);
}
template <typename T>
T shuffle_up(unsigned mask, T value, unsigned delta, int width, int line) {
    const Exchange all = exchange(mask, to_bits(value), line);
    return read_lane<T>(all, all.lane - static_cast<int>(delta), width);
}
template <typename T>
T shuffle(unsigned mask, T value, int lane, int width, int line) {
    const Exchange all = exchange(mask, to_bits(value), line);
    return read_lane<T>(all, all.lane / width * width + lane % width, width);
}
inline int default_width(int width = warpSize) { return width; }

}  // namespace cuda_on_cpu

// Macros, for the line; the optional last argument is the width.
#define __shfl_xor_sync(mask, value, lanes, ...) \
    cuda_on_cpu::shuffle_xor(mask, value, lanes, cuda_on_cpu::default_width(__VA_ARGS__), __LINE__)
#define __shfl_down_sync(mask, value, delta, ...) \
    cuda_on_cpu::shuffle_down(mask, value, delta, cuda_on_cpu::default_width(__VA_ARGS__), __LINE__)
#define __shfl_up_sync(mask, value, delta, ...) \
    cuda_on_cpu::shuffle_up(mask, value, delta, cuda_on_cpu::default_width(__VA_ARGS__), __LINE__)
#define __shfl_sync(mask, value, lane, ...) \
    cuda_on_cpu::shuffle(mask, value, lane, cuda_on_cpu::default_width(__VA_ARGS__), __LINE__)
#define __ballot_sync(mask, predicate) \
    cuda_on_cpu::ballot(cuda_on_cpu::exchange(mask, (predicate) != 0, __LINE__))
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __reduce_add_sync(mask, value) \
    cuda_on_cpu::sum<decltype(value)>(cuda_on_cpu::exchange(mask, static_cast<uint64_t>(value), __LINE__))
#define __syncwarp() cuda_on_cpu::exchange(0xffffffffu, 0, __LINE__)

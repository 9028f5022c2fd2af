// Sums and maxima of a warp, and 64-bit sums. Integers only: no result depends on an order.

constexpr unsigned WHOLE_WARP = 0xffffffffu;

__device__ inline unsigned warp_sum(unsigned value) {
    for (int lanes = warpSize / 2; lanes > 0; lanes /= 2) {
        value += __shfl_xor_sync(WHOLE_WARP, value, lanes);
    }
    return value;
}

// For values below 2^54: summed as two halves of 27 bits, which leave room for 32 lanes.
__device__ inline long long warp_sum(long long value) {
    constexpr int BITS = 27;
    const unsigned low = warp_sum(static_cast<unsigned>(value & ((1 << BITS) - 1)));
    const unsigned high = warp_sum(static_cast<unsigned>(value >> BITS));
    return (static_cast<long long>(high) << BITS) + low;
}

template <typename T>
__device__ T warp_max(T value) {
    for (int lanes = warpSize / 2; lanes > 0; lanes /= 2) {
        value = max(value, __shfl_xor_sync(WHOLE_WARP, value, lanes));
    }
    return value;
}

__device__ inline bool first_lane() { return threadIdx.x % warpSize == 0; }

__device__ inline void atomic_add(long long* sum, long long value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}

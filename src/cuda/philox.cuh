// Place of an element -> whether dropout keeps it.
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten rounds of multiplications keyed by the
// seed turn a counter into 128 random bits, so forward and backward pass compute the same mask anew and none is stored.
#pragma once
#include "vector.cuh"

/// As the Rust type `Dropout` lays it out: 24 bytes.
struct Dropout {
    uint32_t seed_low, seed_high, step, site;
    /// Of 65,536 elements so many are dropped; with 0 no random number is made.
    uint32_t threshold;
    /// Factor on those kept.
    float scale;
};

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
    constexpr uint32_t MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u, WEYL_0 = 0x9E3779B9u, WEYL_1 = 0xBB67AE85u;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t product_0 = static_cast<uint64_t>(MULTIPLIER_0) * counter.x;
        const uint64_t product_1 = static_cast<uint64_t>(MULTIPLIER_1) * counter.z;
        counter = make_uint4(static_cast<uint32_t>(product_1 >> 32) ^ counter.y ^ key.x, static_cast<uint32_t>(product_1),
                             static_cast<uint32_t>(product_0 >> 32) ^ counter.w ^ key.y, static_cast<uint32_t>(product_0));
        key.x += WEYL_0, key.y += WEYL_1;
    }
    return counter;
}

/// Multiplies the eight elements from `8 * eight` on (row by row, so a function of row, column and width alone) by 0 or the scale.
/// One counter serves all eight: 16 random bits decide on one element.
__device__ __forceinline__ void drop_eight(const Dropout& dropout, uint64_t eight, float (&x)[EIGHT]) {
    const uint4 counter =
        make_uint4(static_cast<uint32_t>(eight), static_cast<uint32_t>(eight >> 32), dropout.site, dropout.step);
    const uint4 random = philox4x32_10(counter, make_uint2(dropout.seed_low, dropout.seed_high));
    const uint32_t words[4] = {random.x, random.y, random.z, random.w};
#pragma unroll
    for (int i = 0; i < EIGHT; ++i) {
        const uint32_t bits = i % 2 == 0 ? words[i / 2] & 0xffffu : words[i / 2] >> 16;
        x[i] = bits >= dropout.threshold ? x[i] * dropout.scale : 0.f;
    }
}

// Warp-wide matrix products of 16-bit floats with f32 sums (PTX ISA, `mma.sync.m16n8k16`), and how their operands get
// from global memory into registers. Lanes of a warp: g = lane / 4 (0..8) and t = lane % 4. Every register holds two
// neighbouring 16-bit values, the lower column in the lower half.
//   A [16 x 16], rows by k:  a0 = (g, 2t), a1 = (g + 8, 2t), a2 = (g, 2t + 8), a3 = (g + 8, 2t + 8)
//   B [16 x 8],  k by cols:  b0 = (2t and 2t + 1, g), b1 = (2t + 8 and 2t + 9, g)
//   C [16 x 8],  f32:        c0, c1 = (g, 2t), (g, 2t + 1); c2, c3 = (g + 8, 2t), (g + 8, 2t + 1)
// So two neighbouring C tiles, packed, are an A: a0 = (c0, c1) and a1 = (c2, c3) of the left one, a2 and a3 of the
// right one.
#pragma once

#include "vector.cuh"

// c += a b.
template <typename T>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void multiply_add<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                                            uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices from shared memory; lane 8 i + j gives the address of row j of matrix i (16 bytes), and gets of
// every matrix the pair (g, 2t). Of a [16 x 16] block M, stored row by row,
//   * with the addresses row = lane % 16, 16-byte chunk = lane / 16, the four registers are A = M in the order a0, a1,
//   a2, a3;
//   * with row = lane % 8 + lane / 16 * 8, chunk = lane / 8 % 2, they are B = transpose(M): (r0, r1) for M's rows 0..8,
//   (r2, r3) for 8..16.
// The second order is there because the two halves of B must lie in neighbouring registers.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// The same with each 8 x 8 matrix transposed, so that a lane gets the pair (2t and 2t + 1, g). With the first addresses
// the registers are B = M, M's rows being k: (r0, r1) for its columns 0..8, (r2, r3) for 8..16.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes; both addresses are multiples of 16. Around L1: a block reads its rows once.
__device__ __forceinline__ void copy_16_bytes(uint32_t to_shared, const void* from_global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to_shared), "l"(from_global) : "memory");
}

// Waits for the copies that this thread started; the other threads' need a barrier after it.
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// 2^x by the special function unit, relative error 2^-22; 0 for minus infinity.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Transposes a 4 x 4 matrix of registers held by the four lanes of one g: lane t gives its row t and gets its column t.
__device__ __forceinline__ void transpose_in_quad(uint32_t (&v)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? v[i] : v[i + 1], 1);
        v[i] = odd ? other : v[i];
        v[i + 1] = odd ? v[i + 1] : other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? v[i] : v[i + 2], 2);
        v[i] = upper ? other : v[i];
        v[i + 2] = upper ? v[i + 2] : other;
    }
}

__device__ __forceinline__ float sum_in_quad(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float max_in_quad(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// What a block of the attention kernels works on: fragments of 16 rows, one a warp, and tiles of one head's rows in
// shared memory, with the products of one by the other. A block copies the rows that its warps attend to (its range) to
// such tiles, and each warp walks through its own sequence's rows there, from the sequence's start: what a sequence
// gets does not depend, not even in rounding, on its neighbours in the batch.
#pragma once

#include "tensor_core.cuh"

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;

// Rows [first, first + 16) of the sequence [start, end); range_end is the same in all fragments of a tile. An idle warp
// has first = end.
struct Fragment {
    unsigned first, start, end, range_end;
};

__device__ __forceinline__ Fragment load_fragment(const uint4* tiles, unsigned tile, unsigned warp, unsigned rows) {
    uint4 f = tiles[tile * WARPS + warp];
    if (f.w > rows) {
        __trap();  // a list made for another batch
    }
    return {f.x, f.y, f.z, f.w};
}

// A matrix of ROWS rows of one head in shared memory. 16-byte chunks of a row are swizzled (exclusive or with bits
// of the row's number), so that any 8 neighbouring rows have one and the same chunk in 8 different groups of 4 banks:
// what ldmatrix reads at a time.
template <typename Number, int COLUMNS>
struct Tile {
    using T = Number;
    static constexpr int WIDTH = COLUMNS;
    using Operands = uint32_t[WIDTH / 16][4];  // 16 rows as A, for blocks of 16 columns
    using Sums = float[WIDTH / 8][4];          // 16 rows as C, for blocks of 8 columns
    static constexpr int CHUNKS = WIDTH / 8;
    static constexpr int ROWS = 8192 / WIDTH;  // 16 KiB
    static constexpr int BYTES = ROWS * WIDTH * 2;
    static constexpr int COPIES = ROWS * CHUNKS / THREADS;  // per thread

    static __device__ __forceinline__ unsigned swizzle(unsigned row) { return CHUNKS == 4 ? (row >> 1) & 3 : row & 7; }

    static __device__ __forceinline__ unsigned offset(unsigned row, unsigned chunk) {
        return row * (WIDTH * 2) + ((chunk ^ swizzle(row)) << 4);
    }

    // Starts the copy of rows [0, count) from `from`, whose rows are `stride` values apart, to the tile at this address
    // of shared memory.
    static __device__ __forceinline__ void copy(uint32_t tile, const T* from, size_t stride, unsigned count) {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            unsigned item = i * THREADS + threadIdx.x, row = item / CHUNKS, chunk = item % CHUNKS;
            if (row < count) {
                copy_16_bytes(tile + offset(row, chunk), from + row * stride + chunk * 8);
            }
        }
    }

    // This lane's addresses in the [16, 16] blocks of rows [row, row + 16) of tiles that lie one after another from
    // `tiles` on, as load_matrices wants them for A and for B = transpose(block). Rows from `end` on become row end -
    // 1: finite numbers of the same sequence, which are masked or never stored. The chunks of block b are those of
    // block 0 exclusive or 2 b, in the swizzled order too.
    struct Lane {
        uint32_t rows, columns;

        __device__ __forceinline__ Lane(uint32_t tiles, unsigned row, unsigned end) {
            const unsigned lane = threadIdx.x % 32;
            rows = tiles + offset(min(row + lane % 16, end - 1), lane / 16);
            columns = tiles + offset(min(row + lane % 8 + lane / 16 * 8, end - 1), lane / 8 % 2);
        }

        __device__ __forceinline__ uint32_t by_rows(int tile, int block) const {
            return (rows ^ (32 * block)) + tile * BYTES;
        }
        __device__ __forceinline__ uint32_t by_columns(int tile, int block) const {
            return (columns ^ (32 * block)) + tile * BYTES;
        }

        // To rows further down, all 16 of which exist: a multiple of 16 rows changes no swizzle.
        __device__ __forceinline__ void advance(unsigned count) {
            rows += count * (WIDTH * 2);
            columns += count * (WIDTH * 2);
        }
    };

    // The 16 rows at `lane` as A operands.
    static __device__ __forceinline__ void fragments(Operands& a, const Lane& lane, int tile) {
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block++) {
            load_matrices(a[block], lane.by_rows(tile, block));
        }
    }

    // c += a transpose(the 16 rows at `lane`): [16, 16], in two C tiles.
    static __device__ __forceinline__ void scores(float (&c)[2][4], const Operands& a, const Lane& lane, int tile) {
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block++) {
            uint32_t b[4];
            load_matrices(b, lane.by_columns(tile, block));
            multiply_add<T>(c[0], a[block], b[0], b[1]);
            multiply_add<T>(c[1], a[block], b[2], b[3]);
        }
    }

    // c += a (the 16 rows at `lane`): [16, WIDTH].
    static __device__ __forceinline__ void weighted_sum(Sums& c, const uint32_t (&a)[4], const Lane& lane, int tile) {
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block++) {
            uint32_t b[4];
            load_matrices_transposed(b, lane.by_rows(tile, block));
            multiply_add<T>(c[2 * block], a, b[0], b[1]);
            multiply_add<T>(c[2 * block + 1], a, b[2], b[3]);
        }
    }
};

// Rows [first, first + 16) from global memory as A operands; rows from `end` on become row end - 1. Lane t reads chunks
// t, t + 4... of its rows and exchanges them within its quad: 16-byte loads, no shared memory.
template <typename Rows>
__device__ __forceinline__ void load_rows(typename Rows::Operands& a, const typename Rows::T* from, size_t stride,
                                          unsigned first, unsigned end) {
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const typename Rows::T* row = from + min(first + g + 8 * half, end - 1) * stride;
#pragma unroll
        for (int block = 0; block < Rows::WIDTH / 16; block += 2) {
            uint4 chunk = load_eight(row, block * 2 + t);
            uint32_t v[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
            transpose_in_quad(v);
            a[block][half] = v[0];
            a[block][half + 2] = v[1];
            a[block + 1][half] = v[2];
            a[block + 1][half + 2] = v[3];
        }
    }
}

// Stores those of 16 rows that lie before `end`, the values times factor[0] for rows g and factor[1] for rows g + 8:
// load_rows backwards.
template <typename Rows>
__device__ __forceinline__ void store_rows(typename Rows::T* to, size_t stride, unsigned first, unsigned end,
                                           const typename Rows::Sums& c, const float (&factor)[2]) {
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const unsigned row = first + g + 8 * half;
#pragma unroll
        for (int group = 0; group < Rows::WIDTH / 8; group += 4) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[i] = narrow_pair<typename Rows::T>(c[group + i][2 * half] * factor[half],
                                                     c[group + i][2 * half + 1] * factor[half]);
            }
            transpose_in_quad(v);
            if (row < end) {
                store_eight(to + row * stride, group + t, make_uint4(v[0], v[1], v[2], v[3]));
            }
        }
    }
}

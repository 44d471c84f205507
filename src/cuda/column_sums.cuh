// Which rows and columns of [rows, width] a block adds up in the first stage of column sums, and where its sums go.
// A block has 128 columns (16 threads, eight each) of a band of neighbouring rows, 16 of them at a time.
#pragma once
#include "vector.cuh"

constexpr int BAND_THREADS = 256, BAND_COLUMN_THREADS = 16, BAND_ROWS = BAND_THREADS / BAND_COLUMN_THREADS;

/// The grid is [tiles of 128 columns, bands].
struct ColumnBand {
    /// This thread's first row and how many rows it has, every BAND_ROWS-th; its eight of columns, of so many.
    uint32_t first, count, eight, eights;

    __device__ __forceinline__ ColumnBand(uint32_t rows, uint32_t width) {
        const uint32_t height = (rows + gridDim.y - 1) / gridDim.y;
        first = blockIdx.y * height + threadIdx.x / BAND_COLUMN_THREADS;
        const uint32_t end = min(rows, (blockIdx.y + 1) * height);
        eight = blockIdx.x * BAND_COLUMN_THREADS + threadIdx.x % BAND_COLUMN_THREADS;
        eights = width / EIGHT;
        count = first < end && eight < eights ? (end - first + BAND_ROWS - 1) / BAND_ROWS : 0;
    }

    /// Where the `i`-th of this thread's eights lies.
    __device__ __forceinline__ size_t place(uint32_t i) const { return static_cast<size_t>(first + i * BAND_ROWS) * eights + eight; }

    /// Adds up the block's threads in order and writes one row of `partials` [bands, width].
    __device__ __forceinline__ void write(const float (&sums)[EIGHT], float* partials) const {
        __shared__ alignas(16) float shared[BAND_ROWS][BAND_COLUMN_THREADS * EIGHT];
        store_floats(shared[threadIdx.x / BAND_COLUMN_THREADS], threadIdx.x % BAND_COLUMN_THREADS, sums);
        __syncthreads();
        const uint32_t column = threadIdx.x, place = blockIdx.x * BAND_COLUMN_THREADS * EIGHT + column;
        if (column < BAND_COLUMN_THREADS * EIGHT && place < eights * EIGHT) {
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < BAND_ROWS; ++i) sum += shared[i][column];
            partials[static_cast<size_t>(blockIdx.y) * eights * EIGHT + place] = sum;
        }
    }
};

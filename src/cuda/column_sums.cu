// [rows, width] -> the sum of each column, 32-bit: gradients of biases, and of whatever else is added to every row.
// Two stages, so that the order of the sums depends on the sizes alone: blocks add up bands of rows, then a second kernel adds the bands.
#include "column_sums.cuh"

template <typename T>
__device__ __forceinline__ void column_sums(const T* x, float* partials, uint32_t rows, uint32_t width) {
    const ColumnBand band(rows, width);
    float sums[EIGHT] = {};
#pragma unroll 4
    for (uint32_t i = 0; i < band.count; ++i) {
        float values[EIGHT];
        widen_eight<T>(load_eight(x, band.place(i)), values);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) sums[j] += values[j];
    }
    band.write(sums, partials);
}

extern "C" __global__ void __launch_bounds__(BAND_THREADS)
    column_sums_bf16(const __nv_bfloat16* x, float* partials, uint32_t rows, uint32_t width) {
    column_sums(x, partials, rows, width);
}

extern "C" __global__ void __launch_bounds__(BAND_THREADS)
    column_sums_f16(const __half* x, float* partials, uint32_t rows, uint32_t width) {
    column_sums(x, partials, rows, width);
}

/// The second stage: `partials` [parts, outputs * width], the sums of its first `width` columns go to `first`, of the next to `second`, and so on.
/// A block of 32 x 8 threads has 32 columns; a null output is skipped.
extern "C" __global__ void __launch_bounds__(256)
    finish_columns(const float* partials, float* first, float* second, float* third, uint32_t parts, uint32_t outputs,
                   uint32_t width) {
    __shared__ float shared[8][32];
    float* out = blockIdx.y == 0 ? first : blockIdx.y == 1 ? second : third;
    if (!out) return;
    const uint32_t column = blockIdx.x * 32 + threadIdx.x;
    const size_t stride = static_cast<size_t>(outputs) * width;
    float sum = 0.f;
    if (column < width) {
        const float* from = partials + static_cast<size_t>(blockIdx.y) * width + column;
#pragma unroll 8
        for (uint32_t part = threadIdx.y; part < parts; part += 8) sum += from[part * stride];
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int i = 1; i < 8; ++i) sum += shared[i][threadIdx.x];
        out[column] = sum;
    }
}

// Ids and positions -> dropout(LayerNorm(word + position + type)), and gradients of tables, type row, weight and bias.
// The backward pass computes the sum of the three rows anew instead of keeping it: the tables lie in the L2 cache, the sum would not.
// Its second half adds rows of the same id: blocks sum chunks of rows that the host has sorted; an id of several chunks leaves partial
// sums that a last kernel adds up, so no id has atomics and the order of every sum is fixed.
#include "layer_norm.cuh"
#include "philox.cuh"

/// The sum of the rows, before LayerNorm. An id or position outside of its table makes it NaN, so that it cannot go unnoticed.
template <typename T, int LANES, int EIGHTS>
__device__ __forceinline__ void embed(Row<LANES, EIGHTS>& row, uint32_t id, uint32_t position, const T* words, const T* positions,
                                      const T* type, uint32_t vocab, uint32_t longest) {
    const bool known = id < vocab && position < longest;
    const size_t eights = row.width / EIGHT, word_start = known ? id * eights : 0, position_start = known ? position * eights : 0;
    uint4 raw_word[EIGHTS], raw_position[EIGHTS], raw_type[EIGHTS];
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
        raw_word[i] = raw_position[i] = raw_type[i] = make_uint4(0, 0, 0, 0);
        if (!row.holds(i)) continue;
        raw_word[i] = load_eight(words, word_start + row.eight(i));
        raw_position[i] = load_eight(positions, position_start + row.eight(i));
        if (type) raw_type[i] = load_eight(type, row.eight(i));
    }
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
        float position_values[EIGHT], type_values[EIGHT];
        widen_eight<T>(raw_word[i], row.values[i]);
        widen_eight<T>(raw_position[i], position_values);
        widen_eight<T>(raw_type[i], type_values);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j)
            row.values[i][j] = known ? row.values[i][j] + position_values[j] + type_values[j] : NAN;
    }
}

template <typename T, int LANES, int EIGHTS>
__device__ __forceinline__ void forward(const uint32_t* ids, const uint32_t* places, const T* words, const T* positions, const T* type,
                                        const float* weight, const float* bias, float epsilon, Dropout dropout, float2* statistics, T* out, uint32_t rows, uint32_t width, uint32_t vocab, uint32_t longest) {
    Row<LANES, EIGHTS> row(width);
    const uint32_t index = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    const size_t start = static_cast<size_t>(index) * (width / EIGHT);
    const bool inside = index < rows;
    embed(row, inside ? ids[index] : 0, inside ? places[index] : 0, words, positions, type, vocab, longest);
    const float2 own_statistics = row.statistics(epsilon);
    if (!inside) return;
    if (statistics && row.lane == 0) statistics[index] = own_statistics;
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
        float result[EIGHT];
        row.normalise(i, own_statistics, weight, bias, result);
        if (dropout.threshold != 0) drop_eight(dropout, start + row.eight(i), result);
        if (row.holds(i)) store_eight(out, start + row.eight(i), narrow_eight<T>(result));
    }
}

template <typename T, int LANES, int EIGHTS>
__device__ __forceinline__ void backward(T* grad, const uint32_t* ids, const uint32_t* places, const T* words, const T* positions,
                                         const T* type, const float* weight, Dropout dropout, const float2* statistics,
                                         float* partials, uint32_t rows, uint32_t width, uint32_t vocab, uint32_t longest) {
    __shared__ alignas(16) float shared[COLUMN_SUM_FLOATS];
    constexpr uint32_t GROUPS = BACKWARD_THREADS / LANES;
    Row<LANES, EIGHTS> row(width);
    float grad_weight[EIGHTS][EIGHT] = {}, grad_bias[EIGHTS][EIGHT] = {}, grad_type[EIGHTS][EIGHT] = {};

    for (uint32_t first = blockIdx.x * GROUPS; first < rows; first += gridDim.x * GROUPS) {
        const uint32_t index = first + threadIdx.x / LANES;
        const size_t start = static_cast<size_t>(index) * (width / EIGHT);
        const bool inside = index < rows;
        const float2 own_statistics = inside ? statistics[index] : make_float2(0.f, 0.f);
        float grad_out[EIGHTS][EIGHT];
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i)
            widen_eight<T>(inside && row.holds(i) ? load_eight(grad, start + row.eight(i)) : make_uint4(0, 0, 0, 0), grad_out[i]);
        embed(row, inside ? ids[index] : 0, inside ? places[index] : 0, words, positions, type, vocab, longest);
        if (dropout.threshold != 0)
#pragma unroll
            for (int i = 0; i < EIGHTS; ++i) drop_eight(dropout, start + row.eight(i), grad_out[i]);
        row.backward(grad_out, own_statistics, weight, grad_weight, grad_bias);
        if (!inside) continue;
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i) {
            if (!row.holds(i)) continue;
            store_eight(grad, start + row.eight(i), narrow_eight<T>(row.values[i]));
#pragma unroll
            for (int j = 0; j < EIGHT; ++j) grad_type[i][j] += row.values[i][j];
        }
    }
    float* out = partials + static_cast<size_t>(blockIdx.x) * 3 * width;
    row.write_column_sums(grad_weight, shared, out);
    row.write_column_sums(grad_bias, shared, out + width);
    row.write_column_sums(grad_type, shared, out + 2 * width);
}

/// Set in a chunk's target where that is a row of the partial sums rather than of the table.
constexpr uint32_t PARTIAL = 0x80000000u;

/// A block a chunk (first, count, target): the sum of `grad[sorted[first ..]]` is added to a row of the table that no other chunk has,
/// or is written to a row of `partials`. A thread has eight columns.
template <typename T>
__device__ __forceinline__ void sum_chunks(const T* grad, const uint32_t* chunks, const uint32_t* sorted, float* table, float* partials,
                                           uint32_t eights, uint32_t rows, uint32_t table_rows) {
    const uint32_t first = chunks[3 * blockIdx.x], count = chunks[3 * blockIdx.x + 1], target = chunks[3 * blockIdx.x + 2];
    float sums[EIGHT] = {};
#pragma unroll 4
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t row = min(sorted[first + i], rows - 1);
        float values[EIGHT];
        widen_eight<T>(load_eight(grad, static_cast<size_t>(row) * eights + threadIdx.x), values);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) sums[j] += values[j];
    }
    if (target & PARTIAL) {
        store_floats(partials, static_cast<size_t>(target & ~PARTIAL) * eights + threadIdx.x, sums);
    } else if (target < table_rows) {
        const size_t place = static_cast<size_t>(target) * eights + threadIdx.x;
        float before[EIGHT];
        load_parameters(table, place, before);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) sums[j] += before[j];
        store_floats(table, place, sums);
    }
}

/// A block 32 columns of one merge (id, first, count): adds the rows `first ..` of `partials` to the table's row `id`.
extern "C" __global__ void __launch_bounds__(256)
    merge_chunks(const uint32_t* merges, const float* partials, float* table, uint32_t width, uint32_t table_rows) {
    __shared__ float shared[8][32];
    const uint32_t id = merges[3 * blockIdx.x], first = merges[3 * blockIdx.x + 1], count = merges[3 * blockIdx.x + 2];
    const uint32_t column = blockIdx.y * 32 + threadIdx.x;
    float sum = 0.f;
#pragma unroll 8
    for (uint32_t i = threadIdx.y; i < count; i += 8) sum += partials[static_cast<size_t>(first + i) * width + column];
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && id < table_rows) {
        for (int i = 1; i < 8; ++i) sum += shared[i][threadIdx.x];
        table[static_cast<size_t>(id) * width + column] += sum;
    }
}

#define KERNELS(T, NAME, LANES, EIGHTS)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) embedding_forward_##LANES##x##EIGHTS##_##NAME(                            \
        const uint32_t* ids, const uint32_t* places, const T* words, const T* positions, const T* type, const float* weight,    \
        const float* bias, float epsilon, Dropout dropout, float2* statistics, T* out, uint32_t rows, uint32_t width,     \
        uint32_t vocab, uint32_t longest) {                                                                                     \
        forward<T, LANES, EIGHTS>(ids, places, words, positions, type, weight, bias, epsilon, dropout, statistics, out, rows,   \
                                  width, vocab, longest);                                                                       \
    }                                                                                                                           \
    extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS) embedding_backward_##LANES##x##EIGHTS##_##NAME(              \
        T* grad, const uint32_t* ids, const uint32_t* places, const T* words, const T* positions, const T* type,                \
        const float* weight, Dropout dropout, const float2* statistics, float* partials, uint32_t rows,             \
        uint32_t width, uint32_t vocab, uint32_t longest) {                                                                     \
        backward<T, LANES, EIGHTS>(grad, ids, places, words, positions, type, weight, dropout, statistics, partials, rows,      \
                                   width, vocab, longest);                                                                      \
    }

#define TYPE(T, NAME)                                                                                                           \
    KERNELS(T, NAME, 16, 3)                                                                                                     \
    KERNELS(T, NAME, 16, 4)                                                                                                     \
    KERNELS(T, NAME, 32, 3)                                                                                                     \
    KERNELS(T, NAME, 32, 4)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                                           \
        sum_chunks_##NAME(const T* grad, const uint32_t* chunks, const uint32_t* sorted, float* table, float* partials,         \
                          uint32_t eights, uint32_t rows, uint32_t table_rows) {                                                \
        sum_chunks(grad, chunks, sorted, table, partials, eights, rows, table_rows);                                            \
    }

TYPE(__nv_bfloat16, bf16)
TYPE(__half, f16)

// LayerNorm of rows that lie in the registers of a few lanes, forward and backward (Ba, Kiros, Hinton 2016).
// A row belongs to LANES neighbouring lanes (16, so two rows in a warp, or 32); lane l holds the eights l, l + LANES, ... of it, EIGHTS in all.
// All sums are 32-bit floats, in an order that depends on the sizes alone.
#pragma once
#include "vector.cuh"

/// Sum over the LANES lanes of a row, in each of them. All lanes of the warp call it.
template <int LANES> __device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

template <int LANES, int EIGHTS> struct Row {
    float values[EIGHTS][EIGHT];
    uint32_t lane, width;

    __device__ __forceinline__ explicit Row(uint32_t width) : lane(threadIdx.x % LANES), width(width) {}

    /// Place in the row of this lane's `i`-th eight; the last ones may lie behind its end.
    __device__ __forceinline__ uint32_t eight(int i) const { return lane + i * LANES; }
    __device__ __forceinline__ bool holds(int i) const { return EIGHT * eight(i) < width; }

    /// The parameters of the `i`-th eight; behind the row's end some others, so that no branch stands between these loads.
    __device__ __forceinline__ void parameters(int i, const float* of, float (&x)[EIGHT]) const {
        load_parameters(of, holds(i) ? eight(i) : 0, x);
    }

    /// Mean and 1 / standard deviation. Two passes, which lose nothing where the mean is large.
    __device__ __forceinline__ float2 statistics(float epsilon) const {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i)
#pragma unroll
            for (int j = 0; j < EIGHT; ++j) sum += holds(i) ? values[i][j] : 0.f;
        const float mean = row_sum<LANES>(sum) / width;
        float squares = 0.f;
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i)
#pragma unroll
            for (int j = 0; j < EIGHT; ++j) {
                const float centred = holds(i) ? values[i][j] - mean : 0.f;
                squares += centred * centred;
            }
        return make_float2(mean, rsqrtf(row_sum<LANES>(squares) / width + epsilon));
    }

    /// The `i`-th eight, normalised, scaled and shifted.
    __device__ __forceinline__ void normalise(int i, float2 statistics, const float* weight, const float* bias,
                                              float (&out)[EIGHT]) const {
        float scale[EIGHT], shift[EIGHT];
        parameters(i, weight, scale);
        parameters(i, bias, shift);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j)
            out[j] = (values[i][j] - statistics.x) * statistics.y * scale[j] + shift[j];
    }

    /// Turns the values into the gradient on them, given `grad`, the gradient on the normalised and scaled row, which is zero
    /// behind the row's end and the batch's; adds to the columns' sums: gradients of weight and bias.
    __device__ __forceinline__ void backward(const float (&grad)[EIGHTS][EIGHT], float2 statistics, const float* weight,
                                             float (&grad_weight)[EIGHTS][EIGHT], float (&grad_bias)[EIGHTS][EIGHT]) {
        float mean_grad = 0.f, mean_product = 0.f;
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i) {
            float scale[EIGHT];
            parameters(i, weight, scale);
#pragma unroll
            for (int j = 0; j < EIGHT; ++j) {
                const float normalised = (values[i][j] - statistics.x) * statistics.y;
                grad_weight[i][j] += grad[i][j] * normalised;
                grad_bias[i][j] += grad[i][j];
                mean_grad += grad[i][j] * scale[j];
                mean_product += grad[i][j] * scale[j] * normalised;
                values[i][j] = normalised;
            }
        }
        mean_grad = row_sum<LANES>(mean_grad) / width;
        mean_product = row_sum<LANES>(mean_product) / width;
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i) {
            float scale[EIGHT];
            parameters(i, weight, scale);
#pragma unroll
            for (int j = 0; j < EIGHT; ++j)
                values[i][j] = statistics.y * (grad[i][j] * scale[j] - mean_grad - values[i][j] * mean_product);
        }
    }

    /// Writes the block's sum of each column, over its rows in order, to `out` [width]. All threads of the block call it.
    __device__ __forceinline__ void write_column_sums(const float (&sums)[EIGHTS][EIGHT], float* shared, float* out) const {
        const uint32_t group = threadIdx.x / LANES, groups = blockDim.x / LANES;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i)
            if (holds(i)) store_floats(shared + group * width, eight(i), sums[i]);
        __syncthreads();
        for (uint32_t column = threadIdx.x; column < width; column += blockDim.x) {
            float sum = 0.f;
            for (uint32_t g = 0; g < groups; ++g) sum += shared[g * width + column];
            out[column] = sum;
        }
    }
};

/// Threads of a block of a backward pass, and the shared memory that `write_column_sums` needs in it: 8 rows of up to 512 or 4 of up to 1,024.
constexpr int BACKWARD_THREADS = 128;
constexpr int COLUMN_SUM_FLOATS = 4096;

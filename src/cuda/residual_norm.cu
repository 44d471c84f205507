// out = LayerNorm(residual + dropout(x)) * weight + bias, and the gradients of all five.
// One or two rows a warp, each read and written once; a row stays in registers between its statistics and its use.
// The gradients of weight, bias and x's bias leave a block as partial sums, which column_sums.cu adds up.
#include "layer_norm.cuh"
#include "philox.cuh"

template <typename T, int LANES, int EIGHTS>
__device__ __forceinline__ void forward(const T* residual, T* x, const float* weight, const float* bias, float epsilon,
                                        Dropout dropout, float2* statistics, T* out, uint32_t rows, uint32_t width) {
    Row<LANES, EIGHTS> row(width);
    const uint32_t index = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    const size_t start = static_cast<size_t>(index) * (width / EIGHT);
    const bool inside = index < rows;

    uint4 raw_x[EIGHTS], raw_residual[EIGHTS];
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
        raw_x[i] = raw_residual[i] = make_uint4(0, 0, 0, 0);
        if (inside && row.holds(i)) {
            raw_x[i] = load_eight(x, start + row.eight(i));
            if (residual) raw_residual[i] = load_eight(residual, start + row.eight(i));
        }
    }
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
        float sum[EIGHT], other[EIGHT];
        widen_eight<T>(raw_x[i], sum);
        widen_eight<T>(raw_residual[i], other);
        if (dropout.threshold != 0) drop_eight(dropout, start + row.eight(i), sum);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) sum[j] += other[j];
        // The backward pass reads the sum as it is stored, so the statistics are of the rounded one too.
        const uint4 rounded = narrow_eight<T>(sum);
        widen_eight<T>(rounded, row.values[i]);
        if (statistics && inside && row.holds(i)) store_eight(x, start + row.eight(i), rounded);
    }
    const float2 own_statistics = row.statistics(epsilon);
    if (!inside) return;
    if (statistics && row.lane == 0) statistics[index] = own_statistics;
#pragma unroll
    for (int i = 0; i < EIGHTS; ++i) {
        float result[EIGHT];
        row.normalise(i, own_statistics, weight, bias, result);
        if (row.holds(i)) store_eight(out, start + row.eight(i), narrow_eight<T>(result));
    }
}

template <typename T, int LANES, int EIGHTS>
__device__ __forceinline__ void backward(T* grad, const T* sum, const float2* statistics, const float* weight,
                                         Dropout dropout, T* grad_x, float* partials, uint32_t rows, uint32_t width) {
    __shared__ alignas(16) float shared[COLUMN_SUM_FLOATS];
    constexpr uint32_t GROUPS = BACKWARD_THREADS / LANES;
    Row<LANES, EIGHTS> row(width);
    float grad_weight[EIGHTS][EIGHT] = {}, grad_bias[EIGHTS][EIGHT] = {}, grad_x_bias[EIGHTS][EIGHT] = {};

    for (uint32_t first = blockIdx.x * GROUPS; first < rows; first += gridDim.x * GROUPS) {
        const uint32_t index = first + threadIdx.x / LANES;
        const size_t start = static_cast<size_t>(index) * (width / EIGHT);
        const bool inside = index < rows;
        const float2 own_statistics = inside ? statistics[index] : make_float2(0.f, 0.f);
        uint4 raw_grad[EIGHTS], raw_sum[EIGHTS];
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i) {
            raw_grad[i] = raw_sum[i] = make_uint4(0, 0, 0, 0);
            if (inside && row.holds(i)) {
                raw_grad[i] = load_eight(grad, start + row.eight(i));
                raw_sum[i] = load_eight(sum, start + row.eight(i));
            }
        }
        float grad_out[EIGHTS][EIGHT];
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i) {
            widen_eight<T>(raw_grad[i], grad_out[i]);
            widen_eight<T>(raw_sum[i], row.values[i]);
        }
        row.backward(grad_out, own_statistics, weight, grad_weight, grad_bias);
        if (!inside) continue;
#pragma unroll
        for (int i = 0; i < EIGHTS; ++i) {
            if (!row.holds(i)) continue;
            store_eight(grad, start + row.eight(i), narrow_eight<T>(row.values[i]));
            if (dropout.threshold != 0) {
                drop_eight(dropout, start + row.eight(i), row.values[i]);
                store_eight(grad_x, start + row.eight(i), narrow_eight<T>(row.values[i]));
            }
#pragma unroll
            for (int j = 0; j < EIGHT; ++j) grad_x_bias[i][j] += row.values[i][j];
        }
    }
    float* out = partials + static_cast<size_t>(blockIdx.x) * 3 * width;
    row.write_column_sums(grad_weight, shared, out);
    row.write_column_sums(grad_bias, shared, out + width);
    row.write_column_sums(grad_x_bias, shared, out + 2 * width);
}

#define KERNELS(T, NAME, LANES, EIGHTS)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) residual_norm_forward_##LANES##x##EIGHTS##_##NAME(                       \
        const T* residual, T* x, const float* weight, const float* bias, float epsilon, Dropout dropout, float2* statistics, T* out, uint32_t rows, uint32_t width) {                                                                  \
        forward<T, LANES, EIGHTS>(residual, x, weight, bias, epsilon, dropout, statistics, out, rows, width);                  \
    }                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(BACKWARD_THREADS) residual_norm_backward_##LANES##x##EIGHTS##_##NAME(         \
        T* grad, const T* sum, const float2* statistics, const float* weight, Dropout dropout, T* grad_x,          \
        float* partials, uint32_t rows, uint32_t width) {                                                                      \
        backward<T, LANES, EIGHTS>(grad, sum, statistics, weight, dropout, grad_x, partials, rows, width);                     \
    }

#define WIDTHS(T, NAME)        \
    KERNELS(T, NAME, 16, 3)    \
    KERNELS(T, NAME, 16, 4)    \
    KERNELS(T, NAME, 32, 3)    \
    KERNELS(T, NAME, 32, 4)

WIDTHS(__nv_bfloat16, bf16)
WIDTHS(__half, f16)

// x -> gelu(x) = x Phi(x), exact (Hendrycks and Gimpel 2016), and gradient on it -> gradient on x, with the sum of each of its columns.
// Phi, the normal distribution function, and its density share one exponential, so the derivative costs a few multiplications more
// than the function; erff of CUDA would make this op wait for arithmetic rather than for memory.
#include "column_sums.cuh"

struct Normal {
    float distribution, density;
};

__device__ __forceinline__ Normal normal(float x) {
    // Phi(-a) = exp(-a^2 / 2) t p(t), t = 1 / (1 + 0.31 a), is the form of Abramowitz and Stegun 7.1.26. The coefficients are a minimax fit of
    // the relative error, which is at most 4.7e-6 for a up to 14, where Phi(-a) leaves the range of f32: a hundredth of f16's own rounding.
    const float a = fabsf(x);
    float exponential, t;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(exponential) : "f"(-0.72134752f * a * a)); // log2(e) / 2
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(fmaf(0.31f, a, 1.f)));
    float p = -0.07393071909652436f;
    p = fmaf(p, t, 0.18045481579419795f);
    p = fmaf(p, t, 0.015740001381068576f);
    p = fmaf(p, t, 0.1334320684891024f);
    p = fmaf(p, t, 0.12044077276804398f);
    p = fmaf(p, t, 0.12386074166917514f);
    const float tail = exponential * t * p;
    return {x < 0.f ? tail : 1.f - tail, 0.3989422804f * exponential}; // 1 / sqrt(2 pi)
}

constexpr int FORWARD_THREADS = 256, FORWARD_EIGHTS = 2;

template <typename T> __device__ __forceinline__ void forward(const T* x, T* out, uint64_t eights) {
    const uint64_t first = static_cast<uint64_t>(blockIdx.x) * FORWARD_THREADS * FORWARD_EIGHTS + threadIdx.x;
    uint4 raw[FORWARD_EIGHTS];
#pragma unroll
    for (int i = 0; i < FORWARD_EIGHTS; ++i)
        if (first + i * FORWARD_THREADS < eights) raw[i] = load_eight(x, first + i * FORWARD_THREADS);
#pragma unroll
    for (int i = 0; i < FORWARD_EIGHTS; ++i) {
        if (first + i * FORWARD_THREADS >= eights) return;
        float values[EIGHT];
        widen_eight<T>(raw[i], values);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) values[j] *= normal(values[j]).distribution;
        store_eight(out, first + i * FORWARD_THREADS, narrow_eight<T>(values));
    }
}

template <typename T>
__device__ __forceinline__ void backward(T* grad, const T* x, float* partials, uint32_t rows, uint32_t width) {
    const ColumnBand band(rows, width);
    float sums[EIGHT] = {};
    for (uint32_t i = 0; i < band.count; ++i) {
        const size_t place = band.place(i);
        const uint4 raw_grad = load_eight(grad, place), raw_x = load_eight(x, place);
        float gradients[EIGHT], values[EIGHT];
        widen_eight<T>(raw_grad, gradients);
        widen_eight<T>(raw_x, values);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) {
            const Normal at = normal(values[j]);
            gradients[j] *= at.distribution + values[j] * at.density;
            sums[j] += gradients[j];
        }
        store_eight(grad, place, narrow_eight<T>(gradients));
    }
    band.write(sums, partials);
}

#define KERNELS(T, NAME)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(FORWARD_THREADS) gelu_forward_##NAME(const T* x, T* out, uint64_t eights) {    \
        forward(x, out, eights);                                                                                                \
    }                                                                                                                           \
    extern "C" __global__ void __launch_bounds__(BAND_THREADS)                                                                  \
        gelu_backward_##NAME(T* grad, const T* x, float* partials, uint32_t rows, uint32_t width) {                             \
        backward(grad, x, partials, rows, width);                                                                               \
    }

KERNELS(__nv_bfloat16, bf16)
KERNELS(__half, f16)

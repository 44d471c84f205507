// Gradients -> norm; gradients, values, moments -> the next values, their moments, running average and 16-bit copy, in one pass over memory.
// AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), after clipping by the global norm. The norm never goes to the
// host: the second kernel derives from it what the step needs, and the third reads that.
#include "vector.cuh"

constexpr int THREADS = 256;

/// What the host sets for a step; the same layout as the Rust side's array.
struct Constants {
    float beta1, beta2, one_minus_beta1, one_minus_beta2, epsilon, weight_decay, average_decay, clip_norm;
};

/// What stays on the device between steps; eight words.
struct State {
    float norm;
    uint32_t bad_steps, steps;
    /// Of the coming update: 0 for none, because the norm was not finite.
    uint32_t apply;
    float clip, correct1, correct2, average_decay;
};

/// Each block's sum of squares: 32-bit in a thread, 64-bit from there on. Deterministic for a given grid.
extern "C" __global__ void __launch_bounds__(THREADS) sum_squares(const float* grad, double* partials, uint32_t count) {
    __shared__ double shared[THREADS / 32];
    const uint32_t quads = count / 4, stride = gridDim.x * THREADS, first = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t own = first < quads ? (quads - first - 1) / stride + 1 : 0;
    float sum = 0.f;
#pragma unroll 4
    for (uint32_t i = 0; i < own; ++i) {
        const float4 g = reinterpret_cast<const float4*>(grad)[first + i * stride];
        sum += g.x * g.x + g.y * g.y + g.z * g.z + g.w * g.w;
    }
    if (first < count % 4) sum += grad[4 * quads + first] * grad[4 * quads + first];
    double total = sum;
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(0xffffffffu, total, distance);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < THREADS / 32; ++i) total += shared[i];
        partials[blockIdx.x] = total;
    }
}

/// One block: the norm, and the factors of the step that follows. A norm that is not finite makes no step.
extern "C" __global__ void __launch_bounds__(THREADS)
    begin_step(const double* partials, uint32_t blocks, Constants constants, State* state) {
    __shared__ double shared[THREADS];
    double total = 0.;
    for (uint32_t i = threadIdx.x; i < blocks; i += THREADS) total += partials[i];
    shared[threadIdx.x] = total;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    const float norm = static_cast<float>(sqrt(shared[0]));
    state->norm = norm;
    state->apply = isfinite(norm);
    if (!isfinite(norm)) {
        state->bad_steps += 1;
        return;
    }
    const uint32_t steps = state->steps + 1;
    state->steps = steps;
    state->clip = fminf(1.f, constants.clip_norm / (norm + 1e-6f));
    // 1 - beta^steps, from the complements, which are exact where 1 - beta is not.
    state->correct1 = -expm1(steps * log1p(-static_cast<double>(constants.one_minus_beta1)));
    state->correct2 = -expm1(steps * log1p(-static_cast<double>(constants.one_minus_beta2)));
    state->average_decay = fminf(constants.average_decay, (1.f + steps) / (10.f + steps));
}

/// Elements of a block of the update, and of a thread of it at a time.
constexpr uint32_t BLOCK_ELEMENTS = 4096, QUAD = 4;

/// The last of the segments that begins at or before `element`; the first begins at 0.
__device__ __forceinline__ uint32_t segment_of(const uint32_t* starts, uint32_t segments, uint32_t element) {
    uint32_t low = 0, high = segments;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (starts[middle] <= element) low = middle;
        else high = middle;
    }
    return low;
}

template <typename T>
__device__ __forceinline__ void update(const float* grads, float* values, float* means, float* squares, float* averages, T* copies,
                                       const uint32_t* starts, const float* factors, const State* state, Constants constants,
                                       float rate, uint32_t count, uint32_t segments) {
    if (!state->apply) return;
    const float clip = state->clip, step_size = rate / state->correct1, root_scale = 1.f / state->correct2;
    const float average_decay = state->average_decay;
    const uint32_t block_start = blockIdx.x * BLOCK_ELEMENTS;
    uint32_t segment = segment_of(starts, segments, block_start);
    uint32_t next = segment + 1 < segments ? starts[segment + 1] : count;
    float rate_factor = factors[2 * segment], decay_factor = factors[2 * segment + 1];
#pragma unroll 1
    for (uint32_t offset = threadIdx.x * QUAD; offset < BLOCK_ELEMENTS; offset += THREADS * QUAD) {
        const uint32_t first = block_start + offset;
        if (first >= count) return;
        float g[QUAD], value[QUAD], mean[QUAD], square[QUAD], average[QUAD] = {};
        const bool whole = count - first >= QUAD;
        const auto load = [&](const float* from, float (&to)[QUAD]) {
            if (whole) {
                const float4 quad = *reinterpret_cast<const float4*>(from + first);
                to[0] = quad.x, to[1] = quad.y, to[2] = quad.z, to[3] = quad.w;
            } else {
#pragma unroll
                for (uint32_t j = 0; j < QUAD; ++j) to[j] = j < count - first ? from[first + j] : 0.f;
            }
        };
        const auto store = [&](float* to, const float (&from)[QUAD]) {
            if (whole) {
                *reinterpret_cast<float4*>(to + first) = make_float4(from[0], from[1], from[2], from[3]);
            } else {
#pragma unroll
                for (uint32_t j = 0; j < QUAD; ++j)
                    if (j < count - first) to[first + j] = from[j];
            }
        };
        load(grads, g), load(values, value), load(means, mean), load(squares, square);
        if (averages) load(averages, average);
#pragma unroll
        for (uint32_t j = 0; j < QUAD; ++j) {
            while (first + j >= next && segment + 1 < segments) {
                ++segment;
                next = segment + 1 < segments ? starts[segment + 1] : count;
                rate_factor = factors[2 * segment], decay_factor = factors[2 * segment + 1];
            }
            const float clipped = g[j] * clip;
            mean[j] = mean[j] * constants.beta1 + clipped * constants.one_minus_beta1;
            square[j] = square[j] * constants.beta2 + clipped * clipped * constants.one_minus_beta2;
            const float root = sqrtf(square[j] * root_scale) + constants.epsilon;
            const float kept = 1.f - rate * rate_factor * constants.weight_decay * decay_factor;
            value[j] = value[j] * kept - step_size * rate_factor * mean[j] / root;
            average[j] = average[j] * average_decay + value[j] * (1.f - average_decay);
        }
        store(means, mean), store(squares, square), store(values, value);
        if (averages) store(averages, average);
        if (whole) {
            *reinterpret_cast<uint2*>(copies + first) =
                make_uint2(narrow_pair<T>(value[0], value[1]), narrow_pair<T>(value[2], value[3]));
        } else {
            for (uint32_t j = 0; j < count - first; ++j) {
                const uint16_t half = static_cast<uint16_t>(narrow_pair<T>(value[j], 0.f));
                reinterpret_cast<uint16_t*>(copies)[first + j] = half;
            }
        }
    }
}

#define KERNEL(T, NAME)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) adamw_##NAME(                                                         \
        const float* grads, float* values, float* means, float* squares, float* averages, T* copies, const uint32_t* starts,    \
        const float* factors, const State* state, Constants constants, float rate, uint32_t count, uint32_t segments) {         \
        update(grads, values, means, squares, averages, copies, starts, factors, state, constants, rate, count, segments);      \
    }

KERNEL(__nv_bfloat16, bf16)
KERNEL(__half, f16)

// Logits [rows, stride], target of each row -> loss of each row, whether the target has the highest logit; the logits become their gradient.
// (softmax - one at the target) * scale, in place: the gradient takes no memory of its own, and logits are read and written once, because a
// block keeps its row in shared memory (as much of it as there is room for; the rest is read again, from the L2 cache).
#include "vector.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// The eight logits as they are, or minus infinity in place of those behind the vocabulary.
template <typename T> __device__ __forceinline__ void widen_logits(uint4 raw, uint32_t eight, uint32_t vocab, float (&x)[EIGHT]) {
    widen_eight<T>(raw, x);
    if (EIGHT * (eight + 1) > vocab)
#pragma unroll
        for (int j = 0; j < EIGHT; ++j)
            if (EIGHT * eight + j >= vocab) x[j] = -INFINITY;
}

/// Calls `use` on each of this thread's eights of a row, of which two are on their way at a time.
template <typename Read, typename Use>
__device__ __forceinline__ void for_each_eight(uint32_t eights, Read read, Use use) {
    for (uint32_t eight = threadIdx.x; eight < eights; eight += 2 * THREADS) {
        const uint32_t second = eight + THREADS;
        const uint4 raw = read(eight), second_raw = second < eights ? read(second) : make_uint4(0, 0, 0, 0);
        use(eight, raw);
        if (second < eights) use(second, second_raw);
    }
}

template <typename T>
__device__ __forceinline__ void cross_entropy(T* logits, const uint32_t* targets, float scale, float* losses, uint32_t* correct,
                                              uint32_t vocab, uint32_t stride, uint32_t cached) {
    extern __shared__ uint4 cache[];
    __shared__ float warp_best[WARPS], warp_sum[WARPS];
    __shared__ uint32_t warp_place[WARPS];
    const uint32_t row = blockIdx.x, eights = stride / EIGHT, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T* own = logits + static_cast<size_t>(row) * stride;
    const uint32_t target = targets[row];
    const bool known = target < vocab;
    const auto from_memory = [&](uint32_t eight) { return load_eight(own, eight); };
    const auto from_cache = [&](uint32_t eight) { return eight < cached ? cache[eight] : load_eight(own, eight); };
    float target_logit = NAN;
    if (known) {
        const uint32_t half = reinterpret_cast<const uint16_t*>(own)[target];
        target_logit = widen_pair<T>(half).x;
    }

    // The highest logit and the first eight that has it.
    float best = -INFINITY;
    uint32_t place = threadIdx.x;
    for_each_eight(eights, from_memory, [&](uint32_t eight, uint4 raw) {
        if (eight < cached) cache[eight] = raw;
        float x[EIGHT];
        widen_logits<T>(raw, eight, vocab, x);
        const float high = fmaxf(fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])), fmaxf(fmaxf(x[4], x[5]), fmaxf(x[6], x[7])));
        if (high > best) best = high, place = eight;
    });
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, best, distance);
        const uint32_t other_place = __shfl_xor_sync(0xffffffffu, place, distance);
        if (other > best || (other == best && other_place < place)) best = other, place = other_place;
    }
    if (lane == 0) warp_best[warp] = best, warp_place[warp] = place;
    __syncthreads();
    best = warp_best[0], place = warp_place[0];
#pragma unroll
    for (int i = 1; i < WARPS; ++i)
        if (warp_best[i] > best || (warp_best[i] == best && warp_place[i] < place)) best = warp_best[i], place = warp_place[i];

    // Every thread reads back only what it wrote itself, so the cache needs no barrier.
    const float shift = best * LOG2_E;
    float sum = 0.f;
    for_each_eight(eights, from_cache, [&](uint32_t eight, uint4 raw) {
        float x[EIGHT];
        widen_logits<T>(raw, eight, vocab, x);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) sum += exp2_fast(fmaf(x[j], LOG2_E, -shift));
    });
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (lane == 0) warp_sum[warp] = sum;
    // Whose eight has the highest logit says whether the target is the first with it, before the logits are overwritten.
    if (threadIdx.x == place % THREADS) {
        float x[EIGHT];
        widen_logits<T>(from_cache(place), place, vocab, x);
        uint32_t first = EIGHT;
#pragma unroll
        for (int j = EIGHT - 1; j >= 0; --j)
            if (x[j] == best) first = j;
        correct[row] = EIGHT * place + first == target;
    }
    __syncthreads();
    sum = warp_sum[0];
#pragma unroll
    for (int i = 1; i < WARPS; ++i) sum += warp_sum[i];
    if (threadIdx.x == 0) losses[row] = best + LN_2 * log2f(sum) - target_logit;

    const float factor = scale / sum;
    for_each_eight(eights, from_cache, [&](uint32_t eight, uint4 raw) {
        float x[EIGHT];
        widen_logits<T>(raw, eight, vocab, x);
#pragma unroll
        for (int j = 0; j < EIGHT; ++j) x[j] = factor * exp2_fast(fmaf(x[j], LOG2_E, -shift));
        if (known && eight == target / EIGHT)
#pragma unroll
            for (int j = 0; j < EIGHT; ++j)
                if (j == target % EIGHT) x[j] -= scale;
        store_eight(own, eight, narrow_eight<T>(x));
    });
}

#define KERNEL(T, NAME)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                       \
        cross_entropy_##NAME(T* logits, const uint32_t* targets, float scale, float* losses, uint32_t* correct, uint32_t vocab, \
                             uint32_t stride, uint32_t cached) {                                                                \
        cross_entropy(logits, targets, scale, losses, correct, vocab, stride, cached);                                          \
    }

KERNEL(__nv_bfloat16, bf16)
KERNEL(__half, f16)

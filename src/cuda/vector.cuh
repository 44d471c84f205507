// Eight neighbouring 16-bit floats, as one load or store of 16 bytes moves them <-> eight 32-bit floats to compute with.
// Every pointer given here is a multiple of 16 bytes; the Rust side checks that.
// bf16 is the upper half of a 32-bit float, so it is widened by moving bits; f16 is converted.
#pragma once
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int EIGHT = 8;

__device__ __forceinline__ uint4 load_eight(const void* eights, size_t index) {
    return static_cast<const uint4*>(eights)[index];
}

__device__ __forceinline__ void store_eight(void* eights, size_t index, uint4 raw) {
    static_cast<uint4*>(eights)[index] = raw;
}

template <typename T> __device__ __forceinline__ float2 widen_pair(uint32_t raw);

template <> __device__ __forceinline__ float2 widen_pair<__nv_bfloat16>(uint32_t raw) {
    return make_float2(__uint_as_float(raw << 16), __uint_as_float(raw & 0xffff0000u));
}

template <> __device__ __forceinline__ float2 widen_pair<__half>(uint32_t raw) {
    return __half22float2(*reinterpret_cast<const __half2*>(&raw));
}

template <typename T> __device__ __forceinline__ uint32_t narrow_pair(float low, float high);

template <> __device__ __forceinline__ uint32_t narrow_pair<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

template <> __device__ __forceinline__ uint32_t narrow_pair<__half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

template <typename T> __device__ __forceinline__ void widen_eight(uint4 raw, float (&x)[EIGHT]) {
    const float2 a = widen_pair<T>(raw.x), b = widen_pair<T>(raw.y), c = widen_pair<T>(raw.z), d = widen_pair<T>(raw.w);
    x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y, x[4] = c.x, x[5] = c.y, x[6] = d.x, x[7] = d.y;
}

template <typename T> __device__ __forceinline__ uint4 narrow_eight(const float (&x)[EIGHT]) {
    return make_uint4(narrow_pair<T>(x[0], x[1]), narrow_pair<T>(x[2], x[3]), narrow_pair<T>(x[4], x[5]),
                      narrow_pair<T>(x[6], x[7]));
}

/// Eight 32-bit parameters.
__device__ __forceinline__ void load_parameters(const float* values, size_t eight, float (&x)[EIGHT]) {
    const float4 a = reinterpret_cast<const float4*>(values)[2 * eight];
    const float4 b = reinterpret_cast<const float4*>(values)[2 * eight + 1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

__device__ __forceinline__ void store_floats(float* values, size_t eight, const float (&x)[EIGHT]) {
    reinterpret_cast<float4*>(values)[2 * eight] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(values)[2 * eight + 1] = make_float4(x[4], x[5], x[6], x[7]);
}

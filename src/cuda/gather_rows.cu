// Rows by their index: out[i] = x[index[i]], and backward out[index[i]] = grad[i] where no index comes twice.
// A thread moves 16 bytes; an index outside of the table yields a row of NaN forward, so that it cannot go unnoticed, and is skipped backward.
#include <cstdint>

extern "C" __global__ void __launch_bounds__(256) gather_rows(const uint4* x, const uint32_t* index, uint4* out, uint32_t count,
                                                              uint32_t rows, uint32_t pieces) {
    const uint32_t place = blockIdx.x * 256 + threadIdx.x;
    if (place >= count * pieces) return;
    const uint32_t row = index[place / pieces];
    const uint32_t nan = 0xffffffffu;
    out[place] = row < rows ? x[static_cast<size_t>(row) * pieces + place % pieces] : make_uint4(nan, nan, nan, nan);
}

extern "C" __global__ void __launch_bounds__(256) scatter_rows(const uint4* grad, const uint32_t* index, uint4* out,
                                                               uint32_t count, uint32_t rows, uint32_t pieces) {
    const uint32_t place = blockIdx.x * 256 + threadIdx.x;
    if (place >= count * pieces) return;
    const uint32_t row = index[place / pieces];
    if (row < rows) out[static_cast<size_t>(row) * pieces + place % pieces] = grad[place];
}

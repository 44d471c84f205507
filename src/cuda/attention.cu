// Self-attention within the sequences of a packed batch: FlashAttention-2 (Dao 2023, algorithms 1 and 2), no mask but the sequences' ends.
// A block of 8 warps works on one head and one tile: up to 8 fragments of 16 rows, one a warp, either of one sequence or of several whole short ones that are neighbours.
// It copies the rows that its warps attend to (the tile's range) to shared memory, TILE_ROWS at a time, and each warp walks through its own sequence's rows there, from the
// sequence's start: what a sequence gets does not depend, not even in rounding, on its neighbours in the batch.
#include "tensor_core.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// Rows [first, first + 16) of the sequence [start, end); range_end is the same in all fragments of a tile. An idle warp has first = end.
struct Fragment {
    unsigned first, start, end, range_end;
};

__device__ __forceinline__ Fragment load_fragment(const uint4 *tiles, unsigned tile, unsigned warp, unsigned rows) {
    uint4 f = tiles[tile * WARPS + warp];
    if (f.w > rows) {
        __trap();  // a list made for another batch
    }
    return {f.x, f.y, f.z, f.w};
}

// Matrices of TILE_ROWS rows of one head in shared memory. 16-byte chunks of a row are swizzled (exclusive or with bits of the row's number), so that any
// 8 neighbouring rows have one and the same chunk in 8 different groups of 4 banks: what ldmatrix reads at a time.
template <typename T, int WIDTH> struct Tile {
    static constexpr int CHUNKS = WIDTH / 8;
    static constexpr int ROWS = 8192 / WIDTH;  // 16 KiB
    static constexpr int BYTES = ROWS * WIDTH * 2;
    static constexpr int COPIES = ROWS * CHUNKS / THREADS;  // per thread

    static __device__ __forceinline__ unsigned swizzle(unsigned row) { return CHUNKS == 4 ? (row >> 1) & 3 : row & 7; }

    static __device__ __forceinline__ unsigned offset(unsigned row, unsigned chunk) {
        return row * (WIDTH * 2) + ((chunk ^ swizzle(row)) << 4);
    }

    // Starts the copy of rows [0, count) from `from`, whose rows are `stride` values apart.
    static __device__ __forceinline__ void copy(uint32_t tile, const T *from, size_t stride, unsigned count) {
#pragma unroll
        for (int i = 0; i < COPIES; i++) {
            unsigned item = i * THREADS + threadIdx.x, row = item / CHUNKS, chunk = item % CHUNKS;
            if (row < count) {
                copy_16_bytes(tile + offset(row, chunk), from + row * stride + chunk * 8);
            }
        }
    }

    // This lane's places in the [16, 16] blocks of rows [row, row + 16) of any tile, as load_matrices wants them for A and for B = transpose(block).
    // Rows from `end` on become row end - 1: finite numbers of the same sequence, which are masked or never stored.
    struct Lane {
        uint32_t by_rows[WIDTH / 16], by_columns[WIDTH / 16];

        __device__ __forceinline__ Lane(unsigned row, unsigned end) {
            const unsigned lane = threadIdx.x % 32;
#pragma unroll
            for (int block = 0; block < WIDTH / 16; block++) {
                by_rows[block] = offset(min(row + lane % 16, end - 1), 2 * block + lane / 16);
                by_columns[block] = offset(min(row + lane % 8 + lane / 16 * 8, end - 1), 2 * block + lane / 8 % 2);
            }
        }

        // To rows further down, all 16 of which exist: a multiple of 16 rows changes no swizzle.
        __device__ __forceinline__ void advance(unsigned rows) {
#pragma unroll
            for (int block = 0; block < WIDTH / 16; block++) {
                by_rows[block] += rows * (WIDTH * 2);
                by_columns[block] += rows * (WIDTH * 2);
            }
        }
    };

    // The 16 rows at `lane` as A operands.
    static __device__ __forceinline__ void fragments(uint32_t (&a)[WIDTH / 16][4], uint32_t tile, const Lane &lane) {
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block++) {
            load_matrices(a[block], tile + lane.by_rows[block]);
        }
    }

    // c += a transpose(the 16 rows at `lane`): [16, 16], in two C tiles.
    static __device__ __forceinline__ void scores(float (&c)[2][4], const uint32_t (&a)[WIDTH / 16][4], uint32_t tile, const Lane &lane) {
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block++) {
            uint32_t b[4];
            load_matrices(b, tile + lane.by_columns[block]);
            multiply_add<T>(c[0], a[block], b[0], b[1]);
            multiply_add<T>(c[1], a[block], b[2], b[3]);
        }
    }

    // c += a (the 16 rows at `lane`): [16, WIDTH].
    static __device__ __forceinline__ void weighted_sum(float (&c)[WIDTH / 8][4], const uint32_t (&a)[4], uint32_t tile, const Lane &lane) {
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block++) {
            uint32_t b[4];
            load_matrices_transposed(b, tile + lane.by_rows[block]);
            multiply_add<T>(c[2 * block], a, b[0], b[1]);
            multiply_add<T>(c[2 * block + 1], a, b[2], b[3]);
        }
    }
};

// Rows [first, first + 16) from global memory as A operands; rows from `end` on become row end - 1. Lane t reads chunks t, t + 4... of its rows and
// exchanges them within its quad: 16-byte loads, no shared memory.
template <typename T, int WIDTH>
__device__ __forceinline__ void load_rows(uint32_t (&a)[WIDTH / 16][4], const T *from, size_t stride, unsigned first, unsigned end) {
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const T *row = from + min(first + g + 8 * half, end - 1) * stride;
#pragma unroll
        for (int block = 0; block < WIDTH / 16; block += 2) {
            uint4 chunk = *reinterpret_cast<const uint4 *>(row + block * 16 + t * 8);
            uint32_t v[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
            transpose_in_quad(v);
            a[block][half] = v[0];
            a[block][half + 2] = v[1];
            a[block + 1][half] = v[2];
            a[block + 1][half + 2] = v[3];
        }
    }
}

// Stores those of 16 rows that lie before `end`, the values times factor[0] for rows g and factor[1] for rows g + 8: load_rows backwards.
template <typename T, int WIDTH>
__device__ __forceinline__ void store_rows(T *to, size_t stride, unsigned first, unsigned end, const float (&c)[WIDTH / 8][4], const float (&factor)[2]) {
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const unsigned row = first + g + 8 * half;
#pragma unroll
        for (int group = 0; group < WIDTH / 8; group += 4) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                v[i] = pack<T>(c[group + i][2 * half] * factor[half], c[group + i][2 * half + 1] * factor[half]);
            }
            transpose_in_quad(v);
            if (row < end) {
                *reinterpret_cast<uint4 *>(to + row * stride + (group + t) * 8) = make_uint4(v[0], v[1], v[2], v[3]);
            }
        }
    }
}

template <typename T> __device__ __forceinline__ float dot_8(uint4 a, uint4 b) {
    const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 p = unpack<T>(x[i]), q = unpack<T>(y[i]);
        sum = fmaf(p.x, q.x, fmaf(p.y, q.y, sum));
    }
    return sum;
}

constexpr int KEYS = 32;  // keys between two updates of the running maximum

// One step of the online softmax: the KEYS keys from `key` on, those before `end` where not FULL. `lane` stands at `key` where FULL.
template <bool FULL, typename T, int WIDTH>
__device__ __forceinline__ void attend(uint32_t k_tile, uint32_t v_tile, typename Tile<T, WIDTH>::Lane lane, unsigned key, unsigned end, float scale_log2,
                                       const uint32_t (&q)[WIDTH / 16][4], float (&maximum)[2], float (&sum)[2], float (&out)[WIDTH / 8][4]) {
    using Rows = Tile<T, WIDTH>;
    using Lane = typename Rows::Lane;
    float s[KEYS / 16][2][4] = {};
    Lane k_lane = lane;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        if (FULL) {
            Rows::scores(s[j], q, k_tile, k_lane);
            k_lane.advance(16);
        } else if (key + 16 * j < end) {
            Rows::scores(s[j], q, k_tile, Lane(key + 16 * j, end));
        }
    }
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float &score = s[j][i / 4][i % 4];
            if (!FULL && key + 16 * j + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2 >= end) {
                score = -INFINITY;
            }
            top[i / 2 % 2] = fmaxf(top[i / 2 % 2], score);
        }
    }
    float shift[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // Finite, because key < end: no difference of two infinities from here on.
        float grown = fmaxf(maximum[half], max_in_quad(top[half]));
        float shrink = power_of_two((maximum[half] - grown) * scale_log2);
        maximum[half] = grown;
        shift[half] = grown * scale_log2;
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            out[n][2 * half] *= shrink;
            out[n][2 * half + 1] *= shrink;
        }
    }
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        if (FULL || key + 16 * j < end) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float &p = s[j][i / 4][i % 4];
                p = power_of_two(fmaf(p, scale_log2, -shift[i / 2 % 2]));
                sum[i / 2 % 2] += p;
            }
            const uint32_t p[4] = {pack<T>(s[j][0][0], s[j][0][1]), pack<T>(s[j][0][2], s[j][0][3]), pack<T>(s[j][1][0], s[j][1][1]),
                                   pack<T>(s[j][1][2], s[j][1][3])};
            if (FULL) {
                Rows::weighted_sum(out, p, v_tile, lane);
                lane.advance(16);
            } else {
                Rows::weighted_sum(out, p, v_tile, Lane(key + 16 * j, end));
            }
        }
    }
}

// qkv [rows, 3 * hidden] -> context [rows, hidden], log_sum_exp [heads, rows] (natural logarithm, of scaled scores; null: not wanted).
template <typename T, int WIDTH>
__device__ __forceinline__ void forward(const T *qkv, const uint4 *tiles, unsigned rows, unsigned heads, float scale, T *context, float *log_sum_exp) {
    using Rows = Tile<T, WIDTH>;
    __shared__ __align__(128) unsigned char memory[2 * Rows::BYTES];
    const uint32_t k_tile = shared_address(memory), v_tile = k_tile + Rows::BYTES;
    const unsigned tile = blockIdx.x / heads, head = blockIdx.x % heads;
    const unsigned range_start = load_fragment(tiles, tile, 0, rows).start;
    const Fragment own = load_fragment(tiles, tile, threadIdx.x / 32, rows);
    const size_t hidden = heads * WIDTH, stride = 3 * hidden;
    const T *from = qkv + head * WIDTH;
    const bool active = own.first < own.end;

    uint32_t q[WIDTH / 16][4];
    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {}, out[WIDTH / 8][4] = {};
    for (unsigned tile_start = range_start; tile_start < own.range_end; tile_start += Rows::ROWS) {
        const unsigned count = min(own.range_end - tile_start, Rows::ROWS);
        if (tile_start > range_start) {
            __syncthreads();  // all have read the tile before
        }
        Rows::copy(k_tile, from + hidden + tile_start * stride, stride, count);
        Rows::copy(v_tile, from + 2 * hidden + tile_start * stride, stride, count);
        if (tile_start == range_start && active) {
            load_rows<T, WIDTH>(q, from, stride, own.first, own.end);
        }
        wait_for_copies();
        __syncthreads();
        if (active) {
            const unsigned end = min(own.end - tile_start, count);
            unsigned key = own.start > tile_start ? own.start - tile_start : 0;
            typename Rows::Lane lane(key, end);
            for (; key + KEYS <= end; key += KEYS) {
                attend<true, T, WIDTH>(k_tile, v_tile, lane, key, end, scale * LOG2_E, q, maximum, sum, out);
                lane.advance(KEYS);
            }
            if (key < end) {
                attend<false, T, WIDTH>(k_tile, v_tile, lane, key, end, scale * LOG2_E, q, maximum, sum, out);
            }
        }
    }
    if (active) {
        float factor[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned row = own.first + threadIdx.x % 32 / 4 + 8 * half;
            const float total = sum_in_quad(sum[half]);
            factor[half] = 1 / total;
            if (log_sum_exp != nullptr && threadIdx.x % 4 == 0 && row < own.end) {
                log_sum_exp[size_t(head) * rows + row] = (maximum[half] * scale * LOG2_E + log2f(total)) * LN_2;
            }
        }
        store_rows<T, WIDTH>(context + head * WIDTH, hidden, own.first, own.end, out, factor);
    }
}

// Of one query: log_sum_exp in base 2, and delta = sum(grad_context * context), by which the softmax's gradient is P (dP - delta).
struct Statistics {
    float log_sum_exp, delta;
};

// From a [16, 16] block of scores s and of dP = grad_context transpose(V): P = 2^(s scale - log_sum_exp) and dS = P (dP - delta), as A operands; 0 in the
// columns from `valid` on where not FULL. `of` gives the statistics of the query of element i of C tile n.
template <bool FULL, typename T, typename OfElement>
__device__ __forceinline__ void score_gradients(uint32_t (&p)[4], uint32_t (&ds)[4], const float (&s)[2][4], const float (&dp)[2][4], float scale_log2,
                                                unsigned valid, OfElement of) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
        float weight[4], gradient[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const Statistics query = of(n, i);
            const bool inside = FULL || 8 * n + threadIdx.x % 4 * 2 + i % 2 < valid;
            weight[i] = inside ? power_of_two(fmaf(s[n][i], scale_log2, -query.log_sum_exp)) : 0.0f;
            gradient[i] = inside ? weight[i] * (dp[n][i] - query.delta) : 0.0f;
        }
        p[2 * n] = pack<T>(weight[0], weight[1]);
        p[2 * n + 1] = pack<T>(weight[2], weight[3]);
        ds[2 * n] = pack<T>(gradient[0], gradient[1]);
        ds[2 * n + 1] = pack<T>(gradient[2], gradient[3]);
    }
}

// dK and dV of 16 keys by the 16 queries at `lane`, of which the first `valid` exist; `statistics` are the first query's. Rows of C are keys, columns queries.
template <bool FULL, typename T, int WIDTH>
__device__ __forceinline__ void key_gradients(float (&dk)[WIDTH / 8][4], float (&dv)[WIDTH / 8][4], const uint32_t (&k)[WIDTH / 16][4],
                                              const uint32_t (&v)[WIDTH / 16][4], uint32_t q_tile, uint32_t do_tile, const typename Tile<T, WIDTH>::Lane &lane,
                                              const Statistics *statistics, float scale_log2, unsigned valid) {
    float s[2][4] = {}, dp[2][4] = {};
    uint32_t p[4], ds[4];
    Tile<T, WIDTH>::scores(s, k, q_tile, lane);
    Tile<T, WIDTH>::scores(dp, v, do_tile, lane);
    score_gradients<FULL, T>(p, ds, s, dp, scale_log2, valid, [&](int n, int i) {
        const unsigned query = 8 * n + threadIdx.x % 4 * 2 + i % 2;
        return statistics[FULL ? query : min(query, valid - 1)];
    });
    Tile<T, WIDTH>::weighted_sum(dv, p, do_tile, lane);
    Tile<T, WIDTH>::weighted_sum(dk, ds, q_tile, lane);
}

// dQ of 16 queries by the 16 keys at `lane`, of which the first `valid` exist; `statistics` are those of queries g and g + 8. Rows of C are queries.
template <bool FULL, typename T, int WIDTH>
__device__ __forceinline__ void query_gradients(float (&dq)[WIDTH / 8][4], const uint32_t (&q)[WIDTH / 16][4], const uint32_t (&d_out)[WIDTH / 16][4],
                                                uint32_t k_tile, uint32_t v_tile, const typename Tile<T, WIDTH>::Lane &lane, const Statistics (&statistics)[2],
                                                float scale_log2, unsigned valid) {
    float s[2][4] = {}, dp[2][4] = {};
    uint32_t p[4], ds[4];
    Tile<T, WIDTH>::scores(s, q, k_tile, lane);
    Tile<T, WIDTH>::scores(dp, d_out, v_tile, lane);
    score_gradients<FULL, T>(p, ds, s, dp, scale_log2, valid, [&](int, int i) { return statistics[i / 2]; });
    Tile<T, WIDTH>::weighted_sum(dq, ds, k_tile, lane);
}

// grad_context, context [rows, hidden], qkv [rows, 3 * hidden], log_sum_exp [heads, rows] -> grad_qkv [rows, 3 * hidden].
// First each warp has 16 keys and walks through the queries (dK, dV), then it has 16 queries and walks through the keys (dQ): scores are computed twice,
// but nothing is summed between warps, and where `whole` all is read once.
template <typename T, int WIDTH>
__device__ __forceinline__ void backward(const T *qkv, const uint4 *tiles, unsigned rows, unsigned heads, float scale, const T *context,
                                         const float *log_sum_exp, const T *grad_context, T *grad_qkv) {
    using Rows = Tile<T, WIDTH>;
    using Lane = typename Rows::Lane;
    extern __shared__ __align__(128) unsigned char memory[];
    const uint32_t q_tile = shared_address(memory), do_tile = q_tile + Rows::BYTES, k_tile = do_tile + Rows::BYTES, v_tile = k_tile + Rows::BYTES;
    Statistics *statistics = reinterpret_cast<Statistics *>(memory + 4 * Rows::BYTES);  // of the queries in the tile
    const unsigned tile = blockIdx.x / heads, head = blockIdx.x % heads;
    const unsigned range_start = load_fragment(tiles, tile, 0, rows).start;
    const Fragment own = load_fragment(tiles, tile, threadIdx.x / 32, rows);
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const size_t hidden = heads * WIDTH, stride = 3 * hidden;
    const float scale_log2 = scale * LOG2_E;
    const T *from = qkv + head * WIDTH;
    T *to = grad_qkv + head * WIDTH;
    context += head * WIDTH;
    grad_context += head * WIDTH;
    log_sum_exp += size_t(head) * rows;
    const bool active = own.first < own.end;
    const bool whole = own.range_end - range_start <= Rows::ROWS;

    {
        uint32_t k[WIDTH / 16][4], v[WIDTH / 16][4];
        float dk[WIDTH / 8][4] = {}, dv[WIDTH / 8][4] = {};
        for (unsigned tile_start = range_start; tile_start < own.range_end; tile_start += Rows::ROWS) {
            const unsigned count = min(own.range_end - tile_start, Rows::ROWS);
            if (tile_start > range_start) {
                __syncthreads();  // all have read the tile before
            }
            Rows::copy(q_tile, from + tile_start * stride, stride, count);
            Rows::copy(do_tile, grad_context + tile_start * hidden, hidden, count);
            if (whole) {
                Rows::copy(k_tile, from + hidden + tile_start * stride, stride, count);
                Rows::copy(v_tile, from + 2 * hidden + tile_start * stride, stride, count);
            }
            uint4 o[Rows::COPIES];
#pragma unroll
            for (int i = 0; i < Rows::COPIES; i++) {
                const unsigned item = i * THREADS + threadIdx.x, row = item / Rows::CHUNKS, chunk = item % Rows::CHUNKS;
                o[i] = row < count ? *reinterpret_cast<const uint4 *>(context + (tile_start + row) * hidden + chunk * 8) : make_uint4(0, 0, 0, 0);
            }
            if (!whole && tile_start == range_start && active) {
                load_rows<T, WIDTH>(k, from + hidden, stride, own.first, own.end);
                load_rows<T, WIDTH>(v, from + 2 * hidden, stride, own.first, own.end);
            }
            wait_for_copies();
#pragma unroll
            for (int i = 0; i < Rows::COPIES; i++) {
                // The very chunk of grad_context that this thread copied: no barrier needed yet.
                const unsigned item = i * THREADS + threadIdx.x, row = item / Rows::CHUNKS, chunk = item % Rows::CHUNKS;
                float delta = 0;
                if (row < count) {
                    delta = dot_8<T>(o[i], *reinterpret_cast<const uint4 *>(memory + Rows::BYTES + Rows::offset(row, chunk)));
                }
#pragma unroll
                for (int distance = 1; distance < Rows::CHUNKS; distance *= 2) {
                    delta += __shfl_xor_sync(0xffffffffu, delta, distance);
                }
                if (row < count && chunk == 0) {
                    statistics[row] = {log_sum_exp[tile_start + row] * LOG2_E, delta};
                }
            }
            __syncthreads();
            if (active) {
                if (whole) {
                    const Lane mine(own.first - range_start, own.end - range_start);
                    Rows::fragments(k, k_tile, mine);
                    Rows::fragments(v, v_tile, mine);
                }
                const unsigned end = min(own.end - tile_start, count);
                unsigned query = own.start > tile_start ? own.start - tile_start : 0;
                Lane lane(query, end);
                for (; query + 16 <= end; query += 16) {
                    key_gradients<true, T, WIDTH>(dk, dv, k, v, q_tile, do_tile, lane, statistics + query, scale_log2, 16);
                    lane.advance(16);
                }
                if (query < end) {
                    key_gradients<false, T, WIDTH>(dk, dv, k, v, q_tile, do_tile, Lane(query, end), statistics + query, scale_log2, end - query);
                }
            }
        }
        if (active) {
            store_rows<T, WIDTH>(to + hidden, stride, own.first, own.end, dk, {scale, scale});
            store_rows<T, WIDTH>(to + 2 * hidden, stride, own.first, own.end, dv, {1, 1});
        }
    }

    uint32_t q[WIDTH / 16][4], d_out[WIDTH / 16][4];
    Statistics of_row[2];
    float dq[WIDTH / 8][4] = {};
    if (active && whole) {
        const Lane mine(own.first - range_start, own.end - range_start);
        Rows::fragments(q, q_tile, mine);
        Rows::fragments(d_out, do_tile, mine);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            of_row[half] = statistics[min(own.first + g + 8 * half, own.end - 1) - range_start];
        }
    } else if (active) {
        load_rows<T, WIDTH>(q, from, stride, own.first, own.end);
        load_rows<T, WIDTH>(d_out, grad_context, hidden, own.first, own.end);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned row = min(own.first + g + 8 * half, own.end - 1);
            float delta = 0;
#pragma unroll
            for (int chunk = 0; chunk < Rows::CHUNKS; chunk += 4) {
                const size_t at = row * hidden + (chunk + t) * 8;
                delta += dot_8<T>(*reinterpret_cast<const uint4 *>(context + at), *reinterpret_cast<const uint4 *>(grad_context + at));
            }
            of_row[half] = {log_sum_exp[row] * LOG2_E, sum_in_quad(delta)};
        }
    }
    for (unsigned tile_start = range_start; tile_start < own.range_end; tile_start += Rows::ROWS) {
        const unsigned count = min(own.range_end - tile_start, Rows::ROWS);
        if (!whole) {
            __syncthreads();
            Rows::copy(k_tile, from + hidden + tile_start * stride, stride, count);
            Rows::copy(v_tile, from + 2 * hidden + tile_start * stride, stride, count);
            wait_for_copies();
            __syncthreads();
        }
        if (active) {
            const unsigned end = min(own.end - tile_start, count);
            unsigned key = own.start > tile_start ? own.start - tile_start : 0;
            Lane lane(key, end);
            for (; key + 16 <= end; key += 16) {
                query_gradients<true, T, WIDTH>(dq, q, d_out, k_tile, v_tile, lane, of_row, scale_log2, 16);
                lane.advance(16);
            }
            if (key < end) {
                query_gradients<false, T, WIDTH>(dq, q, d_out, k_tile, v_tile, Lane(key, end), of_row, scale_log2, end - key);
            }
        }
    }
    if (active) {
        store_rows<T, WIDTH>(to, stride, own.first, own.end, dq, {scale, scale});
    }
}

// Blocks on one multiprocessor: as many as registers suffice for without spilling in an inner loop.
constexpr int FORWARD_BLOCKS_32 = 4, FORWARD_BLOCKS_64 = 2, BACKWARD_BLOCKS_32 = 3, BACKWARD_BLOCKS_64 = 2;

}  // namespace

// Grid: tiles * heads, the heads of a tile side by side, because their rows share lines of memory.
#define ATTENTION(SUFFIX, T, WIDTH)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS_##WIDTH) attention_forward_##WIDTH##_##SUFFIX(                  \
        const T *qkv, const uint4 *tiles, unsigned rows, unsigned heads, float scale, T *context, float *log_sum_exp) {                  \
        forward<T, WIDTH>(qkv, tiles, rows, heads, scale, context, log_sum_exp);                                                         \
    }                                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS_##WIDTH) attention_backward_##WIDTH##_##SUFFIX(                \
        const T *qkv, const uint4 *tiles, unsigned rows, unsigned heads, float scale, const T *context, const float *log_sum_exp,        \
        const T *grad_context, T *grad_qkv) {                                                                                            \
        backward<T, WIDTH>(qkv, tiles, rows, heads, scale, context, log_sum_exp, grad_context, grad_qkv);                                \
    }

ATTENTION(bf16, __nv_bfloat16, 32)
ATTENTION(bf16, __nv_bfloat16, 64)
ATTENTION(f16, __half, 32)
ATTENTION(f16, __half, 64)

// Self-attention within the sequences of a packed batch: FlashAttention-2 (Dao 2023, algorithms 1 and 2), no mask but
// the sequences' ends. A block of 8 warps works on one head and one tile of the list that attention.rs makes: up to 8
// fragments of 16 rows, one a warp, either of one sequence or of several whole short ones that are neighbours.
#include "attention_tile.cuh"

namespace {

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

enum Matrix { KEY, VALUE, QUERY, GRADIENT };  // the tiles in shared memory, forward the first two

constexpr int KEYS = 32;  // keys between two updates of the running maximum

// One step of the online softmax: the KEYS keys from `key` on, those before `end` where not FULL. `lane` stands at
// `key` where FULL.
template <bool FULL, typename Rows>
__device__ __forceinline__ void attend(uint32_t tiles, typename Rows::Lane lane, unsigned key, unsigned end,
                                       float scale_log2, const typename Rows::Operands& q, float (&maximum)[2],
                                       float (&sum)[2], typename Rows::Sums& out) {
    using Lane = typename Rows::Lane;
    float s[KEYS / 16][2][4] = {};
    Lane k_lane = lane;
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        if (FULL) {
            Rows::scores(s[j], q, k_lane, KEY);
            k_lane.advance(16);
        } else if (key + 16 * j < end) {
            Rows::scores(s[j], q, Lane(tiles, key + 16 * j, end), KEY);
        }
    }
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float& score = s[j][i / 4][i % 4];
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
        for (int n = 0; n < Rows::WIDTH / 8; n++) {
            out[n][2 * half] *= shrink;
            out[n][2 * half + 1] *= shrink;
        }
    }
#pragma unroll
    for (int j = 0; j < KEYS / 16; j++) {
        if (FULL || key + 16 * j < end) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float& p = s[j][i / 4][i % 4];
                p = power_of_two(fmaf(p, scale_log2, -shift[i / 2 % 2]));
                sum[i / 2 % 2] += p;
            }
            const uint32_t p[4] = {narrow_pair<typename Rows::T>(s[j][0][0], s[j][0][1]),
                                   narrow_pair<typename Rows::T>(s[j][0][2], s[j][0][3]),
                                   narrow_pair<typename Rows::T>(s[j][1][0], s[j][1][1]),
                                   narrow_pair<typename Rows::T>(s[j][1][2], s[j][1][3])};
            if (FULL) {
                Rows::weighted_sum(out, p, lane, VALUE);
                lane.advance(16);
            } else {
                Rows::weighted_sum(out, p, Lane(tiles, key + 16 * j, end), VALUE);
            }
        }
    }
}

// qkv [rows, 3 * hidden] -> context [rows, hidden], log_sum_exp [heads, rows] (natural logarithm, of scaled scores;
// null: not wanted).
template <typename T, int WIDTH>
__device__ __forceinline__ void forward(const T* qkv, const uint4* tiles, unsigned rows, unsigned heads, float scale,
                                        T* context, float* log_sum_exp) {
    using Rows = Tile<T, WIDTH>;
    __shared__ __align__(128) unsigned char memory[2 * Rows::BYTES];
    const uint32_t shared = shared_address(memory);
    const unsigned tile = blockIdx.x / heads, head = blockIdx.x % heads;
    const unsigned range_start = load_fragment(tiles, tile, 0, rows).start;
    const Fragment own = load_fragment(tiles, tile, threadIdx.x / 32, rows);
    const size_t hidden = heads * WIDTH, stride = 3 * hidden;
    const T* from = qkv + head * WIDTH;
    const bool active = own.first < own.end;

    typename Rows::Operands q;
    typename Rows::Sums out = {};
    float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (unsigned tile_start = range_start; tile_start < own.range_end; tile_start += Rows::ROWS) {
        const unsigned count = min(own.range_end - tile_start, Rows::ROWS);
        if (tile_start > range_start) {
            __syncthreads();  // all have read the tile before
        }
        Rows::copy(shared + KEY * Rows::BYTES, from + hidden + tile_start * stride, stride, count);
        Rows::copy(shared + VALUE * Rows::BYTES, from + 2 * hidden + tile_start * stride, stride, count);
        if (tile_start == range_start && active) {
            load_rows<Rows>(q, from, stride, own.first, own.end);
        }
        wait_for_copies();
        __syncthreads();
        if (active) {
            const unsigned end = min(own.end - tile_start, count);
            unsigned key = own.start > tile_start ? own.start - tile_start : 0;
            typename Rows::Lane lane(shared, key, end);
            for (; key + KEYS <= end; key += KEYS) {
                attend<true, Rows>(shared, lane, key, end, scale * LOG2_E, q, maximum, sum, out);
                lane.advance(KEYS);
            }
            if (key < end) {
                attend<false, Rows>(shared, lane, key, end, scale * LOG2_E, q, maximum, sum, out);
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
        store_rows<Rows>(context + head * WIDTH, hidden, own.first, own.end, out, factor);
    }
}

template <typename T>
__device__ __forceinline__ float dot_8(uint4 a, uint4 b) {
    const uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 p = widen_pair<T>(x[i]), q = widen_pair<T>(y[i]);
        sum = fmaf(p.x, q.x, fmaf(p.y, q.y, sum));
    }
    return sum;
}

// Of one query: log_sum_exp in base 2, and delta = sum(grad_context * context), by which the softmax's gradient is P
// (dP - delta).
struct Statistics {
    float log_sum_exp, delta;
};

// From a [16, 16] block of scores s and of dP = grad_context transpose(V): P = 2^(s scale - log_sum_exp) and dS = P (dP
// - delta), as A operands; 0 in the columns from `valid` on where not FULL. `of` gives the statistics of the query of
// element i of C tile n.
template <bool FULL, typename T, typename OfElement>
__device__ __forceinline__ void score_gradients(uint32_t (&p)[4], uint32_t (&ds)[4], const float (&s)[2][4],
                                                const float (&dp)[2][4], float scale_log2, unsigned valid,
                                                OfElement of) {
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
        p[2 * n] = narrow_pair<T>(weight[0], weight[1]);
        p[2 * n + 1] = narrow_pair<T>(weight[2], weight[3]);
        ds[2 * n] = narrow_pair<T>(gradient[0], gradient[1]);
        ds[2 * n + 1] = narrow_pair<T>(gradient[2], gradient[3]);
    }
}

// dK and dV of the 16 keys k, v (at `mine` in shared memory) by the 16 queries at `lane`, of which the first `valid`
// exist; `statistics` are the first query's. Rows of C are keys, columns queries. Heads of 64 read v anew each time:
// there are not the registers to keep it.
template <bool FULL, typename Rows>
__device__ __forceinline__ void key_gradients(typename Rows::Sums& dk, typename Rows::Sums& dv,
                                              const typename Rows::Operands& k, typename Rows::Operands& v,
                                              const typename Rows::Lane& mine, const typename Rows::Lane& lane,
                                              const Statistics* statistics, float scale_log2, unsigned valid) {
    float s[2][4] = {}, dp[2][4] = {};
    uint32_t p[4], ds[4];
    Rows::scores(s, k, lane, QUERY);
    if (Rows::WIDTH == 64) {
        Rows::fragments(v, mine, VALUE);
    }
    Rows::scores(dp, v, lane, GRADIENT);
    score_gradients<FULL, typename Rows::T>(p, ds, s, dp, scale_log2, valid, [&](int n, int i) {
        const unsigned query = 8 * n + threadIdx.x % 4 * 2 + i % 2;
        return statistics[FULL ? query : min(query, valid - 1)];
    });
    Rows::weighted_sum(dv, p, lane, GRADIENT);
    Rows::weighted_sum(dk, ds, lane, QUERY);
}

// dQ of 16 queries by the 16 keys at `lane`, of which the first `valid` exist; `statistics` are those of queries g and
// g + 8. Rows of C are queries.
template <bool FULL, typename Rows>
__device__ __forceinline__ void query_gradients(typename Rows::Sums& dq, const typename Rows::Operands& q,
                                                const typename Rows::Operands& d_out, const typename Rows::Lane& lane,
                                                const Statistics (&statistics)[2], float scale_log2, unsigned valid) {
    float s[2][4] = {}, dp[2][4] = {};
    uint32_t p[4], ds[4];
    Rows::scores(s, q, lane, KEY);
    Rows::scores(dp, d_out, lane, VALUE);
    score_gradients<FULL, typename Rows::T>(p, ds, s, dp, scale_log2, valid,
                                            [&](int, int i) { return statistics[i / 2]; });
    Rows::weighted_sum(dq, ds, lane, KEY);
}

// grad_context, context [rows, hidden], qkv [rows, 3 * hidden], log_sum_exp [heads, rows] -> grad_qkv [rows, 3 *
// hidden]. First each warp has 16 keys and walks through the queries (dK, dV), then it has 16 queries and walks through
// the keys (dQ): scores are computed twice, but nothing is summed between warps, and where the `whole` range fits in a
// Tile, all is read once.
template <typename T, int WIDTH>
__device__ __forceinline__ void backward(const T* qkv, const uint4* tiles, unsigned rows, unsigned heads, float scale,
                                         const T* context, const float* log_sum_exp, const T* grad_context,
                                         T* grad_qkv) {
    using Rows = Tile<T, WIDTH>;
    using Lane = typename Rows::Lane;
    extern __shared__ __align__(128) unsigned char memory[];
    const uint32_t shared = shared_address(memory);
    Statistics* statistics = reinterpret_cast<Statistics*>(memory + 4 * Rows::BYTES);  // of the queries in the tile
    const unsigned tile = blockIdx.x / heads, head = blockIdx.x % heads;
    const Fragment lead = load_fragment(tiles, tile, 0, rows), own = load_fragment(tiles, tile, threadIdx.x / 32, rows);
    const unsigned range_start = lead.start, range_end = lead.range_end;
    const bool active = own.first < own.end, whole = range_end - range_start <= Rows::ROWS;
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const size_t hidden = heads * WIDTH, stride = 3 * hidden;
    const float scale_log2 = scale * LOG2_E;
    const T* from = qkv + head * WIDTH;
    T* to = grad_qkv + head * WIDTH;
    context += head * WIDTH;
    grad_context += head * WIDTH;
    log_sum_exp += size_t(head) * rows;

    {
        // Where not whole, the keys' tiles hold the block's own 16 * WARPS rows in this half and the range, piece by
        // piece, in the other.
        const unsigned keys_start = whole ? range_start : lead.first;
        const unsigned keys = min(range_end - keys_start, whole ? Rows::ROWS : 16 * WARPS);
        Rows::copy(shared + KEY * Rows::BYTES, from + hidden + keys_start * stride, stride, keys);
        Rows::copy(shared + VALUE * Rows::BYTES, from + 2 * hidden + keys_start * stride, stride, keys);
        const Lane mine(shared, own.first - keys_start, own.end - keys_start);
        typename Rows::Operands k, v;
        typename Rows::Sums dk = {}, dv = {};
        for (unsigned tile_start = range_start; tile_start < range_end; tile_start += Rows::ROWS) {
            const unsigned count = min(range_end - tile_start, Rows::ROWS);
            if (tile_start > range_start) {
                __syncthreads();  // all have read the tile before
            }
            Rows::copy(shared + QUERY * Rows::BYTES, from + tile_start * stride, stride, count);
            Rows::copy(shared + GRADIENT * Rows::BYTES, grad_context + tile_start * hidden, hidden, count);
            uint4 o[Rows::COPIES];
#pragma unroll
            for (int i = 0; i < Rows::COPIES; i++) {
                const unsigned item = i * THREADS + threadIdx.x, row = item / Rows::CHUNKS, chunk = item % Rows::CHUNKS;
                o[i] = row < count ? load_eight(context + (tile_start + row) * hidden, chunk) : make_uint4(0, 0, 0, 0);
            }
            wait_for_copies();
#pragma unroll
            for (int i = 0; i < Rows::COPIES; i++) {
                // The very chunk of grad_context that this thread copied: no barrier needed yet.
                const unsigned item = i * THREADS + threadIdx.x, row = item / Rows::CHUNKS, chunk = item % Rows::CHUNKS;
                float delta = 0;
                if (row < count) {
                    delta = dot_8<T>(o[i], load_eight(memory + GRADIENT * Rows::BYTES + Rows::offset(row, chunk), 0));
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
                if (tile_start == range_start) {
                    Rows::fragments(k, mine, KEY);
                    Rows::fragments(v, mine, VALUE);
                }
                const unsigned end = min(own.end - tile_start, count);
                unsigned query = own.start > tile_start ? own.start - tile_start : 0;
                Lane lane(shared, query, end);
                for (; query + 16 <= end; query += 16) {
                    key_gradients<true, Rows>(dk, dv, k, v, mine, lane, statistics + query, scale_log2, 16);
                    lane.advance(16);
                }
                if (query < end) {
                    key_gradients<false, Rows>(dk, dv, k, v, mine, Lane(shared, query, end), statistics + query,
                                               scale_log2, end - query);
                }
            }
        }
        if (active) {
            store_rows<Rows>(to + hidden, stride, own.first, own.end, dk, {scale, scale});
            store_rows<Rows>(to + 2 * hidden, stride, own.first, own.end, dv, {1, 1});
        }
    }

    typename Rows::Operands q, d_out;
    Statistics of_row[2];
    typename Rows::Sums dq = {};
    if (active && whole) {
        const Lane mine(shared, own.first - range_start, own.end - range_start);
        Rows::fragments(q, mine, QUERY);
        Rows::fragments(d_out, mine, GRADIENT);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            of_row[half] = statistics[min(own.first + g + 8 * half, own.end - 1) - range_start];
        }
    } else if (active) {
        load_rows<Rows>(q, from, stride, own.first, own.end);
        load_rows<Rows>(d_out, grad_context, hidden, own.first, own.end);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const unsigned row = min(own.first + g + 8 * half, own.end - 1);
            float delta = 0;
#pragma unroll
            for (int chunk = 0; chunk < Rows::CHUNKS; chunk += 4) {
                delta += dot_8<T>(load_eight(context + row * hidden, chunk + t),
                                  load_eight(grad_context + row * hidden, chunk + t));
            }
            of_row[half] = {log_sum_exp[row] * LOG2_E, sum_in_quad(delta)};
        }
    }
    for (unsigned tile_start = range_start; tile_start < range_end; tile_start += Rows::ROWS) {
        const unsigned count = min(range_end - tile_start, Rows::ROWS);
        if (!whole) {
            __syncthreads();  // all have read the tile before
            Rows::copy(shared + KEY * Rows::BYTES, from + hidden + tile_start * stride, stride, count);
            Rows::copy(shared + VALUE * Rows::BYTES, from + 2 * hidden + tile_start * stride, stride, count);
            wait_for_copies();
            __syncthreads();
        }
        if (active) {
            const unsigned end = min(own.end - tile_start, count);
            unsigned key = own.start > tile_start ? own.start - tile_start : 0;
            Lane lane(shared, key, end);
            for (; key + 16 <= end; key += 16) {
                query_gradients<true, Rows>(dq, q, d_out, lane, of_row, scale_log2, 16);
                lane.advance(16);
            }
            if (key < end) {
                query_gradients<false, Rows>(dq, q, d_out, Lane(shared, key, end), of_row, scale_log2, end - key);
            }
        }
    }
    if (active) {
        store_rows<Rows>(to, stride, own.first, own.end, dq, {scale, scale});
    }
}

// Blocks on one multiprocessor: as many as registers suffice for without spilling in an inner loop.
constexpr int FORWARD_BLOCKS_32 = 4, FORWARD_BLOCKS_64 = 2, BACKWARD_BLOCKS_32 = 3, BACKWARD_BLOCKS_64 = 2;

}  // namespace

// Grid: tiles * heads, the heads of a tile side by side, because their rows share lines of memory.
#define ATTENTION(SUFFIX, T, WIDTH)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS_##WIDTH)                              \
        attention_forward_##WIDTH##_##SUFFIX(const T* qkv, const uint4* tiles, unsigned rows, unsigned heads,  \
                                             float scale, T* context, float* log_sum_exp) {                    \
        forward<T, WIDTH>(qkv, tiles, rows, heads, scale, context, log_sum_exp);                               \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS_##WIDTH)                             \
        attention_backward_##WIDTH##_##SUFFIX(const T* qkv, const uint4* tiles, unsigned rows, unsigned heads, \
                                              float scale, const T* context, const float* log_sum_exp,         \
                                              const T* grad_context, T* grad_qkv) {                            \
        backward<T, WIDTH>(qkv, tiles, rows, heads, scale, context, log_sum_exp, grad_context, grad_qkv);      \
    }

ATTENTION(bf16, __nv_bfloat16, 32)
ATTENTION(bf16, __nv_bfloat16, 64)
ATTENTION(f16, __half, 32)
ATTENTION(f16, __half, 64)

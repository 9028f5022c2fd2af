// Motion labels: where motion boundaries are largest, their direction, the frame of the largest.
//
// largest_flow       float32 flow only: the largest |f| of a clip's component, for its fixed point
// motion_boundaries  flow -> votes of every cell, magnitude of every field
// motion_labels      votes and magnitudes -> 14 labels
//
// The arithmetic is that of cpu.py, operation by operation, bit for bit. Compiled with
// --fmad=false, after reduce.cuh, with the constants of launches.py (SIZE, CELLS, ...).

constexpr int COMPONENTS = 2;  // u, v
constexpr int SPAN = QUAD + 2;  // the pixels of a thread, neighbours in a row, and one on either side
static_assert(QUAD == 4, "loads are written for four pixels");
constexpr int QUADS_A_ROW = SIZE / QUAD;

__device__ inline float magnitude(int x, int y) {
    const float a = static_cast<float>(x), b = static_cast<float>(y);
    return sqrtf(a * a + b * b);
}

// ---- flow as integers -------------------------------------------------------------------------

struct CodedFlow {
    static constexpr float FRACTION = CODED_FRACTION;
    const unsigned char* flow;  // [F,S,S,2] of one clip

    __device__ void load(int row, int column, int (&q)[COMPONENTS][SPAN]) const {
        const uchar2* pixel = reinterpret_cast<const uchar2*>(flow) + row * SIZE;
        const uchar2 before = pixel[max(column - 1, 0)], after = pixel[min(column + QUAD, SIZE - 1)];
        const uint2 quad = *reinterpret_cast<const uint2*>(pixel + column);
        q[0][0] = before.x, q[1][0] = before.y;
        q[0][1] = quad.x & 0xff, q[1][1] = quad.x >> 8 & 0xff;
        q[0][2] = quad.x >> 16 & 0xff, q[1][2] = quad.x >> 24;
        q[0][3] = quad.y & 0xff, q[1][3] = quad.y >> 8 & 0xff;
        q[0][4] = quad.y >> 16 & 0xff, q[1][4] = quad.y >> 24;
        q[0][5] = after.x, q[1][5] = after.y;
    }
};

struct FloatFlow {
    static constexpr float FRACTION = 1.0f;
    const float* flow;  // [F,S,S,2] of one clip
    float u_scale, v_scale;

    __device__ void load(int row, int column, int (&q)[COMPONENTS][SPAN]) const {
        const float2* pixel = reinterpret_cast<const float2*>(flow) + row * SIZE;
        const float2 before = pixel[max(column - 1, 0)], after = pixel[min(column + QUAD, SIZE - 1)];
        const float4* quad = reinterpret_cast<const float4*>(pixel + column);
        const float4 left = quad[0], right = quad[1];
        const float u[SPAN] = {before.x, left.x, left.z, right.x, right.z, after.x};
        const float v[SPAN] = {before.y, left.y, left.w, right.y, right.w, after.y};
#pragma unroll
        for (int i = 0; i < SPAN; ++i) {
            q[0][i] = __float2int_rn(u[i] * u_scale);
            q[1][i] = __float2int_rn(v[i] * v_scale);
        }
    }
};

// 2^e, so that q = rint(f * 2^e) of the clip's largest |f| has SUM_BITS - bit_length(fields) bits.
__device__ inline float flow_scale(int largest_bits, int fields) {
    const int binade = (largest_bits >> 23) - 127;
    const int length = 32 - __clz(fields);
    return __uint_as_float((min(SUM_BITS - length - (binade + 1), 126) + 127) << 23);
}

// flow float32 [N,F,S,S,2], `clip_floats` a clip -> largest int32 [N,2], zero before: bits of |f|.
// Grid (any, N).
extern "C" __global__ void __launch_bounds__(256)
largest_flow(const float* __restrict__ flow, int clip_floats, int* __restrict__ largest) {
    const float* clip = flow + static_cast<long long>(blockIdx.y) * clip_floats;
    int u = 0, v = 0;  // without its sign, a float is ordered as its bits are
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < clip_floats / 4;
         i += gridDim.x * blockDim.x) {
        const float4 two = reinterpret_cast<const float4*>(clip)[i];
        u = max(u, max(__float_as_int(fabsf(two.x)), __float_as_int(fabsf(two.z))));
        v = max(v, max(__float_as_int(fabsf(two.y)), __float_as_int(fabsf(two.w))));
    }
    u = warp_max(u);
    v = warp_max(v);
    if (first_lane()) {
        atomicMax(&largest[blockIdx.y * COMPONENTS], u);
        atomicMax(&largest[blockIdx.y * COMPONENTS + 1], v);
    }
}

// ---- orientation votes ------------------------------------------------------------------------

// A vote is summed in two 32-bit parts, since shared memory has no fast 64-bit atomics. A strip
// has at most 1024 pixels of a cell: the low parts of their votes fit, and so do the high ones.
constexpr int LOW_BITS = 20;

struct Votes {
    unsigned low[COMPONENTS * CELLS * ORIENTATIONS];
    int high[COMPONENTS * CELLS * ORIENTATIONS];
};

// Share of a vote that goes to the diagonal: atan(t) / 45 degrees for t in [0, 1].
__device__ inline float octant_share(float t) {
    constexpr float coefficient[] = OCTANT_SHARE;  // lowest order first
    constexpr int order = sizeof(coefficient) / sizeof(float) - 1;
    const float s = t * t;
    float r = coefficient[order];
#pragma unroll
    for (int i = order - 1; i >= 0; --i) r = r * s + coefficient[i];
    return t + t * ((1.0f - s) * r);
}

__device__ inline void vote(Votes& votes, int slot, long long value) {
    atomicAdd(&votes.low[slot], static_cast<unsigned>(value) & ((1u << LOW_BITS) - 1));
    atomicAdd(&votes.high[slot], static_cast<int>(value >> LOW_BITS));
}

__device__ inline void vote_of_pixel(Votes& votes, int first_slot, int x, int y, float fraction) {
    const int wide = abs(x), high = abs(y);
    const float t =
        static_cast<float>(min(wide, high)) / static_cast<float>(max(max(wide, high), 1));
    const float whole = magnitude(x, y) * fraction;
    const long long to_diagonal = static_cast<long long>(whole * octant_share(t));
    const long long to_axis = static_cast<long long>(whole) - to_diagonal;
    const int axis = wide >= high ? (x >= 0 ? 0 : 4) : (y >= 0 ? 2 : 6);
    const int diagonal = y >= 0 ? (x >= 0 ? 1 : 3) : (x >= 0 ? 7 : 5);
    vote(votes, first_slot + axis, to_axis);
    vote(votes, first_slot + diagonal, to_diagonal);
}

// One block: a strip of `strip_rows` rows of one clip, both components, all fields.
template <typename Flow>
__device__ void strip_boundaries(Flow flow, int fields, int strip_rows,
                                 const unsigned char* cell_of_pixel, Votes& votes,
                                 long long* cell_votes, long long* field_sums) {
    constexpr int SLOTS = COMPONENTS * CELLS * ORIENTATIONS;
    for (int slot = threadIdx.x; slot < SLOTS; slot += blockDim.x) {
        votes.low[slot] = 0;
        votes.high[slot] = 0;
    }
    const int quad = threadIdx.x;
    const int row = blockIdx.x * strip_rows + quad / QUADS_A_ROW;
    const int column = quad % QUADS_A_ROW * QUAD;
    const bool inside = quad < strip_rows * QUADS_A_ROW && row < SIZE;
    const int up = max(row - 1, 0), down = min(row + 1, SIZE - 1);

    int x[COMPONENTS][QUAD] = {}, y[COMPONENTS][QUAD] = {};
    for (int t = 0; t < fields; ++t) {
        long long total[COMPONENTS] = {};
        if (inside) {
            int above[COMPONENTS][SPAN], here[COMPONENTS][SPAN], below[COMPONENTS][SPAN];
            flow.load(t * SIZE + up, column, above);
            flow.load(t * SIZE + row, column, here);
            flow.load(t * SIZE + down, column, below);
#pragma unroll
            for (int component = 0; component < COMPONENTS; ++component) {
                int column_sum[SPAN], difference[SPAN];
#pragma unroll
                for (int i = 0; i < SPAN; ++i) {
                    column_sum[i] = above[component][i] + here[component][i] + below[component][i];
                    difference[i] = below[component][i] - above[component][i];
                }
#pragma unroll
                for (int i = 0; i < QUAD; ++i) {
                    const int gx = column_sum[i + 2] - column_sum[i];
                    const int gy = difference[i] + difference[i + 1] + difference[i + 2];
                    x[component][i] += gx;
                    y[component][i] += gy;
                    total[component] += static_cast<unsigned>(magnitude(gx, gy) * Flow::FRACTION);
                }
            }
        }
#pragma unroll
        for (int component = 0; component < COMPONENTS; ++component) {
            const long long sum = warp_sum(total[component]);
            if (first_lane()) atomic_add(&field_sums[component * fields + t], sum);
        }
    }

    __syncthreads();
    if (inside) {
#pragma unroll
        for (int i = 0; i < QUAD; ++i) {
            const int cell = cell_of_pixel[row * SIZE + column + i];
#pragma unroll
            for (int component = 0; component < COMPONENTS; ++component) {
                vote_of_pixel(votes, (component * CELLS + cell) * ORIENTATIONS, x[component][i],
                              y[component][i], Flow::FRACTION);
            }
        }
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < SLOTS; slot += blockDim.x) {
        const long long value =
            (static_cast<long long>(votes.high[slot]) << LOW_BITS) + votes.low[slot];
        if (value) atomic_add(&cell_votes[slot], value);
    }
}

// flow uint8 [N,F,S,S,2] -> votes int64 [N,2,CELLS,8], field_sums int64 [N,2,F], both zero before.
// Grid (strips, N); a block has a thread for every quad of a strip, rounded up to whole warps.
extern "C" __global__ void __launch_bounds__(STRIP_THREADS, 3)
motion_boundaries_uint8(const unsigned char* __restrict__ flow, int fields, int strip_rows,
                        const unsigned char* __restrict__ cell_of_pixel,
                        long long* __restrict__ votes, long long* __restrict__ field_sums) {
    __shared__ Votes strip;
    const long long clip = blockIdx.y;
    const CodedFlow coded = {flow + clip * fields * SIZE * SIZE * COMPONENTS};
    strip_boundaries(coded, fields, strip_rows, cell_of_pixel, strip,
                     votes + clip * COMPONENTS * CELLS * ORIENTATIONS,
                     field_sums + clip * COMPONENTS * fields);
}

// The same for float32 flow; largest int32 [N,2] from largest_flow.
extern "C" __global__ void __launch_bounds__(STRIP_THREADS, 3)
motion_boundaries_float32(const float* __restrict__ flow, const int* __restrict__ largest,
                          int fields, int strip_rows,
                          const unsigned char* __restrict__ cell_of_pixel,
                          long long* __restrict__ votes, long long* __restrict__ field_sums) {
    __shared__ Votes strip;
    const long long clip = blockIdx.y;
    const FloatFlow scaled = {flow + clip * fields * SIZE * SIZE * COMPONENTS,
                              flow_scale(largest[clip * COMPONENTS], fields),
                              flow_scale(largest[clip * COMPONENTS + 1], fields)};
    strip_boundaries(scaled, fields, strip_rows, cell_of_pixel, strip,
                     votes + clip * COMPONENTS * CELLS * ORIENTATIONS,
                     field_sums + clip * COMPONENTS * fields);
}

// ---- labels -----------------------------------------------------------------------------------

// votes, field_sums as above -> labels int64 [N,MOTION_LABELS]. Grid (N). Without the 1, NVRTC 13.0
// saves registers for sm_100 until some spill.
extern "C" __global__ void __launch_bounds__(256, 1)
motion_labels(const long long* __restrict__ votes, const long long* __restrict__ field_sums,
              int fields, long long* __restrict__ labels) {
    __shared__ long long cell_votes[COMPONENTS][CELLS][ORIENTATIONS];
    __shared__ long long block_votes[COMPONENTS][BLOCKS][ORIENTATIONS];
    const long long clip = blockIdx.x;
    votes += clip * COMPONENTS * CELLS * ORIENTATIONS;
    field_sums += clip * COMPONENTS * fields;
    labels += clip * MOTION_LABELS;

    for (int i = threadIdx.x; i < COMPONENTS * CELLS * ORIENTATIONS; i += blockDim.x) {
        (&cell_votes[0][0][0])[i] = votes[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < COMPONENTS * BLOCKS * ORIENTATIONS; i += blockDim.x) {
        const int component = i / (BLOCKS * ORIENTATIONS);
        const int block = i / ORIENTATIONS % BLOCKS, bin = i % ORIENTATIONS;
        long long sum = 0;
        for (int cell = 0; cell < CELLS; ++cell) {
            if (is_in_block(cell, block)) sum += cell_votes[component][cell][bin];
        }
        block_votes[component][block][bin] = sum;
    }
    __syncthreads();

    if (threadIdx.x < COMPONENTS * PATTERNS) {
        const int component = threadIdx.x / PATTERNS, pattern = threadIdx.x % PATTERNS;
        int best = 0;
        double best_mean = -1.0;
        for (int block = PATTERN_START[pattern]; block < PATTERN_START[pattern + 1]; ++block) {
            long long sum = 0;
            for (int bin = 0; bin < ORIENTATIONS; ++bin) sum += block_votes[component][block][bin];
            const double mean = static_cast<double>(sum) / static_cast<double>(BLOCK_AREA[block]);
            if (mean > best_mean) {
                best = block;
                best_mean = mean;
            }
        }
        // The published code's gradients have the opposite sign: half a turn.
        constexpr int turn = REFERENCE ? ORIENTATIONS / 2 : 0;
        const long long* bins = block_votes[component][best];
        int orientation = 0;
        for (int bin = 1; bin < ORIENTATIONS; ++bin) {
            if (bins[(bin + turn) % ORIENTATIONS] > bins[(orientation + turn) % ORIENTATIONS]) {
                orientation = bin;
            }
        }
        const bool still = REFERENCE && pattern == 0 && best_mean == 0.0;
        labels[POSITION_COLUMN[component][pattern]] = still ? 0 : best - PATTERN_START[pattern] + 1;
        labels[ORIENTATION_COLUMN[component][pattern]] = still ? 0 : orientation + 1;
    } else if (threadIdx.x < COMPONENTS * (PATTERNS + 1)) {
        const int component = threadIdx.x - COMPONENTS * PATTERNS;
        const long long* sums = field_sums + component * fields;
        int best = 0;
        for (int t = 1; t < (REFERENCE ? fields - 1 : fields); ++t) {
            if (sums[t] > sums[best]) best = t;
        }
        labels[FRAME_COLUMN[component]] = best + 1;
    }
}

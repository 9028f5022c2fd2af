// TV-L1 optical flow for many frame pairs of one size, and its crop as bytes.
//
// For frames I0 and I1 it minimises over the flow u = (u, v)
//     sum  lambda |I1(x + u) - I0(x)| + |grad u| + |grad v|
// coarse to fine, by alternating a pointwise step on the data term, linearised around the warped
// I1, with a dual step on the total variation (Zach, Pock and Bischof, DAGM 2007; parameters and
// conventions of OpenCV's DualTVL1OpticalFlow). kernels/flow/tvl1.py says what can be set, and
// kernels/flow/cuda.py drives the launches.
//
// Images and fields are float32 planes [planes,h,w]. Fields of n pairs are stored field first:
// flow [2,n,h,w] = (u, v), dual [4,n,h,w] = (u_x, u_y, v_x, v_y), data [3,n,h,w] = (I_x, I_y, rho).
// #defines from cuda.py: TILE_W TILE_H ROWS HALO (the tile of `iterate`) and FLOW_LIMIT_PX.

// A pixel of this thread, in a grid of blocks that covers [planes,h,w]; false outside the image.
__device__ bool find_pixel(int h, int w, int* x, int* y) {
    *x = blockIdx.x * blockDim.x + threadIdx.x;
    *y = blockIdx.y * blockDim.y + threadIdx.y;
    return *x < w && *y < h;
}

// The grey value of OpenCV's RGB2GRAY, an integer.
extern "C" __global__ void grey(const unsigned char* __restrict__ rgb,  // [frames,h,w,3]
                                int h, int w,
                                float* __restrict__ out) {  // [frames,h,w]
    int x, y;
    if (!find_pixel(h, w, &x, &y)) return;
    const size_t i = (static_cast<size_t>(blockIdx.z) * h + y) * w + x;
    const unsigned char* p = rgb + 3 * i;
    out[i] = static_cast<float>((9798 * p[0] + 19235 * p[1] + 3735 * p[2] + (1 << 14)) >> 15);
}

// Where bilinear sampling of `size` values finds position `at`: between `low` and `high`, `weight`
// of the way. The edge value goes on outside.
struct Between {
    int low, high;
    float weight;
};

__device__ Between between(float at, int size) {
    const float inside = fminf(fmaxf(at, 0.f), static_cast<float>(size - 1));
    const int low = static_cast<int>(inside);
    return {low, min(low + 1, size - 1), inside - static_cast<float>(low)};
}

template <typename Value>
__device__ float blend(const Value& value, const Between& row, const Between& column) {
    const auto along = [&](int r) {
        return value(r, column.low) * (1.f - column.weight) + value(r, column.high) * column.weight;
    };
    return along(row.low) * (1.f - row.weight) + along(row.high) * row.weight;
}

// Bilinear resizing without antialiasing, pixel centres at halves; values are multiplied by `gain`.
extern "C" __global__ void resize(const float* __restrict__ in,  // [planes,from_h,from_w]
                                  int from_h, int from_w,
                                  float step_y, float step_x,  // input pixels per output pixel
                                  float gain,
                                  int h, int w,
                                  float* __restrict__ out) {  // [planes,h,w]
    int x, y;
    if (!find_pixel(h, w, &x, &y)) return;
    const Between row = between((y + 0.5f) * step_y - 0.5f, from_h);
    const Between column = between((x + 0.5f) * step_x - 0.5f, from_w);
    in += static_cast<size_t>(blockIdx.z) * from_h * from_w;
    const auto value = [&](int r, int c) { return in[r * from_w + c]; };
    out[(static_cast<size_t>(blockIdx.z) * h + y) * w + x] = blend(value, row, column) * gain;
}

// A pixel of a frame pair, for the linearisation around the present flow.
struct Pixel {
    int x, y;
    size_t i, field;       // its place in a plane of fields [n,h,w], and the size of such a plane
    const float *I0, *I1;  // the pair's images [h,w]
    float u, v;
};

// False outside the image.
__device__ bool find_pixel_of_pair(const float* images,  // [clips,frames,h,w]
                                   const float* flow,    // [2,n,h,w]
                                   int frames,           // of a clip; it has frames - 1 pairs
                                   int h, int w, Pixel* pixel) {
    int x, y;
    if (!find_pixel(h, w, &x, &y)) return false;
    const int pair = blockIdx.z;
    const size_t plane = static_cast<size_t>(h) * w, field = gridDim.z * plane;
    const size_t i = pair * plane + y * w + x;
    const float* I0 = images + (pair / (frames - 1) * frames + pair % (frames - 1)) * plane;
    *pixel = {x, y, i, field, I0, I0 + plane, flow[i], flow[field + i]};
    return true;
}

// Weights of four neighbours in cubic convolution (A = -0.75), t in [0, 1) past the second.
__device__ void cubic(float t, float weight[4]) {
    const float A = -0.75f, s = 1.f - t;
    weight[0] = ((A * (t + 1.f) - 5.f * A) * (t + 1.f) + 8.f * A) * (t + 1.f) - 4.f * A;
    weight[1] = ((A + 2.f) * t - (A + 3.f)) * t * t + 1.f;
    weight[2] = ((A + 2.f) * s - (A + 3.f)) * s * s + 1.f;
    weight[3] = 1.f - weight[0] - weight[1] - weight[2];
}

// Linearises the data term around the present flow: rho(u') = rho + (I_x, I_y) . u', where I_x and
// I_y are the gradient of I1, all sampled bicubically at x + u. Outside the frame they are 0, so
// that motion out of the frame is filled in from its surroundings.
extern "C" __global__ void warp(const float* __restrict__ images,  // [clips,frames,h,w]
                                const float* __restrict__ flow,    // [2,n,h,w]
                                int frames,  // of a clip; it has frames - 1 pairs
                                int h, int w,
                                float* __restrict__ data) {  // [3,n,h,w]
    Pixel here;
    if (!find_pixel_of_pair(images, flow, frames, h, w, &here)) return;
    const auto [x, y, i, field, I0, I1, u, v] = here;

    // Beyond 4 pixels outside nothing is sampled; the limits keep the conversion to int defined.
    const float at_x = fminf(fmaxf(x + u, -4.f), w + 4.f), left = floorf(at_x);
    const float at_y = fminf(fmaxf(y + v, -4.f), h + 4.f), top = floorf(at_y);
    float weight_x[4], weight_y[4];
    cubic(at_x - left, weight_x);
    cubic(at_y - top, weight_y);

    float value = 0.f, gradient_x = 0.f, gradient_y = 0.f;
    for (int j = 0; j < 4; ++j) {
        const int r = static_cast<int>(top) - 1 + j;
        if (r < 0 || r >= h) continue;
        const float* row = I1 + r * w;
        const float* above = I1 + max(r - 1, 0) * w;
        const float* below = I1 + min(r + 1, h - 1) * w;
        float row_value = 0.f, row_x = 0.f, row_y = 0.f;
        for (int k = 0; k < 4; ++k) {
            const int c = static_cast<int>(left) - 1 + k;
            if (c < 0 || c >= w) continue;
            row_value += weight_x[k] * row[c];
            row_x += weight_x[k] * (0.5f * (row[min(c + 1, w - 1)] - row[max(c - 1, 0)]));
            row_y += weight_x[k] * (0.5f * (below[c] - above[c]));
        }
        value += weight_y[j] * row_value;
        gradient_x += weight_y[j] * row_x;
        gradient_y += weight_y[j] * row_y;
    }
    data[i] = gradient_x;
    data[field + i] = gradient_y;
    data[2 * field + i] = value - gradient_x * u - gradient_y * v - I0[y * w + x];
}

// Three values in a row or column of pixels, or their weights.
struct Three {
    float before, at, after;
};

__device__ float weigh(const Three& weight, const Three& value) {
    return weight.before * value.before + weight.at * value.at + weight.after * value.after;
}

// Weights of quadratic B-splines `d` past the middle one's pixel, d in [-0.5, 0.5].
__device__ Three quadratic(float d) {
    return {0.5f * (0.5f - d) * (0.5f - d), 0.75f - d * d, 0.5f * (0.5f + d) * (0.5f + d)};
}

// The derivative of what `weigh(quadratic(d), value)` gives.
__device__ float slope(float d, const Three& value) {
    return 0.5f * (value.after - value.before) +
           d * ((value.before - value.at) + (value.after - value.at));
}

// What `of` makes of three pixels in each of three rows, (x, y) in the middle, the edge repeated.
template <typename Of>
__device__ Three rows_around(const float* image, int h, int w, int x, int y, const Of& of) {
    const auto row = [&](int r) {
        const float* value = image + r * w;
        return of(Three{value[max(x - 1, 0)], value[x], value[min(x + 1, w - 1)]});
    };
    return {row(max(y - 1, 0)), row(y), row(min(y + 1, h - 1))};
}

// `warp` with I1 as the quadratic spline whose coefficients are the image, its edge repeated, and
// its own gradient. I0 is what its spline is at its pixels: from 9 cached neighbours, for a pass
// over the images would move 8 more bytes a pixel. Both go through the same operations, so that
// frames that stand still differ by nothing.
extern "C" __global__ void warp_spline(const float* __restrict__ images,  // [clips,frames,h,w]
                                       const float* __restrict__ flow,    // [2,n,h,w]
                                       int frames,  // of a clip; it has frames - 1 pairs
                                       int h, int w,
                                       float* __restrict__ data) {  // [3,n,h,w]
    Pixel here;
    if (!find_pixel_of_pair(images, flow, frames, h, w, &here)) return;
    const float to_x = here.x + here.u, at_x = fminf(fmaxf(to_x, 0.f), w - 1.f);
    const float to_y = here.y + here.v, at_y = fminf(fmaxf(to_y, 0.f), h - 1.f);
    const int x = static_cast<int>(at_x + 0.5f), y = static_cast<int>(at_y + 0.5f);
    const float past_x = at_x - static_cast<float>(x), past_y = at_y - static_cast<float>(y);
    const Three weight_x = quadratic(past_x), weight_y = quadratic(past_y);

    const Three values = rows_around(here.I1, h, w, x, y, [&](const Three& row) {
        return weigh(weight_x, row);
    });
    const Three slopes = rows_around(here.I1, h, w, x, y, [&](const Three& row) {
        return slope(past_x, row);
    });
    const bool inside = at_x == to_x && at_y == to_y;
    const float gradient_x = inside ? weigh(weight_y, slopes) : 0.f;
    const float gradient_y = inside ? slope(past_y, values) : 0.f;

    const Three weight = quadratic(0.f);
    const Three first = rows_around(here.I0, h, w, here.x, here.y, [&](const Three& row) {
        return weigh(weight, row);
    });
    data[here.i] = gradient_x;
    data[here.field + here.i] = gradient_y;
    data[2 * here.field + here.i] = weigh(weight_y, values) -
                                    (gradient_x * here.u + gradient_y * here.v) -
                                    weigh(weight, first);
}

// ---- minimisation around one linearisation ------------------------------------------------------
//
// Iterations run in launches of up to HALO. They end for a pair with the first iteration that
// changes its flow by less than `rest`. No launch can know that while it runs, so each records the
// change of its iterations; the next ones do nothing for a pair at rest; and in the end `settle`
// repeats the pair's last launch up to the right iteration.

// Whether a pair came to rest in iterations before..done-1, those of the launch before. `change`
// [iterations,n] holds the sum of squares over both components, in units of 2^-20 px^2, and 0 for
// iterations that were not done.
__device__ bool rests(const unsigned long long* change, unsigned long long rest, int before,
                      int done, int n, int pair) {
    if (rest == 0) return false;  // `change` is not kept
    for (int i = before; i < done; ++i) {
        if (change[static_cast<size_t>(i) * n + pair] < rest) return true;
    }
    return false;
}

// The median of 5x5 values of u and v, the edge repeated outside; for pairs not at rest.
extern "C" __global__ void median(const float* __restrict__ in,  // [2,n,h,w]
                                  const unsigned long long* __restrict__ change,
                                  unsigned long long rest, int before, int done,
                                  int h, int w,
                                  float* __restrict__ out) {  // [2,n,h,w]
    int x, y;
    const int n = gridDim.z / 2;
    if (!find_pixel(h, w, &x, &y) || rests(change, rest, before, done, n, blockIdx.z % n)) {
        return;
    }
    in += static_cast<size_t>(blockIdx.z) * h * w;
    const auto value = [&](int i) {
        const int row = min(max(y + i / 5 - 2, 0), h - 1), column = min(max(x + i % 5 - 2, 0), w - 1);
        return in[row * w + column];
    };
    const auto order = [](float& low, float& high) {
        const float least = fminf(low, high);
        high = fmaxf(low, high);
        low = least;
    };
    // Neither the least nor the greatest of 14 among 25 values can be their median. Dropped, they
    // make room for the next value, until three are left: the median is the one between.
    float kept[14];
#pragma unroll
    for (int i = 0; i < 14; ++i) kept[i] = value(i);
#pragma unroll
    for (int n = 14; n >= 3; --n) {  // kept[0..n-1]: bring the least to 0, the greatest to n - 1
#pragma unroll
        for (int i = 0; i < n / 2; ++i) order(kept[i], kept[n - 1 - i]);
#pragma unroll
        for (int i = 1; i <= (n - 1) / 2; ++i) order(kept[0], kept[i]);
#pragma unroll
        for (int i = n / 2; i < n - 1; ++i) order(kept[i], kept[n - 1]);
        if (n > 3) kept[0] = value(28 - n);
    }
    out[(static_cast<size_t>(blockIdx.z) * h + y) * w + x] = kept[1];
}

// A tile of TILE_W x TILE_H pixels, whose inner part is written: after k iterations only the k
// outermost pixels miss what lies beyond the tile.
//
//      TILE_W                      A thread has ROWS pixels of one column. Up and down they are
//     +-----------------+          its own registers; sideways, and between the TILE_H / ROWS
//     |  HALO           | TILE_H   strips of a column, values pass through shared memory.
//     |   +---------+   |
//     |   | written |   |          Pixels outside the frame keep dual values of 0, which is the
//     |   +---------+   |          frame's border condition for the divergence.
//     +-----------------+
constexpr int STRIPS = TILE_H / ROWS;

struct Tile {
    float u[TILE_H][TILE_W], v[TILE_H][TILE_W];
    float ux[TILE_H][TILE_W], vx[TILE_H][TILE_W];                // dual of d/dx
    float uy_end[STRIPS + 1][TILE_W], vy_end[STRIPS + 1][TILE_W];  // of d/dy, a strip's last row
};

__device__ __forceinline__ void minimise(Tile& tile,
                                         const float* __restrict__ data,  // [3,n,h,w]
                                         const float* __restrict__ flow,  // [2,n,h,w]
                                         const float* __restrict__ dual,  // [4,n,h,w]
                                         int h, int w, int iterations,
                                         float reach,                 // lambda theta
                                         float theta,
                                         float step,                  // tau / theta
                                         unsigned long long* change,  // [iterations,n], or null
                                         float* __restrict__ next_flow,
                                         float* __restrict__ next_dual) {
    const int column = threadIdx.x, strip = threadIdx.y, first = strip * ROWS;
    const int x = static_cast<int>(blockIdx.x) * (TILE_W - 2 * HALO) - HALO + column;
    const int y = static_cast<int>(blockIdx.y) * (TILE_H - 2 * HALO) - HALO + first;
    const int n = gridDim.z, pair = blockIdx.z;
    const size_t plane = static_cast<size_t>(h) * w, field = n * plane, origin = pair * plane;
    const bool written_column = column >= HALO && column < TILE_W - HALO && x < w;
    const auto written = [&](int r) {
        return written_column && first + r >= HALO && first + r < TILE_H - HALO && y + r < h;
    };

    float u[ROWS], v[ROWS], ux[ROWS], uy[ROWS], vx[ROWS], vy[ROWS];
    float image_x[ROWS], image_y[ROWS], rho[ROWS], inverse[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const bool inside = x >= 0 && x < w && y + r >= 0 && y + r < h;
        const size_t i = inside ? origin + static_cast<size_t>(y + r) * w + x : origin;
        const auto load = [&](const float* from, int k) { return inside ? from[k * field + i] : 0.f; };
        u[r] = load(flow, 0), v[r] = load(flow, 1);
        ux[r] = load(dual, 0), uy[r] = load(dual, 1), vx[r] = load(dual, 2), vy[r] = load(dual, 3);
        image_x[r] = load(data, 0), image_y[r] = load(data, 1), rho[r] = load(data, 2);
        const float square = image_x[r] * image_x[r] + image_y[r] * image_y[r];
        inverse[r] = square > 1.1920929e-7f ? 1.f / square : 0.f;  // no gradient: no data term
        tile.ux[first + r][column] = ux[r], tile.vx[first + r][column] = vx[r];
    }
    if (strip == 0) tile.uy_end[0][column] = tile.vy_end[0][column] = 0.f;
    tile.uy_end[strip + 1][column] = uy[ROWS - 1], tile.vy_end[strip + 1][column] = vy[ROWS - 1];
    __syncthreads();

    const int to_left = max(column - 1, 0);
    const int to_right = min(column + 1, TILE_W - 1), below = min(first + ROWS, TILE_H - 1);
    const bool has_right = x >= 0 && x < w - 1;
    for (int i = 0; i < iterations; ++i) {
        float uy_above = tile.uy_end[strip][column], vy_above = tile.vy_end[strip][column];
        float squares = 0.f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            // The data term pulls along the gradient, to where rho is 0 but no farther than reach.
            const float off = rho[r] + (image_x[r] * u[r] + image_y[r] * v[r]);
            const float pull = fminf(fmaxf(-off * inverse[r], -reach), reach);
            const float u_divergence = ux[r] - tile.ux[first + r][to_left] + (uy[r] - uy_above);
            const float v_divergence = vx[r] - tile.vx[first + r][to_left] + (vy[r] - vy_above);
            const float old_u = u[r], old_v = v[r];
            u[r] = u[r] + pull * image_x[r] + theta * u_divergence;
            v[r] = v[r] + pull * image_y[r] + theta * v_divergence;
            if (change && written(r)) {
                squares += (u[r] - old_u) * (u[r] - old_u) + (v[r] - old_v) * (v[r] - old_v);
            }
            tile.u[first + r][column] = u[r], tile.v[first + r][column] = v[r];
            uy_above = uy[r], vy_above = vy[r];
        }
        if (change) {
            // A sum of integers does not depend on its order. 64 px^2 a thread is far from rest.
            const unsigned long long sum =
                __reduce_add_sync(0xffffffffu, __float2uint_rn(fminf(squares, 64.f) * 1048576.f));
            if (column % 32 == 0) atomicAdd(&change[static_cast<size_t>(i) * n + pair], sum);
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const bool has_below = y + r >= 0 && y + r < h - 1;
            const float u_below = r + 1 < ROWS ? u[r + 1] : tile.u[below][column];
            const float v_below = r + 1 < ROWS ? v[r + 1] : tile.v[below][column];
            const float u_dx = has_right ? tile.u[first + r][to_right] - u[r] : 0.f;
            const float v_dx = has_right ? tile.v[first + r][to_right] - v[r] : 0.f;
            const float u_dy = has_below ? u_below - u[r] : 0.f;
            const float v_dy = has_below ? v_below - v[r] : 0.f;
            const float u_scale = 1.f / (1.f + step * sqrtf(u_dx * u_dx + u_dy * u_dy));
            const float v_scale = 1.f / (1.f + step * sqrtf(v_dx * v_dx + v_dy * v_dy));
            ux[r] = (ux[r] + step * u_dx) * u_scale, uy[r] = (uy[r] + step * u_dy) * u_scale;
            vx[r] = (vx[r] + step * v_dx) * v_scale, vy[r] = (vy[r] + step * v_dy) * v_scale;
            tile.ux[first + r][column] = ux[r], tile.vx[first + r][column] = vx[r];
        }
        tile.uy_end[strip + 1][column] = uy[ROWS - 1];
        tile.vy_end[strip + 1][column] = vy[ROWS - 1];
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (!written(r)) continue;
        const size_t i = origin + static_cast<size_t>(y + r) * w + x;
        next_flow[i] = u[r], next_flow[field + i] = v[r];
        next_dual[i] = ux[r], next_dual[field + i] = uy[r];
        next_dual[2 * field + i] = vx[r], next_dual[3 * field + i] = vy[r];
    }
}

// Iterations done..done+iterations-1, for pairs not at rest. Flow and dual go from one buffer to
// another, since neighbours still read the old: the two change places with every launch.
extern "C" __global__ void __launch_bounds__(TILE_W * TILE_H / ROWS, 2)
iterate(const float* __restrict__ data,
        const float* __restrict__ flow,
        const float* __restrict__ dual,
        int h, int w, int iterations,
        float reach, float theta, float step,
        unsigned long long* change,  // [iterations in all,n], zeroed; not used if rest is 0
        unsigned long long rest, int before, int done,
        float* __restrict__ next_flow,
        float* __restrict__ next_dual) {
    __shared__ Tile tile;
    if (rests(change, rest, before, done, gridDim.z, blockIdx.z)) return;
    minimise(tile, data, flow, dual, h, w, iterations, reach, theta, step,
             rest ? change + static_cast<size_t>(done) * gridDim.z : nullptr, next_flow, next_dual);
}

// After which of its iterations each pair rests; all of them if it never does. One thread a pair.
extern "C" __global__ void count(const unsigned long long* __restrict__ change,  // [iterations,n]
                                 unsigned long long rest, int iterations, int n,
                                 int* __restrict__ counts) {  // [n]
    const int pair = blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= n) return;
    int i = 0;
    while (i < iterations - 1 && !rests(change, rest, i, i + 1, n, pair)) ++i;
    counts[pair] = i + 1;
}

// The flow and dual after `counts` iterations: repeats the launch that ended there or went past.
// Launches 0, 2, ... read buffer a; a round of iterations begins with the filtered flow.
extern "C" __global__ void __launch_bounds__(TILE_W * TILE_H / ROWS, 2)
settle(const float* __restrict__ data,
       const float* __restrict__ flow_a, const float* __restrict__ dual_a,
       const float* __restrict__ flow_b, const float* __restrict__ dual_b,
       const float* __restrict__ filtered, int filters,  // 0: not filtered
       int h, int w, int round_iterations,
       float reach, float theta, float step,
       const int* __restrict__ counts,  // [n]
       float* __restrict__ next_flow,
       float* __restrict__ next_dual) {
    __shared__ Tile tile;
    const int last = counts[blockIdx.z] - 1, last_in_round = last % round_iterations;
    const int round_launches = (round_iterations + HALO - 1) / HALO;
    const int launch = last / round_iterations * round_launches + last_in_round / HALO;
    const float* flow = launch % 2 ? flow_b : flow_a;
    if (filters && last_in_round < HALO) flow = filtered;
    minimise(tile, data, flow, launch % 2 ? dual_b : dual_a, h, w, last_in_round % HALO + 1, reach,
             theta, step, nullptr, next_flow, next_dual);
}

// ---- what a batch takes of a clip ---------------------------------------------------------------

// Codes the flow of one clip (kernels/flow/code.py), which is fields first, first + 1, ... of n,
// its components times their gains; resizes it to resized_h x resized_w without antialiasing, takes the crop at (top, left) and
// mirrors it if `flip`: then u changes its sign.
extern "C" __global__ void crop_flow(const float* __restrict__ flow,  // [2,n,h,w]
                                     int n, int first,
                                     int h, int w, float gain_u, float gain_v,
                                     int resized_h, int resized_w,
                                     int top, int left, int flip, int size,
                                     unsigned char* __restrict__ out) {  // [fields,size,size,2]
    int x, y;
    if (!find_pixel(size, size, &x, &y)) return;
    const Between row = between((top + y + 0.5f) * h / resized_h - 0.5f, h);
    const Between column =
        between((left + (flip ? size - 1 - x : x) + 0.5f) * w / resized_w - 0.5f, w);
    out += ((static_cast<size_t>(blockIdx.z) * size + y) * size + x) * 2;
    for (int k = 0; k < 2; ++k) {
        const float* plane = flow + (static_cast<size_t>(k) * n + first + blockIdx.z) * h * w;
        const float gain = k == 0 ? gain_u : gain_v;
        const auto code = [&](int r, int c) {
            const float px = fminf(fmaxf(plane[r * w + c] * gain, -FLOW_LIMIT_PX), FLOW_LIMIT_PX);
            return rintf((px + FLOW_LIMIT_PX) * (255.f / (2.f * FLOW_LIMIT_PX)));
        };
        const int value = __float2int_rn(blend(code, row, column));
        out[k] = static_cast<unsigned char>(k == 0 && flip ? 255 - value : value);
    }
}

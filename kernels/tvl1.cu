// TV-L1 optical flow for many frame pairs of one size, and its crop as bytes.
//
// For frames I0 and I1 it minimises over the flow u = (u, v)
//     sum  lambda |I1(x + u) - I0(x)| + |grad u| + |grad v|
// coarse to fine, by alternating a pointwise step on the data term, linearised around the warped
// I1, with a dual step on the total variation (Zach, Pock and Bischof, DAGM 2007; parameters and
// conventions of OpenCV's DualTVL1OpticalFlow). kernels/cuda_flow.py drives the launches.
//
// Images and fields are float32 planes [planes,h,w]. Fields of n pairs are stored field first:
// flow [2,n,h,w] = (u, v), dual [4,n,h,w] = (u_x, u_y, v_x, v_y), data [3,n,h,w] = (I_x, I_y, rho).
// #defines from cuda_flow.py: TILE_W TILE_H ROWS HALO (the tile of `iterate`) and FLOW_LIMIT_PX.

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
    const float* upper = in + row.low * from_w;
    const float* lower = in + row.high * from_w;
    const float a = upper[column.low] * (1.f - column.weight) + upper[column.high] * column.weight;
    const float b = lower[column.low] * (1.f - column.weight) + lower[column.high] * column.weight;
    out[(static_cast<size_t>(blockIdx.z) * h + y) * w + x] =
        (a * (1.f - row.weight) + b * row.weight) * gain;
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
    int x, y;
    if (!find_pixel(h, w, &x, &y)) return;
    const int pair = blockIdx.z;
    const size_t plane = static_cast<size_t>(h) * w, field = gridDim.z * plane;
    const size_t i = pair * plane + y * w + x;
    const float* I0 = images + (pair / (frames - 1) * frames + pair % (frames - 1)) * plane;
    const float* I1 = I0 + plane;
    const float u = flow[i], v = flow[field + i];

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

// The median of 5x5 values, the edge repeated outside.
extern "C" __global__ void median(const float* __restrict__ in, int h, int w,
                                  float* __restrict__ out) {  // both [planes,h,w]
    int x, y;
    if (!find_pixel(h, w, &x, &y)) return;
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

// `iterations` (at most HALO) steps of the minimisation, for the n pairs of one linearisation.
//
// A block works on a tile of TILE_W x TILE_H pixels in registers and writes its inner part: after
// k steps only the k outermost pixels miss what lies beyond the tile.
//
//      TILE_W                      A thread has ROWS pixels of one column. Up and down they are
//     +-----------------+          its own registers; sideways, and between the TILE_H / ROWS
//     |  HALO           | TILE_H   strips of a column, values pass through shared memory.
//     |   +---------+   |
//     |   | written |   |          Pixels outside the frame keep dual values of 0, which is the
//     |   +---------+   |          frame's border condition for the divergence.
//     +-----------------+
//
// Flow and dual are read from one buffer and written to another: neighbours still read the old.
extern "C" __global__ void __launch_bounds__(TILE_W * TILE_H / ROWS, 2)
iterate(const float* __restrict__ data,       // [3,n,h,w] = (I_x, I_y, rho)
        const float* __restrict__ flow,       // [2,n,h,w]
        const float* __restrict__ dual,       // [4,n,h,w]
        int h, int w, int iterations,
        float reach,                          // lambda theta
        float theta,
        float step,                           // tau / theta
        float* __restrict__ next_flow,        // [2,n,h,w]
        float* __restrict__ next_dual) {      // [4,n,h,w]
    constexpr int STRIPS = TILE_H / ROWS;
    __shared__ float u_at[TILE_H][TILE_W], v_at[TILE_H][TILE_W];
    __shared__ float ux_at[TILE_H][TILE_W], vx_at[TILE_H][TILE_W];        // dual of d/dx
    __shared__ float uy_end[STRIPS + 1][TILE_W], vy_end[STRIPS + 1][TILE_W];  // of d/dy, last row

    const int column = threadIdx.x, strip = threadIdx.y, first = strip * ROWS;
    const int x = static_cast<int>(blockIdx.x) * (TILE_W - 2 * HALO) - HALO + column;
    const int y = static_cast<int>(blockIdx.y) * (TILE_H - 2 * HALO) - HALO + first;
    const size_t plane = static_cast<size_t>(h) * w, field = gridDim.z * plane;
    const size_t origin = blockIdx.z * plane;

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
        ux_at[first + r][column] = ux[r], vx_at[first + r][column] = vx[r];
    }
    if (strip == 0) uy_end[0][column] = vy_end[0][column] = 0.f;
    uy_end[strip + 1][column] = uy[ROWS - 1], vy_end[strip + 1][column] = vy[ROWS - 1];
    __syncthreads();

    const int to_left = max(column - 1, 0);
    const int to_right = min(column + 1, TILE_W - 1), below = min(first + ROWS, TILE_H - 1);
    const bool has_right = x >= 0 && x < w - 1;
    for (int k = 0; k < iterations; ++k) {
        float uy_above = uy_end[strip][column], vy_above = vy_end[strip][column];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            // The data term pulls along the gradient, to where rho is 0 but no farther than reach.
            const float rest = rho[r] + (image_x[r] * u[r] + image_y[r] * v[r]);
            const float pull = fminf(fmaxf(-rest * inverse[r], -reach), reach);
            const float u_divergence = ux[r] - ux_at[first + r][to_left] + (uy[r] - uy_above);
            const float v_divergence = vx[r] - vx_at[first + r][to_left] + (vy[r] - vy_above);
            u[r] = u[r] + pull * image_x[r] + theta * u_divergence;
            v[r] = v[r] + pull * image_y[r] + theta * v_divergence;
            u_at[first + r][column] = u[r], v_at[first + r][column] = v[r];
            uy_above = uy[r], vy_above = vy[r];
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const bool has_below = y + r >= 0 && y + r < h - 1;
            const float u_below = r + 1 < ROWS ? u[r + 1] : u_at[below][column];
            const float v_below = r + 1 < ROWS ? v[r + 1] : v_at[below][column];
            const float u_dx = has_right ? u_at[first + r][to_right] - u[r] : 0.f;
            const float v_dx = has_right ? v_at[first + r][to_right] - v[r] : 0.f;
            const float u_dy = has_below ? u_below - u[r] : 0.f;
            const float v_dy = has_below ? v_below - v[r] : 0.f;
            const float u_scale = 1.f / (1.f + step * sqrtf(u_dx * u_dx + u_dy * u_dy));
            const float v_scale = 1.f / (1.f + step * sqrtf(v_dx * v_dx + v_dy * v_dy));
            ux[r] = (ux[r] + step * u_dx) * u_scale, uy[r] = (uy[r] + step * u_dy) * u_scale;
            vx[r] = (vx[r] + step * v_dx) * v_scale, vy[r] = (vy[r] + step * v_dy) * v_scale;
            ux_at[first + r][column] = ux[r], vx_at[first + r][column] = vx[r];
        }
        uy_end[strip + 1][column] = uy[ROWS - 1], vy_end[strip + 1][column] = vy[ROWS - 1];
        __syncthreads();
    }

    if (column < HALO || column >= TILE_W - HALO || x >= w) return;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        if (first + r < HALO || first + r >= TILE_H - HALO || y + r >= h) continue;
        const size_t i = origin + static_cast<size_t>(y + r) * w + x;
        next_flow[i] = u[r], next_flow[field + i] = v[r];
        next_dual[i] = ux[r], next_dual[field + i] = uy[r];
        next_dual[2 * field + i] = vx[r], next_dual[3 * field + i] = vy[r];
    }
}

// ---- what a batch takes of a clip ---------------------------------------------------------------

// Where a pixel of the crop comes from. The crop lies at (top, left) of the frame resized to
// resized_h x resized_w without antialiasing, and is then mirrored.
struct Crop {
    Between row, column;

    __device__ Crop(int x, int y, int size, int h, int w, int resized_h, int resized_w, int top,
                    int left, int flip)
        : row(between((top + y + 0.5f) * h / resized_h - 0.5f, h)),
          column(between((left + (flip ? size - 1 - x : x) + 0.5f) * w / resized_w - 0.5f, w)) {}

    // `value(row, column)` of the frame, between the four neighbours, rounded to a byte.
    template <typename Value>
    __device__ unsigned char sample(const Value& value) const {
        const float upper = value(row.low, column.low) * (1.f - column.weight) +
                            value(row.low, column.high) * column.weight;
        const float lower = value(row.high, column.low) * (1.f - column.weight) +
                            value(row.high, column.high) * column.weight;
        return static_cast<unsigned char>(
            __float2int_rn(upper * (1.f - row.weight) + lower * row.weight));
    }
};

// Resize, crop and flip the RGB frames of one clip.
extern "C" __global__ void crop_frames(const unsigned char* __restrict__ frames,  // [t,h,w,3]
                                       int h, int w, int resized_h, int resized_w,
                                       int top, int left, int flip, int size,
                                       unsigned char* __restrict__ out) {  // [t,size,size,3]
    int x, y;
    if (!find_pixel(size, size, &x, &y)) return;
    const Crop crop(x, y, size, h, w, resized_h, resized_w, top, left, flip);
    frames += static_cast<size_t>(blockIdx.z) * h * w * 3;
    out += ((static_cast<size_t>(blockIdx.z) * size + y) * size + x) * 3;
    for (int k = 0; k < 3; ++k) {
        out[k] = crop.sample([&](int row, int column) {
            return static_cast<float>(frames[(row * w + column) * 3 + k]);
        });
    }
}

// Code as kernels/flow_code.py does, then resize, crop and flip the flow of one clip, which is
// fields first, first + 1, ... of n. A mirrored u changes its sign.
extern "C" __global__ void crop_flow(const float* __restrict__ flow,  // [2,n,h,w]
                                     int n, int first,
                                     int h, int w, int resized_h, int resized_w,
                                     int top, int left, int flip, int size,
                                     unsigned char* __restrict__ out) {  // [fields,size,size,2]
    int x, y;
    if (!find_pixel(size, size, &x, &y)) return;
    const Crop crop(x, y, size, h, w, resized_h, resized_w, top, left, flip);
    out += ((static_cast<size_t>(blockIdx.z) * size + y) * size + x) * 2;
    for (int k = 0; k < 2; ++k) {
        const float* plane = flow + (static_cast<size_t>(k) * n + first + blockIdx.z) * h * w;
        const unsigned char code = crop.sample([&](int row, int column) {
            const float px = fminf(fmaxf(plane[row * w + column], -FLOW_LIMIT_PX), FLOW_LIMIT_PX);
            return rintf((px + FLOW_LIMIT_PX) * (255.f / (2.f * FLOW_LIMIT_PX)));
        });
        out[k] = k == 0 && flip ? 255 - code : code;
    }
}

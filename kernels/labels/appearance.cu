// Appearance labels: the blocks whose colours change most and least, and their dominant colours.
//
// colour_overlap     frames -> intersection and union of every block's histograms over time
// octant_counts      frames -> colour octants of every cell
// appearance_labels  both -> 13 labels, and the chosen blocks
//
// Rule `reference` takes colours from exact 24-bit values instead of octants, a slower path:
//
// count_colours, most_frequent_colours, colour_labels   frames, chosen blocks -> 7 of the labels
//
// Counts are integers and quotients float64, as in cpu.py. Compiled after reduce.cuh and
// partition.cuh, with the constants of launches.py (SIZE, CELLS, ...).

constexpr int CHANNELS = 3;    // red, green, blue
constexpr int PIXELS = SIZE * SIZE;
constexpr int CHOICES = 2 * PATTERNS;  // of each pattern the most diverse, the most consistent block

// ---- histograms over time ---------------------------------------------------------------------

// frames uint8 [N,T,S,S,3] -> overlap int32 [N,3,BLOCKS,2]: the sums over LEVELS of the least and
// the largest count of any frame. Grid (3, N), LEVELS threads, CELLS * LEVELS counters of dynamic
// shared memory. Minima and maxima over frames are of blocks, not of cells: each frame's cells are
// summed to blocks first. A thread is a level; its blocks' minima and maxima stay in registers.
extern "C" __global__ void __launch_bounds__(LEVELS)
colour_overlap(const unsigned char* __restrict__ frames, int clip_len,
               const unsigned char* __restrict__ cell_of_pixel, int* __restrict__ overlap) {
    extern __shared__ unsigned count[];  // [CELLS][LEVELS]
    __shared__ unsigned total[BLOCKS][2];
    const int channel = blockIdx.x, level = threadIdx.x;
    const long long clip = blockIdx.y;
    frames += clip * clip_len * PIXELS * CHANNELS + channel;

    unsigned least[BLOCKS], most[BLOCKS];
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
        least[block] = PIXELS;
        most[block] = 0;
    }
    for (int cell = 0; cell < CELLS; ++cell) count[cell * LEVELS + level] = 0;
    if (level < BLOCKS) total[level][0] = total[level][1] = 0;
    __syncthreads();

    for (int t = 0; t < clip_len; ++t) {
        const unsigned char* frame = frames + t * PIXELS * CHANNELS;
#pragma unroll 4
        for (int pixel = threadIdx.x; pixel < PIXELS; pixel += LEVELS) {
            atomicAdd(&count[cell_of_pixel[pixel] * LEVELS + frame[pixel * CHANNELS]], 1u);
        }
        __syncthreads();
        unsigned sum[BLOCKS] = {};
#pragma unroll
        for (int cell = 0; cell < CELLS; ++cell) {
            const unsigned n = count[cell * LEVELS + level];
            count[cell * LEVELS + level] = 0;  // for the next frame
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (BLOCKS_OF_CELL[cell][i] >= 0) sum[BLOCKS_OF_CELL[cell][i]] += n;
            }
        }
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            least[block] = min(least[block], sum[block]);
            most[block] = max(most[block], sum[block]);
        }
        __syncthreads();
    }

#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
        const unsigned intersection = warp_sum(least[block]), union_ = warp_sum(most[block]);
        if (first_lane()) {
            atomicAdd(&total[block][0], intersection);
            atomicAdd(&total[block][1], union_);
        }
    }
    __syncthreads();
    if (level < BLOCKS) {
        int* out = overlap + ((clip * CHANNELS + channel) * BLOCKS + level) * 2;
        out[0] = static_cast<int>(total[level][0]);
        out[1] = static_cast<int>(total[level][1]);
    }
}

// ---- octants ----------------------------------------------------------------------------------

__device__ inline int octant(int red, int green, int blue) {  // 0..7; the label is one more
    return 4 * (1 - (blue >> 7)) + 2 * (red >> 7) + (green >> 7);
}

// frames uint8 [N,T,S,S,3] -> octants int32 [N,CELLS,OCTANTS], zero before. Grid (T, N).
extern "C" __global__ void __launch_bounds__(256)
octant_counts(const unsigned char* __restrict__ frames,
              const unsigned char* __restrict__ cell_of_pixel, int* __restrict__ octants) {
    __shared__ unsigned count[CELLS * OCTANTS];
    for (int i = threadIdx.x; i < CELLS * OCTANTS; i += blockDim.x) count[i] = 0;
    __syncthreads();
    const long long clip = blockIdx.y, clip_len = gridDim.x;
    const unsigned char* frame = frames + (clip * clip_len + blockIdx.x) * PIXELS * CHANNELS;
    for (int pixel = threadIdx.x; pixel < PIXELS; pixel += blockDim.x) {
        const unsigned char* colour = frame + pixel * CHANNELS;
        const int slot =
            cell_of_pixel[pixel] * OCTANTS + octant(colour[0], colour[1], colour[2]);
        atomicAdd(&count[slot], 1u);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CELLS * OCTANTS; i += blockDim.x) {
        if (count[i]) atomicAdd(&octants[clip * CELLS * OCTANTS + i], static_cast<int>(count[i]));
    }
}

// ---- labels -----------------------------------------------------------------------------------

// overlap, octants as above -> labels int64 [N,APPEARANCE_LABELS], chosen int32 [N,CHOICES], the
// chosen blocks. Under `reference` octants are not read and colour labels not written. Grid (N).
extern "C" __global__ void __launch_bounds__(64)
appearance_labels(const int* __restrict__ overlap, const int* __restrict__ octants,
                  long long* __restrict__ labels, int* __restrict__ chosen) {
    __shared__ double likeness[BLOCKS];  // three times the intersection over union
    __shared__ int cell_octants[CELLS][OCTANTS];
    const long long clip = blockIdx.x;
    overlap += clip * CHANNELS * BLOCKS * 2;
    labels += clip * APPEARANCE_LABELS;
    if (threadIdx.x < BLOCKS) {
        double sum = 0.0;
        for (int channel = 0; channel < CHANNELS; ++channel) {
            const int* counts = overlap + (channel * BLOCKS + threadIdx.x) * 2;
            sum += static_cast<double>(counts[0]) / static_cast<double>(counts[1]);
        }
        likeness[threadIdx.x] = sum;
    }
    for (int i = threadIdx.x; !REFERENCE && i < CELLS * OCTANTS; i += blockDim.x) {
        (&cell_octants[0][0])[i] = octants[clip * CELLS * OCTANTS + i];
    }
    __syncthreads();

    const int choice = threadIdx.x;
    int best = -1;  // the whole clip
    if (choice < CHOICES) {
        const int pattern = choice / 2;
        const bool consistent = choice % 2;
        best = PATTERN_START[pattern];
        for (int block = best + 1; block < PATTERN_START[pattern + 1]; ++block) {
            const bool better = consistent ? likeness[block] > likeness[best]
                                           : likeness[block] < likeness[best];
            if (better) best = block;
        }
        labels[BLOCK_COLUMN[choice]] = best - PATTERN_START[pattern] + 1;
        chosen[clip * CHOICES + choice] = best;
    }
    if (!REFERENCE && choice <= CHOICES) {
        int sum[OCTANTS] = {};
        for (int cell = 0; cell < CELLS; ++cell) {
            if (best < 0 || is_in_block(cell, best)) {
#pragma unroll
                for (int i = 0; i < OCTANTS; ++i) sum[i] += cell_octants[cell][i];
            }
        }
        int colour = 0, most = sum[0];
#pragma unroll
        for (int i = 1; i < OCTANTS; ++i) {
            if (sum[i] > most) {
                colour = i;
                most = sum[i];
            }
        }
        labels[COLOUR_COLUMN[choice]] = colour + 1;
    }
}

// ---- exact colours, rule `reference` ----------------------------------------------------------

constexpr unsigned COLOURS = 1u << 24;

// How often a pixel of frame t counts for a chosen block, and whether it counts as black.
//
// The published code slices the bottom strip of the ring around the centre in time instead of
// space: the strip is left out, and the first two frames of the square that the ring encloses,
// its inside black, are added.
__device__ inline int samples_of_pixel(int block, int cell, int t, int row, int column,
                                       bool& black) {
    black = false;
    if (block < 0) return 1;  // the whole clip
    int count = 0;
    for (int i = 0; i < 4; ++i) count += BLOCKS_OF_CELL[cell][i] == block;
    if (block == PATTERN_START[1] + 1) {
        constexpr int begin = SIZE / 2 - 2 * RING_WIDTH, end = SIZE - begin;  // of ring and inside
        if (count && row >= end - RING_WIDTH) count = 0;
        if (t < 2 && min(row, column) >= begin && max(row, column) < end) {
            ++count;
            black = is_in_block(cell, PATTERN_START[1]);
        }
    }
    return count;
}

// Counts colours in open-addressing tables, one for each choice and one for the whole clip.
// frames uint8 [N,T,S,S,3], chosen int32 [N,CHOICES] -> keys, counts int32 [N,CHOICES+1,slots],
// zero before; slots is a power of two above T*S*S; a key is a colour + 1. Grid (any, CHOICES+1, N).
extern "C" __global__ void __launch_bounds__(256)
count_colours(const unsigned char* __restrict__ frames, int clip_len,
              const unsigned char* __restrict__ cell_of_pixel, const int* __restrict__ chosen,
              int slots, int* __restrict__ keys, int* __restrict__ counts) {
    const int choice = blockIdx.y;
    const long long clip = blockIdx.z, table = clip * (CHOICES + 1) + choice;
    const int block = choice < CHOICES ? chosen[clip * CHOICES + choice] : -1;
    frames += clip * clip_len * PIXELS * CHANNELS;
    keys += table * slots;
    counts += table * slots;
    for (int sample = blockIdx.x * blockDim.x + threadIdx.x; sample < clip_len * PIXELS;
         sample += gridDim.x * blockDim.x) {
        const int t = sample / PIXELS, pixel = sample % PIXELS;
        bool black;
        const int count = samples_of_pixel(block, cell_of_pixel[pixel], t, pixel / SIZE,
                                           pixel % SIZE, black);
        if (count == 0) continue;
        const unsigned char* colour = frames + sample * CHANNELS;
        const int key = black ? 1 : (colour[2] << 16 | colour[1] << 8 | colour[0]) + 1;
        unsigned slot = key * 2654435761u;  // Knuth's multiplicative hash: the high bits are good
        slot = (slot ^ slot >> 15) & (slots - 1);
        while (true) {
            const int there = atomicCAS(&keys[slot], 0, key);
            if (there == 0 || there == key) break;
            slot = (slot + 1) & (slots - 1);
        }
        atomicAdd(&counts[slot], count);
    }
}

// keys, counts as above -> best int64 [N,CHOICES+1], zero before: the largest of
// count * COLOURS + (COLOURS - 1 - colour), so that the smallest colour wins a tie.
extern "C" __global__ void __launch_bounds__(256)
most_frequent_colours(const int* __restrict__ keys, const int* __restrict__ counts, int slots,
                      long long* __restrict__ best) {
    const long long table = static_cast<long long>(blockIdx.z) * (CHOICES + 1) + blockIdx.y;
    keys += table * slots;
    counts += table * slots;
    unsigned long long largest = 0;
    for (int slot = blockIdx.x * blockDim.x + threadIdx.x; slot < slots;
         slot += gridDim.x * blockDim.x) {
        if (keys[slot]) {
            const unsigned long long count = counts[slot];
            largest = max(largest, count * COLOURS + (COLOURS - keys[slot]));
        }
    }
    largest = warp_max(largest);
    if (first_lane()) atomicMax(reinterpret_cast<unsigned long long*>(&best[table]), largest);
}

// best as above -> the colour labels of labels int64 [N,APPEARANCE_LABELS]. Grid (N).
extern "C" __global__ void __launch_bounds__(32)
colour_labels(const long long* __restrict__ best, long long* __restrict__ labels) {
    const long long clip = blockIdx.x;
    const int choice = threadIdx.x;
    if (choice <= CHOICES) {
        const long long low = best[clip * (CHOICES + 1) + choice] % COLOURS;
        const int colour = static_cast<int>(COLOURS - 1 - low);
        labels[clip * APPEARANCE_LABELS + COLOUR_COLUMN[choice]] =
            octant(colour & 0xff, colour >> 8 & 0xff, colour >> 16) + 1;
    }
}

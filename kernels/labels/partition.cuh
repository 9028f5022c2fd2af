// The partition of the frame and the order of the labels, as tables. Every number comes from
// partitions.py and schema.py through the `#define`s of launches.py.

// Constant initialisers: an unrolled loop folds the tables away.
static __device__ const signed char BLOCKS_OF_CELL[CELLS][4] = BLOCKS_OF_CELL_TABLE;
static __device__ const int BLOCK_AREA[BLOCKS] = BLOCK_AREA_TABLE;
static __device__ const int PATTERN_START[PATTERNS + 1] = PATTERN_START_TABLE;
static __device__ const int POSITION_COLUMN[2][PATTERNS] = POSITION_COLUMN_TABLE;  // [u, v]
static __device__ const int ORIENTATION_COLUMN[2][PATTERNS] = ORIENTATION_COLUMN_TABLE;
static __device__ const int FRAME_COLUMN[2] = FRAME_COLUMN_TABLE;
// By choice: diverse and consistent block of each pattern in turn; the last colour is the clip's.
static __device__ const int BLOCK_COLUMN[2 * PATTERNS] = BLOCK_COLUMN_TABLE;
static __device__ const int COLOUR_COLUMN[2 * PATTERNS + 1] = COLOUR_COLUMN_TABLE;

__device__ inline bool is_in_block(int cell, int block) {
    bool inside = false;
    for (int i = 0; i < 4; ++i) inside = inside || BLOCKS_OF_CELL[cell][i] == block;
    return inside;
}

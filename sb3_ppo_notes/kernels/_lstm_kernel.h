/* The LSTM of _lstm.c for one instruction set: LANES floats in a vector, VECTORS of them in a block of columns,
 * functions called SUFFIX and compiled for TARGET. ROWS * VECTORS sums, a block of weights and one input fit into the
 * registers: that is what the numbers are chosen by. */

#define NAME(word) JOIN(word, SUFFIX)
#define VEC NAME(Vec)
#define INT NAME(Int)
#define COLUMNS (LANES * VECTORS)
#if WIDEST % COLUMNS
#error "a block of columns must fit into WIDEST"
#endif
#define TILE (COLUMNS < 16 ? COLUMNS : 16)
#define INLINE TARGET static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

typedef float VEC __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int INT __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE VEC NAME(load)(const float *from) { return *(const VEC *)from; }
INLINE void NAME(store)(float *to, VEC value) { *(VEC *)to = value; }
INLINE VEC NAME(choose)(INT where, VEC yes, VEC no) { return (VEC)(((INT)yes & where) | ((INT)no & ~where)); }

/* e^x = 2^n e^r with |r| <= ln(2) / 2, where Taylor's seventh power leaves 5e-9 of the result. NaN stays NaN. */
INLINE VEC NAME(exponential)(VEC x) {
    const VEC nothing = {0}, highest = nothing + 88.0f, lowest = nothing - 87.0f;
    const VEC rounder = nothing + 12582912.0f; /* 1.5 * 2^23: what is added to it loses its fraction */
    x = NAME(choose)(x > highest, highest, x);
    x = NAME(choose)(x < lowest, lowest, x);
    const VEC shifted = x * 1.44269504f + rounder, n = shifted - rounder;
    const INT exponent = (INT)shifted - (INT)rounder;
    const VEC r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln(2) in two parts, the first exact in few bits */
    VEC sum = nothing + 1.0f / 5040;
    sum = sum * r + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    return sum * (VEC)((exponent + 127) << 23);
}

INLINE VEC NAME(sigmoid)(VEC x) { return 1.0f / (1.0f + NAME(exponential)(-x)); }

/* Near 0 by its series: 1 - 2 / (1 + e^2x) has lost the digits of a small x. */
INLINE VEC NAME(hyperbolic)(VEC x) {
    const VEC square = x * x;
    const VEC series = x + x * square * (square * (square * (square * (62.0f / 2835) - 17.0f / 315) + 2.0f / 15) - 1.0f / 3);
    const VEC whole = 1.0f - 2.0f / (1.0f + NAME(exponential)(2.0f * x));
    return NAME(choose)(square < 0.04f, series, whole);
}

/* Y = X W, or with `adds` Y += X W. The rows of X and Y lie anywhere in memory, those of W [n, m] `apart` from each
 * other: COLUMNS if W is packed in blocks of columns, which then lie one after the other. */
typedef struct {
    Index rows, n, m, apart;
    const float *w, *const *x;
    float *const *y;
    int adds;
} NAME(Product);

/* One block of columns of it, of `rows` rows at once. */
INLINE void NAME(block)(const int rows, const NAME(Product) *p, Index row, Index b) {
    const float *w = p->w + b * COLUMNS * (p->apart == COLUMNS ? p->n : 1), *const *x = p->x + row;
    float *const *y = p->y + row;
    VEC sums[ROWS][VECTORS];
    UNROLL for (int s = 0; s < rows; s++) UNROLL for (int v = 0; v < VECTORS; v++)
        sums[s][v] = p->adds ? NAME(load)(y[s] + b * COLUMNS + v * LANES) : (VEC){0};
    for (Index k = 0; k < p->n; k++, w += p->apart) {
        VEC weights[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = NAME(load)(w + v * LANES);
        UNROLL for (int s = 0; s < rows; s++) {
            const VEC input = (VEC){0} + x[s][k];
            UNROLL for (int v = 0; v < VECTORS; v++) sums[s][v] += input * weights[v];
        }
    }
    UNROLL for (int s = 0; s < rows; s++) UNROLL for (int v = 0; v < VECTORS; v++)
        NAME(store)(y[s] + b * COLUMNS + v * LANES, sums[s][v]);
}

/* From one step to the next the blocks are gone through in the opposite direction: those used last are still in the
 * cache next to the core, which is as large as the weights, and just too small for them and all else. */
TARGET static void NAME(product)(NAME(Product) p, int is_backwards) {
    const Index n_blocks = p.m / COLUMNS, n_groups = (p.rows + ROWS - 1) / ROWS;
    for (Index i = 0; i < n_blocks; i++) {
        const Index b = is_backwards ? n_blocks - 1 - i : i;
        for (Index group = 0, row = 0, size; group < n_groups; group++, row += size)
            switch (size = (p.rows - row + n_groups - group - 1) / (n_groups - group)) {
                case 1: NAME(block)(1, &p, row, b); break;
                case 2: NAME(block)(2, &p, row, b); break;
                case 3: NAME(block)(3, &p, row, b); break;
                case 4: NAME(block)(4, &p, row, b); break;
                case 5: NAME(block)(5, &p, row, b); break;
                default: NAME(block)(6, &p, row, b); break;
            }
    }
}

INLINE void NAME(copy_block)(const float *from, float *to) {
    UNROLL for (int v = 0; v < VECTORS; v++) NAME(store)(to + v * LANES, NAME(load)(from + v * LANES));
}

/* W [n, m] in blocks of columns: [m / COLUMNS, n, COLUMNS]. */
TARGET static void NAME(pack)(Index n, Index m, const float *w, float *packed) {
    for (Index b = 0; b < m / COLUMNS; b++)
        for (Index k = 0; k < n; k++, packed += COLUMNS) NAME(copy_block)(w + k * m + b * COLUMNS, packed);
}

/* The transposed of W [m, n], packed likewise. TILE columns at a time: more would push each other out of the cache,
 * because they lie powers of two apart. */
TARGET static void NAME(pack_transposed)(Index n, Index m, const float *w, float *packed) {
    for (Index b = 0; b < m / COLUMNS; b++, packed += n * COLUMNS)
        for (Index first = 0; first < COLUMNS; first += TILE) {
            const float *from = w + (b * COLUMNS + first) * n;
            for (Index k = 0; k < n - n % 4; k += 4)
                UNROLL for (int j = 0; j < TILE; j += 4)
                    transpose(from + j * n + k, n, packed + k * COLUMNS + first + j, COLUMNS);
            for (Index k = n - n % 4; k < n; k++)
                for (int j = 0; j < TILE; j++) packed[k * COLUMNS + first + j] = from[j * n + k];
        }
}

/* Which row lies at each place, -1 for none; 0 or OUTSIDE. */
TARGET static int NAME(find_rows)(const Batch *batch, Index *row_at) {
    const Index size = batch->n_steps * batch->n_lanes;
    for (Index place = 0; place < size; place++) row_at[place] = -1;
    for (Index row = 0; row < batch->n_rows; row++) {
        if (batch->place[row] < 0 || batch->place[row] >= size) return OUTSIDE;
        row_at[batch->place[row]] = row;
    }
    return 0;
}

/* What a row at this step of this lane remembers: its place in `memory` [N, H], or in `initial` [S, H], or null. */
INLINE const float *NAME(remembered)(
    const Batch *batch, const Index *row_at, Index step, Index lane, const float *memory, const float *initial) {
    if (step == 0) return initial + lane * batch->n_hidden;
    const Index row = row_at[(step - 1) * batch->n_lanes + lane];
    return row < 0 ? NULL : memory + row * batch->n_hidden;
}

/* gates <- W_ih x + b_ih + b_hh, of all rows at once. */
TARGET static void NAME(project)(const Batch *batch, float *packed, const float **x, float **y) {
    const Index width = 4 * batch->n_hidden;
    for (Index row = 0; row < batch->n_rows; row++) {
        y[row] = batch->gates + row * width;
        if (!batch->features) continue;
        x[row] = batch->features + row * batch->n_inputs;
        for (Index j = 0; j < width; j += LANES) {
            VEC bias = {0};
            if (batch->b_ih) bias = NAME(load)(batch->b_ih + j) + NAME(load)(batch->b_hh + j);
            NAME(store)(y[row] + j, bias);
        }
    }
    if (!batch->features) return;
    NAME(pack_transposed)(batch->n_inputs, width, batch->w_ih, packed);
    NAME(product)((NAME(Product)){batch->n_rows, batch->n_inputs, width, COLUMNS, packed, x, y, 1}, 0);
}

/* From the gates' sums and what was remembered to what is remembered now. */
TARGET static void NAME(cell)(Index n_hidden, float *gates, const float *before, float *cell, float *tanh, float *hidden) {
    float *input = gates, *forget = gates + n_hidden, *candidate = forget + n_hidden, *output = candidate + n_hidden;
    for (Index k = 0; k < n_hidden; k += LANES) {
        const VEC i = NAME(sigmoid)(NAME(load)(input + k)), f = NAME(sigmoid)(NAME(load)(forget + k));
        const VEC g = NAME(hyperbolic)(NAME(load)(candidate + k)), o = NAME(sigmoid)(NAME(load)(output + k));
        VEC c = i * g;
        if (before) c += f * NAME(load)(before + k);
        const VEC t = NAME(hyperbolic)(c);
        NAME(store)(input + k, i), NAME(store)(forget + k, f), NAME(store)(candidate + k, g), NAME(store)(output + k, o);
        NAME(store)(cell + k, c), NAME(store)(tanh + k, t), NAME(store)(hidden + k, o * t);
    }
}

INLINE float NAME(sum)(VEC value) {
#if LANES == 16
    const Eight half = ((Eight *)&value)[0] + ((Eight *)&value)[1];
    const Four quarter = ((const Four *)&half)[0] + ((const Four *)&half)[1];
#elif LANES == 8
    const Four quarter = ((Four *)&value)[0] + ((Four *)&value)[1];
#else
    const Four quarter = value;
#endif
    return (quarter[0] + quarter[1]) + (quarter[2] + quarter[3]);
}

/* y[s][j] += w[j] . x[s] for four rows j of W at once: row by row, as they lie in memory. For a single step, for which
 * it would not pay to pack the weights first. */
INLINE void NAME(dots)(const int rows, Index n, const float *w, const float *x, float *y, Index apart) {
    VEC sums[4][4];
    UNROLL for (int j = 0; j < 4; j++) UNROLL for (int s = 0; s < rows; s++) sums[j][s] = (VEC){0};
    for (Index k = 0; k < n; k += LANES) {
        VEC inputs[4];
        UNROLL for (int s = 0; s < rows; s++) inputs[s] = NAME(load)(x + s * n + k);
        UNROLL for (int j = 0; j < 4; j++) {
            const VEC weights = NAME(load)(w + j * n + k);
            UNROLL for (int s = 0; s < rows; s++) sums[j][s] += weights * inputs[s];
        }
    }
    UNROLL for (int s = 0; s < rows; s++) UNROLL for (int j = 0; j < 4; j++)
        y[s * apart + j] += NAME(sum)(sums[j][s]);
}

/* One step of every lane; row r is lane r. */
TARGET static int NAME(step)(const Batch *batch) {
    const Index H = batch->n_hidden, N = batch->n_rows;
    float *packed = floats(4 * H * batch->n_inputs);
    const float **x = malloc(sizeof(float *) * N);
    float **y = malloc(sizeof(float *) * N);
    const int failed = !packed || !x || !y;
    if (!failed) {
        NAME(project)(batch, packed, x, y);
        for (Index row = 0; row < N; row += 4) {
            const float *h = batch->h_0 + row * H;
            for (Index j = 0; j < 4 * H; j += 4) {
                const float *w = batch->w_hh + j * H;
                switch (N - row) {
                    case 1: NAME(dots)(1, H, w, h, y[row] + j, 4 * H); break;
                    case 2: NAME(dots)(2, H, w, h, y[row] + j, 4 * H); break;
                    case 3: NAME(dots)(3, H, w, h, y[row] + j, 4 * H); break;
                    default: NAME(dots)(4, H, w, h, y[row] + j, 4 * H); break;
                }
            }
        }
        for (Index row = 0; row < N; row++)
            NAME(cell)(H, batch->gates + row * 4 * H, batch->c_0 + row * H, batch->cells + row * H,
                       batch->tanhs + row * H, batch->hiddens + row * H);
    }
    free(packed), free(x), free(y);
    return failed;
}

TARGET static int NAME(forward)(const Batch *batch) {
    const Index H = batch->n_hidden, K = batch->n_inputs, N = batch->n_rows, S = batch->n_lanes;
    float *packed = floats(4 * H * (K > H ? K : H));
    Index *row_at = malloc(sizeof(Index) * batch->n_steps * S);
    const float **x = malloc(sizeof(float *) * N);
    float **y = malloc(sizeof(float *) * N);
    int failed = !packed || !row_at || !x || !y ? NO_MEMORY : NAME(find_rows)(batch, row_at);
    if (!failed) {
        NAME(project)(batch, packed, x, y);
        NAME(pack_transposed)(H, 4 * H, batch->w_hh, packed);
        for (Index step = 0; step < batch->n_steps; step++) {
            Index rows = 0;
            for (Index lane = 0; lane < S; lane++) {
                const Index row = row_at[step * S + lane];
                const float *h = NAME(remembered)(batch, row_at, step, lane, batch->hiddens, batch->h_0);
                if (row >= 0 && h) x[rows] = h, y[rows++] = batch->gates + row * 4 * H;
            }
            NAME(product)((NAME(Product)){rows, H, 4 * H, COLUMNS, packed, x, y, 1}, step & 1);
            for (Index lane = 0; lane < S; lane++) {
                const Index row = row_at[step * S + lane];
                if (row < 0) continue;
                const float *c = NAME(remembered)(batch, row_at, step, lane, batch->cells, batch->c_0);
                NAME(cell)(H, batch->gates + row * 4 * H, c, batch->cells + row * H, batch->tanhs + row * H,
                           batch->hiddens + row * H);
            }
        }
    }
    free(packed), free(row_at), free(x), free(y);
    return failed;
}

/* The gradient at the gates' sums, from that at h and c; and what of it goes back to c', added to nothing: a cell is
 * remembered by one row only. */
TARGET static void NAME(cell_gradient)(
    Index n_hidden, const float *gates, const float *before, const float *tanh, const float *d_hidden,
    const float *d_cell, float *d_gates, float *d_before) {
    for (Index k = 0; k < n_hidden; k += LANES) {
        const VEC i = NAME(load)(gates + k), f = NAME(load)(gates + n_hidden + k);
        const VEC g = NAME(load)(gates + 2 * n_hidden + k), o = NAME(load)(gates + 3 * n_hidden + k);
        const VEC t = NAME(load)(tanh + k), dh = NAME(load)(d_hidden + k);
        const VEC dc = NAME(load)(d_cell + k) + dh * o * (1.0f - t * t);
        VEC df = {0};
        if (before) df = dc * NAME(load)(before + k) * f * (1.0f - f);
        NAME(store)(d_gates + k, dc * g * i * (1.0f - i));
        NAME(store)(d_gates + n_hidden + k, df);
        NAME(store)(d_gates + 2 * n_hidden + k, dc * i * (1.0f - g * g));
        NAME(store)(d_gates + 3 * n_hidden + k, dh * t * o * (1.0f - o));
        if (d_before) NAME(store)(d_before + k, dc * f);
    }
}

/* The gradient at the weights. W_hh: the transposed of d_gates times what each row remembers. If wanted, W_ih and the
 * biases, which are the weights of one more input that is always 1: the transposed of the inputs times d_gates. */
TARGET static int NAME(weight_gradients)(const Batch *batch, const float *const *before) {
    const Index H = batch->n_hidden, N = batch->n_rows, width = 4 * H, K = batch->d_w_ih ? batch->n_inputs + 1 : 0;
    float *transposed = floats((width + K) * N), *remembered = floats(N * H), *slopes = floats(width * K);
    const float **x = calloc(width + K, sizeof(float *));
    float **y = calloc(width + K, sizeof(float *));
    const int failed = !transposed || !remembered || !slopes || !x || !y;
    if (!failed) {
        for (Index j = 0; j < width; j += 4) {
            for (Index row = 0; row < N - N % 4; row += 4)
                transpose(batch->d_gates + row * width + j, width, transposed + j * N + row, N);
            for (Index row = N - N % 4; row < N; row++)
                for (int t = 0; t < 4; t++) transposed[(j + t) * N + row] = batch->d_gates[row * width + j + t];
        }
        for (Index row = 0; row < N; row++) {
            for (Index k = 0; k < H; k += LANES)
                NAME(store)(remembered + (k / COLUMNS * N + row) * COLUMNS + k % COLUMNS,
                            before[row] ? NAME(load)(before[row] + k) : (VEC){0});
            for (Index k = 0; k < K; k++)
                transposed[(width + k) * N + row] = k < K - 1 ? batch->features[row * (K - 1) + k] : 1.0f;
        }
        for (Index j = 0; j < width + K; j++) {
            x[j] = transposed + j * N;
            y[j] = j < width ? batch->d_w_hh + j * H : slopes + (j - width) * width;
        }
        NAME(product)((NAME(Product)){width, N, H, COLUMNS, remembered, x, y, 0}, 0);
        NAME(product)((NAME(Product)){K, N, width, width, batch->d_gates, x + width, y + width, 0}, 0);
        for (Index k = 0; k < K - 1; k++)
            for (Index j = 0; j < width; j++) batch->d_w_ih[j * (K - 1) + k] = slopes[k * width + j];
        if (K && batch->d_bias) memcpy(batch->d_bias, slopes + (K - 1) * width, sizeof(float) * width);
    }
    free(transposed), free(remembered), free(slopes), free(x), free(y);
    return failed;
}

TARGET static int NAME(backward)(const Batch *batch) {
    const Index H = batch->n_hidden, N = batch->n_rows, S = batch->n_lanes;
    float *packed = floats(4 * H * H), *d_cells = calloc(N * H, sizeof(float));
    Index *row_at = malloc(sizeof(Index) * batch->n_steps * S);
    const float **x = malloc(sizeof(float *) * N);
    float **y = malloc(sizeof(float *) * N);
    int failed = !packed || !d_cells || !row_at || !x || !y ? NO_MEMORY : NAME(find_rows)(batch, row_at);
    if (!failed) {
        NAME(pack)(4 * H, H, batch->w_hh, packed);
        for (Index step = batch->n_steps - 1; step >= 0; step--) {
            Index rows = 0;
            for (Index lane = 0; lane < S; lane++) {
                const Index row = row_at[step * S + lane], last = step ? row_at[(step - 1) * S + lane] : -1;
                if (row < 0) continue;
                const float *c = NAME(remembered)(batch, row_at, step, lane, batch->cells, batch->c_0);
                float *d_gates = batch->d_gates + row * 4 * H;
                NAME(cell_gradient)(H, batch->gates + row * 4 * H, c, batch->tanhs + row * H, batch->d_hiddens + row * H,
                                    d_cells + row * H, d_gates, last < 0 ? NULL : d_cells + last * H);
                if (last >= 0) x[rows] = d_gates, y[rows++] = batch->d_hiddens + last * H;
            }
            NAME(product)((NAME(Product)){rows, 4 * H, H, COLUMNS, packed, x, y, 1}, step & 1);
        }
        for (Index step = 0; step < batch->n_steps; step++)
            for (Index lane = 0; lane < S; lane++) {
                const Index row = row_at[step * S + lane];
                if (row >= 0) x[row] = NAME(remembered)(batch, row_at, step, lane, batch->hiddens, batch->h_0);
            }
        failed = NAME(weight_gradients)(batch, x);
    }
    free(packed), free(d_cells), free(row_at), free(x), free(y);
    return failed;
}

#undef NAME
#undef VEC
#undef INT
#undef COLUMNS
#undef TILE
#undef INLINE
#undef UNROLL
#undef SUFFIX
#undef LANES
#undef VECTORS
#undef TARGET

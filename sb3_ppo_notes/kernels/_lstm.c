/* One LSTM layer over the sequences of a minibatch, forward and backward, on one core.
 *
 *     i, f, o = sigmoid(...)   g = tanh(...)       gates of W_ih x + b_ih + W_hh h' + b_hh
 *     c = f c' + i g           h = o tanh(c)       c', h': of the step before, 0 where a sequence begins
 *
 * Source: Hochreiter & Schmidhuber 1997, Gers, Schmidhuber & Cummins 2000; names and order of the gates are torch's
 * (nn.LSTM). The equations stand in formulas/lstm.py, which is the oracle of this file, as nn.LSTM and autograd are.
 *
 * Why it exists: with a few sequences side by side a step is little arithmetic over a megabyte of weights. The
 * library's LSTM turns the weights over on every call, pads, and adds to the weights' gradient step by step. Here the
 * weights are laid out once, rows that do not exist cost nothing, and the gradient of W_hh is one product at the end.
 *
 * A row's sums are always taken in the same order, whatever lies beside it: how sequences are put together changes no
 * bit of the result.
 *
 * kernels/lstm.py calls this through ctypes: no header of torch's is needed, so it is built in a second. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef int64_t Index;

/* A minibatch whose rows lie in lanes: row r at place[r] = step * n_lanes + lane. Two sequences of a lane have at least
 * one empty step between them, so a row continues a sequence if and only if there is one a step before it. */
typedef struct {
    Index n_rows, n_inputs, n_hidden, n_steps, n_lanes;
    const Index *place;              /* [N] */
    const float *features;          /* [N, K]; null for a step whose gates hold W_ih x and the biases already */
    const float *w_ih, *w_hh;       /* [4H, K], [4H, H] */
    const float *b_ih, *b_hh;       /* [4H], or null */
    const float *h_0, *c_0;         /* [S, H], at each lane's first step */
    float *gates, *cells, *tanhs, *hiddens; /* out of forward, into backward: [N, 4H], then [N, H] each; tanhs: tanh(c) */
    float *d_hiddens;               /* [N, H], the loss's gradient at h; overwritten by backward */
    float *d_gates, *d_w_hh;        /* out of backward: [N, 4H], [4H, H] */
    float *d_w_ih, *d_bias;         /* out of backward if wanted: [4H, K], [4H]; else null */
} Batch;

/* H must be a multiple of it, and it of the columns of a product that are computed at once. */
#define WIDEST 64

/* Rows of a product that are computed at once. */
enum { ROWS = 6 };

enum { NO_MEMORY = 1, OUTSIDE = 2 };

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));

/* Memory for at least n numbers that begins on a line of the cache. From where malloc begins half of the vectors lie in
 * two lines, and with few lanes, when a step is little more than reading the weights, that costs a third of it. */
static float *floats(Index n) { return aligned_alloc(64, (n * sizeof(float) + 64) & ~(size_t)63); }

#ifdef __clang__
#define MERGED(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int Places __attribute__((vector_size(16)));
#define MERGED(a, b, i, j, k, l) __builtin_shuffle(a, b, (Places){i, j, k, l})
#endif

/* Four rows of four numbers, which begin `apart` from each other, turned into columns. */
static inline void transpose(const float *from, Index apart, float *to, Index apart_to) {
    const Four a = *(const Four *)from, b = *(const Four *)(from + apart);
    const Four c = *(const Four *)(from + 2 * apart), d = *(const Four *)(from + 3 * apart);
    const Four ab = MERGED(a, b, 0, 4, 1, 5), cd = MERGED(c, d, 0, 4, 1, 5);
    const Four ab_2 = MERGED(a, b, 2, 6, 3, 7), cd_2 = MERGED(c, d, 2, 6, 3, 7);
    *(Four *)to = MERGED(ab, cd, 0, 1, 4, 5);
    *(Four *)(to + apart_to) = MERGED(ab, cd, 2, 3, 6, 7);
    *(Four *)(to + 2 * apart_to) = MERGED(ab_2, cd_2, 0, 1, 4, 5);
    *(Four *)(to + 3 * apart_to) = MERGED(ab_2, cd_2, 2, 3, 6, 7);
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define X86 1
#define SUFFIX _avx512
#define LANES 16
#define VECTORS 4
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#include "_lstm_kernel.h"
#define SUFFIX _avx2
#define LANES 8
#define VECTORS 2
#define TARGET __attribute__((target("avx2,fma")))
#include "_lstm_kernel.h"
#endif

#define SUFFIX _plain
#define LANES 4
#define VECTORS 2
#define TARGET
#include "_lstm_kernel.h"

/* To be changed with every change of Batch or of what the functions do with it, here and in lstm.py. */
EXPORT int lstm_revision(void) { return 5; }

/* Which code this processor can run: 0 plain, 1 AVX2, 2 AVX-512. */
EXPORT int lstm_level(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

#ifdef X86
#define BEST(pass, batch, level) \
    ((level) >= 2 ? pass##_avx512(batch) : (level) == 1 ? pass##_avx2(batch) : pass##_plain(batch))
#else
#define BEST(pass, batch, level) ((void)(level), pass##_plain(batch))
#endif

/* 0; NO_MEMORY for what lies between; OUTSIDE if a row lies in no lane. */
EXPORT int lstm_forward(const Batch *batch, int level) { return BEST(forward, batch, level); }
EXPORT int lstm_backward(const Batch *batch, int level) { return BEST(backward, batch, level); }
EXPORT int lstm_step(const Batch *batch, int level) { return BEST(step, batch, level); }

#define MODULE _lstm
#include "../_module.h"

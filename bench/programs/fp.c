/* fp.c - double precision. Compiled twice: FP_TABLE is bench_fp_sse (SSE2 scalars) or bench_fp_x87.
 */
#include "bench.h"

#include <math.h>
#include <string.h>

#ifdef FP_X87
#define FP_TABLE   bench_fp_x87
#define FP_NAME(n) n "_x87"
#else
#define FP_TABLE   bench_fp_sse
#define FP_NAME(n) n "_sse"
#endif

/* --- n-body: a made-up system of five bodies, leapfrog ------------------------------------------
 */

struct body {
    double p[3], v[3], mass;
};

static void nbody_step(struct body *b, int n, double dt)
{
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++) {
            double d[3], r2 = 0;
            for (int k = 0; k < 3; k++) {
                d[k] = b[i].p[k] - b[j].p[k];
                r2 += d[k] * d[k];
            }
            double f = dt / (r2 * sqrt(r2));
            for (int k = 0; k < 3; k++) {
                b[i].v[k] -= d[k] * b[j].mass * f;
                b[j].v[k] += d[k] * b[i].mass * f;
            }
        }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 3; k++)
            b[i].p[k] += dt * b[i].v[k];
}

static uint64_t nbody(void)
{
    struct body bodies[5];
    for (int i = 0; i < 5; i++)
        bodies[i] = (struct body){.p = {i * 3.0, i * 0.5, 1.0 - i},
                                  .v = {0.1 * i, 0.7 - 0.2 * i, 0.05 * i},
                                  .mass = i ? 0.01 * i : 20.0};
    for (int i = 0; i < 400000; i++)
        nbody_step(bodies, 5, 0.001);
    return bench_hash(bodies, sizeof bodies);
}

static uint64_t matmul(void)
{
    enum { N = 160 };
    double(*a)[N] = (void *)bench_arena, (*b)[N] = a + N, (*c)[N] = b + N;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = 1.0 / (i + j + 1);
            b[i][j] = i - 0.5 * j;
        }
    for (int round = 0; round < 12; round++) {
        memset(c, 0, sizeof *c * N);
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++)
                for (int j = 0; j < N; j++)
                    c[i][j] += a[i][k] * b[k][j];
    }
    return bench_hash(c, sizeof *c * N);
}

static uint64_t mandelbrot(void)
{
    uint64_t total = 0;
    for (int y = 0; y < 400; y++)
        for (int x = 0; x < 400; x++) {
            double cr = x * 0.00625 - 1.9, ci = y * 0.00625 - 1.25, r = 0, i = 0;
            int n = 0;
            for (; n < 300 && r * r + i * i < 4; n++) {
                double t = r * r - i * i + cr;
                i = 2 * r * i + ci;
                r = t;
            }
            total = total * 31 + (uint64_t)n;
        }
    return total;
}

/* Divisions and square roots; a long chain each. */
static uint64_t newton(void)
{
    double sum = 0;
    for (int i = 1; i < 2000000; i++) {
        double x = i, r = i * 0.5;
        for (int k = 0; k < 4; k++)
            r = 0.5 * (r + x / r);
        sum += r + sqrt(x);
    }
    return bench_hash(&sum, sizeof sum);
}

/* Conversions between integers and doubles, comparisons, and polynomials. */
static uint64_t polynomial(void)
{
    double sum = 0;
    uint32_t seed = 1;
    for (int i = 0; i < 1500000; i++) {
        seed = seed * 1664525 + 1013904223;
        double x = (double)(int32_t)seed * (1.0 / 2147483648.0);
        double y = ((((x * 0.2 - 0.3) * x + 0.4) * x - 0.5) * x + 0.6) * x - 0.7;
        sum += y > 0 ? y : -y;
        seed ^= (uint32_t)(int32_t)(y * 1000);
    }
    return bench_hash(&sum, sizeof sum);
}

const struct bench FP_TABLE[] = {
    {"fp", FP_NAME("nbody"), nbody, NULL, NULL},
    {"fp", FP_NAME("matmul"), matmul, NULL, NULL},
    {"fp", FP_NAME("mandelbrot"), mandelbrot, NULL, NULL},
    {"fp", FP_NAME("newton"), newton, NULL, NULL},
    {"fp", FP_NAME("polynomial"), polynomial, NULL, NULL},
    {0},
};

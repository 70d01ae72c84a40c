/* compute.c - integer and floating-point work for a compiler to compile and a CPU to run. Every
 * line that it prints is exact. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 88172645463325252ull;
static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static double number(void)
{
    return (double)(next() >> 11) / 9007199254740992.0;
}

static void matrices(void)
{
    enum { N = 96 };
    static double a[N][N], b[N][N], c[N][N];
    double trace = 0;
    for (int i = 0; i < N * N; i++) {
        a[i / N][i % N] = number();
        b[i / N][i % N] = number() - 0.5;
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            for (int k = 0; k < N; k++)
                c[i][j] += a[i][k] * b[k][j];
    for (int i = 0; i < N; i++)
        trace += c[i][i];
    printf("matrices %a %.17g\n", trace, c[3][7]);
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static void sorting(void)
{
    enum { N = 40000 };
    static double v[N];
    double sum = 0;
    for (int i = 0; i < N; i++)
        v[i] = number();
    qsort(v, N, sizeof *v, by_value);
    for (int i = 0; i < N; i++)
        sum += v[i] * i;
    printf("sorting %a %a %a\n", v[0], v[N / 2], sum);
}

static void functions(void)
{
    double sum[6] = {0};
    for (int i = 1; i < 20000; i++) {
        double x = number() * 20 - 10;
        sum[0] += sin(x);
        sum[1] += exp(x);
        sum[2] += pow(fabs(x), 1.7);
        sum[3] += atan2(x, i);
        sum[4] += (double)logl(fabsl((long double)x) + 1);
        sum[5] += (double)(float)cbrtf((float)x);
    }
    for (int i = 0; i < 6; i++)
        printf("functions %d %a\n", i, sum[i]);
}

static void primes(void)
{
    enum { N = 500000 };
    static unsigned char sieve[N];
    unsigned count = 0;
    uint64_t sum = 0;
    for (unsigned i = 2; i < N; i++) {
        if (sieve[i])
            continue;
        count++;
        sum += i;
        for (unsigned j = 2 * i; j < N; j += i)
            sieve[j] = 1;
    }
    printf("primes %u %llu\n", count, (unsigned long long)sum);
}

static void wide(void)
{
    unsigned __int128 product = 1;
    for (int i = 0; i < 100000; i++)
        product = product * (next() | 1) + (product % (next() | 1)) / 3;
    printf("wide %016llx%016llx\n", (unsigned long long)(product >> 64),
           (unsigned long long)product);
}

static void text(void)
{
    static char buffer[1 << 16];
    size_t used = 0;
    uint32_t hash = 2166136261u;
    for (int i = 0; used < sizeof buffer - 64; i++)
        used += (size_t)sprintf(buffer + used, "%d %x %.3f %s;", i, i * i, number(), "text");
    for (char *word = strtok(buffer, " ;"); word; word = strtok(NULL, " ;"))
        for (; *word; word++)
            hash = (hash ^ (unsigned char)*word) * 16777619u;
    printf("text %zu %08x\n", used, hash);
}

int main(void)
{
    matrices();
    sorting();
    functions();
    primes();
    wide();
    text();
    return 0;
}

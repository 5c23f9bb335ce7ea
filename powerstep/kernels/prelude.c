/* Functions of the C kernels. By the flags of c_library.py, a*b + c is rounded twice, as by torch's
   eager operations, integers wrap around, and math functions set no errno. */
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

/* a*b + c, rounded once where the processor can; elsewhere, fmaf would be very slow. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define fused(a, b, c) fmaf(a, b, c)
#else
#define fused(a, b, c) ((a) * (b) + (c))
#endif

static inline int32_t bits_of(float x) { int32_t bits; memcpy(&bits, &x, 4); return bits; }
static inline float float_of(int32_t bits) { float x; memcpy(&x, &bits, 4); return x; }

static inline float from_bf16(bf16 x) { return float_of((int32_t)((uint32_t)x << 16)); }

/* Round to nearest, ties to even. */
static inline bf16 to_bf16(float x) {
    const uint32_t bits = (uint32_t)bits_of(x);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (bf16)(x == x ? rounded : 0x7FC0);
}

/* Uniform random bits from a counter; the mixing function is lowbias32 of
   https://github.com/skeeto/hash-prospector. */
static inline uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return x ^ x >> 16;
}

/* Round up or down at random, with the right expectation (powerstep/rounding.py). */
static inline bf16 to_bf16_stochastic(float x, uint32_t noise) {
    const uint32_t rounded = ((uint32_t)bits_of(x) + (noise & 0xFFFF)) >> 16;
    return (bf16)(x == x ? rounded : 0x7FC0);
}

/* |x|^β with the sign of x; c is power_coefficients(β) (power.py). */
static inline float signed_power_of(float x, const float *c) {
    const int32_t magnitude = bits_of(x) & 0x7FFFFFFF;
    /* 2^24·|x| is no subnormal number. The coefficients undo the factor. */
    const int32_t bits = bits_of(float_of(magnitude) * 0x1p24f);
    const int32_t exponent = (bits - 0x3F3504F3) & (int32_t)0xFF800000; /* 2^23·e; bits of √½ */
    const float z = float_of(bits - exponent) - 1, e = (float)exponent;
    /* Adding 1.5·2^23 rounds to an integer, which is then in the low bits of k. */
    const float k = fused(c[0], e, 0x1.8p23f);
    float f = fused(c[0], e, 0x1.8p23f - k);
#ifdef WIDE
    f = fused(c[14], e, f); /* β - c[0], which matters if β is large */
#endif
    float two_f = c[6], one_z = c[13];
    for (int i = 5; i >= 1; i--) two_f = fused(two_f, f, c[i]);
    for (int i = 12; i >= 7; i--) one_z = fused(one_z, z, c[i]);
#ifdef WIDE
    /* Two factors: 2^k may be no normal number. */
    const int32_t whole = (int32_t)((uint32_t)bits_of(k) << 10) >> 10, half = whole >> 1;
    const int32_t power = bits_of(
        two_f * one_z * float_of((half + 127) << 23) * float_of((whole - half + 127) << 23));
#else
    const int32_t power = bits_of(two_f * one_z) + (int32_t)((uint32_t)bits_of(k) << 23);
#endif
    /* Zeros, infinities and NaN are their own powers: 0 < bits < infinity, in one comparison. */
    const int32_t is_finite = magnitude + 0x7FFFFFFF < 0x7F800000 - 1 + INT32_MIN;
    return float_of((is_finite ? power : magnitude) | (bits_of(x) & INT32_MIN));
}

static inline float sign_of(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x; }

/* Quantisation in blocks (powerstep/quantization.py). `values` has room for an even number. */
static inline void load_int8(const int8_t *codes, float scale, float *values, int64_t count) {
    const float unit = scale * (1.0f / 127);
    for (int64_t i = 0; i < count; i++) values[i] = codes[i] * unit;
}

static inline void load_int4(const uint8_t *codes, float scale, float *values, int64_t count) {
    const float unit = scale * (1.0f / 7);
    for (int64_t i = 0; i < (count + 1) / 2; i++) {
        values[2 * i] = (int8_t)(codes[i] << 4) / 16 * unit;
        values[2 * i + 1] = ((int8_t)codes[i] >> 4) * unit;
    }
}

/* The largest magnitude; NaN if there is one, because its bits are larger than those of infinity. */
static inline float largest(const float *values, int64_t count) {
    int32_t bits = 0;
    for (int64_t i = 0; i < count; i++) {
        const int32_t magnitude = bits_of(values[i]) & 0x7FFFFFFF;
        bits = magnitude > bits ? magnitude : bits;
    }
    return float_of(bits);
}

static inline int32_t code_of(float x, float scale, float q) {
    const float ratio = rintf(x / scale * q);
    return ratio == ratio ? (int32_t)ratio : 0;
}

static inline float store_int8(const float *values, int8_t *codes, int64_t count) {
    const float scale = largest(values, count);
    for (int64_t i = 0; i < count; i++) codes[i] = (int8_t)code_of(values[i], scale, 127);
    return scale;
}

static inline float store_int4(float *values, uint8_t *codes, int64_t count) {
    const float scale = largest(values, count);
    if (count % 2) values[count] = 0;
    for (int64_t i = 0; i < (count + 1) / 2; i++) {
        const int32_t low = code_of(values[2 * i], scale, 7);
        const int32_t high = code_of(values[2 * i + 1], scale, 7);
        codes[i] = (uint8_t)((low & 0xF) | high << 4);
    }
    return scale;
}

#define abs fabsf
#define sqrt sqrtf

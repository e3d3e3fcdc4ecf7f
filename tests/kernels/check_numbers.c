/* check_numbers.c: the oracles' numbers: decoding by the definition of each format, rounding by
 * scaling to integers, encoding by search; and random data. On purpose other ways than those of
 * kernels/number_format.h. */
#include "check.h"

#include <pthread.h>

/* mantissa and exponent bits, greatest finite code, what comes above it. */
typedef struct format {
    int exponent_bits, mantissa_bits;
    uint32_t greatest;
    bool saturates;
} format;

static format format_of(uint32_t dtype)
{
    switch (dtype) {
    case WN_F16:
        return (format){5, 10, 0x7bff, false};
    case WN_BF16:
        return (format){8, 7, 0x7f7f, false};
    case WN_F8_E4M3:
        return (format){4, 3, 0x7e, true};
    case WN_F8_E5M2:
        return (format){5, 2, 0x7b, true};
    default:
        return (format){0, 0, 0, false};
    }
}

uint32_t wn_check_bytes_of(uint32_t dtype)
{
    return dtype == WN_F32 ? 4 : dtype == WN_F16 || dtype == WN_BF16 ? 2 : 1;
}

static int bias_of(format f)
{
    return (1 << (f.exponent_bits - 1)) - 1;
}

/* A code without its sign. */
static double decode(format f, uint32_t code)
{
    int field = (int)(code >> f.mantissa_bits);
    double fraction = ldexp(code & ((1u << f.mantissa_bits) - 1), -f.mantissa_bits);
    if (code > f.greatest)
        return code == f.greatest + 1 && f.greatest != 0x7e ? (double)INFINITY : (double)NAN;
    return field == 0 ? ldexp(fraction, 1 - bias_of(f)) : ldexp(1 + fraction, field - bias_of(f));
}

/* What every code of the four narrow float formats stands for: the oracles read a great deal. */
static double f16_values[65536], bf16_values[65536], e4m3_values[256], e5m2_values[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_values(uint32_t dtype, double *values)
{
    uint32_t sign = 1u << (8 * wn_check_bytes_of(dtype) - 1);
    for (uint32_t code = 0; code < sign; code++) {
        values[code] = decode(format_of(dtype), code);
        values[code | sign] = -values[code];
    }
}

static void fill_all(void)
{
    fill_values(WN_F16, f16_values);
    fill_values(WN_BF16, bf16_values);
    fill_values(WN_F8_E4M3, e4m3_values);
    fill_values(WN_F8_E5M2, e5m2_values);
}

static const double *values_of(uint32_t dtype)
{
    pthread_once(&once, fill_all);
    return dtype == WN_F16       ? f16_values
           : dtype == WN_BF16    ? bf16_values
           : dtype == WN_F8_E4M3 ? e4m3_values
                                 : e5m2_values;
}

double wn_check_load(const void *data, uint32_t dtype, int64_t index)
{
    switch (dtype) {
    case WN_F32:
        return ((const float *)data)[index];
    case WN_I8:
        return ((const int8_t *)data)[index];
    case WN_F16:
    case WN_BF16:
        return values_of(dtype)[((const uint16_t *)data)[index]];
    default:
        return values_of(dtype)[((const uint8_t *)data)[index]];
    }
}

double wn_check_round(uint32_t dtype, double value)
{
    if (dtype == WN_F32)
        return (float)value;
    if (dtype == WN_I8)
        return isnan(value) ? 0 : fmin(fmax(rint(value), -128), 127);
    if (isnan(value) || value == 0)
        return value;
    format f = format_of(dtype);
    double greatest = decode(f, f.greatest), rounded = value;
    if (isfinite(value)) {
        int exponent = ilogb(value);
        if (exponent < 1 - bias_of(f))
            exponent = 1 - bias_of(f);
        int unit = exponent - f.mantissa_bits;
        rounded = ldexp(rint(ldexp(value, -unit)), unit);
    }
    if (fabs(rounded) > greatest)
        rounded = copysign(f.saturates ? greatest : (double)INFINITY, value);
    return rounded;
}

void wn_check_store(void *data, uint32_t dtype, int64_t index, double value)
{
    uint32_t bytes = wn_check_bytes_of(dtype);
    uint8_t *at = (uint8_t *)data + index * bytes;
    double rounded = wn_check_round(dtype, value);
    if (dtype == WN_F32) {
        float narrow = (float)rounded;
        memcpy(at, &narrow, sizeof narrow);
        return;
    }
    if (dtype == WN_I8) {
        int8_t narrow = (int8_t)rounded;
        memcpy(at, &narrow, sizeof narrow);
        return;
    }
    const double *values = values_of(dtype);
    uint32_t low = 0, high = format_of(dtype).greatest + 1; /* the code whose value is |rounded| */
    if (isnan(rounded))
        low = (1u << (8 * bytes - 1)) - 1;
    while (!isnan(rounded) && low < high) {
        uint32_t middle = (low + high) / 2;
        if (values[middle] < fabs(rounded))
            low = middle + 1;
        else
            high = middle;
    }
    if (signbit(rounded))
        low |= 1u << (8 * bytes - 1);
    memcpy(at, &low, bytes);
}

/* ---------------------------------------------------------------- data */

const char *wn_data_name(wn_data_kind kind)
{
    static const char *const names[WN_DATA_KINDS] = {"noise", "flat",     "peaked", "needle",
                                                     "equal", "denormal", "large"};
    return names[kind];
}

double wn_data_value(wn_data_kind kind, uint64_t seed, int64_t token, int64_t channel)
{
    uint64_t of_token = seed ^ ((uint64_t)token * 0x9e3779b97f4a7c15ULL);
    if (kind == WN_DATA_EQUAL)
        of_token = seed;
    uint64_t of_channel = of_token + (uint64_t)channel * 0xd1342543de82ef95ULL;
    double noise = wn_random_signed(&of_channel);
    switch (kind) {
    case WN_DATA_FLAT:
        return noise / 64;
    case WN_DATA_PEAKED:
        return noise * 6;
    case WN_DATA_NEEDLE:
        return wn_random_below(&of_token, 16) == 0 ? noise : noise / 64;
    case WN_DATA_DENORMAL: /* 1e-40 .. 1e-7 */
        return copysign(pow(10, -40 + 33 * fabs(noise)), noise);
    case WN_DATA_LARGE:
        return noise * 3000;
    default:
        return noise;
    }
}

static wn_tensor dense(uint32_t dtype, uint32_t ndim, const int64_t *shape, int64_t *count)
{
    wn_tensor tensor = {.dtype = dtype, .ndim = ndim, .device = WN_DEVICE_CPU};
    *count = 1;
    for (uint32_t i = ndim; i-- > 0;) {
        tensor.shape[i] = shape[i];
        tensor.stride[i] = *count;
        *count *= shape[i];
    }
    return tensor;
}

wn_tensor wn_check_tensor(wn_check *check, uint32_t dtype, wn_data_kind kind, uint32_t ndim,
                          const int64_t *shape)
{
    int64_t count, last = shape[ndim - 1];
    wn_tensor tensor = dense(dtype, ndim, shape, &count);
    uint64_t seed = wn_random(&check->random);
    tensor.data = wn_check_input(check, (size_t)count * wn_check_bytes_of(dtype));
    for (int64_t i = 0; i < count; i++)
        wn_check_store(tensor.data, dtype, i, wn_data_value(kind, seed, i / last, i % last));
    return tensor;
}

wn_tensor wn_check_tensor_out(wn_check *check, uint32_t dtype, uint32_t ndim, const int64_t *shape)
{
    int64_t count;
    wn_tensor tensor = dense(dtype, ndim, shape, &count);
    uint32_t bytes = dtype == WN_I32 ? 4 : wn_check_bytes_of(dtype);
    tensor.data = wn_check_output(check, (size_t)count * bytes);
    return tensor;
}

double wn_check_at(const wn_tensor *tensor, int64_t i, int64_t j, int64_t k, int64_t l)
{
    int64_t offset = i * tensor->stride[0] + j * tensor->stride[1] + k * tensor->stride[2] +
                     l * tensor->stride[3];
    return wn_check_load(tensor->data, tensor->dtype, offset);
}

#include "range.h"
#include <inttypes.h>

static void write_digit(FILE *out, int64_t first, int64_t last)
{
    if (first == last)
        fprintf(out, "%" PRId64, first);
    else
        fprintf(out, "[%" PRId64 "-%" PRId64 "]", first, last);
}

void weir_conf_range_write(FILE *out, int64_t min, int64_t max)
{
    const char *between = "";
    while (min <= max) {
        /* the largest block of 10^zeros numbers that begins at min, and as many like it as differ in one digit */
        int64_t block = 1;
        int zeros = 0;
        while (min > 0 && block <= INT64_MAX / 10 && min % (block * 10) == 0 && block * 10 - 1 <= max - min) {
            block *= 10;
            ++zeros;
        }
        int64_t first = min / block % 10, last = first;
        while (min > 0 && last < 9 && (last - first + 2) * block - 1 <= max - min)
            ++last;
        fputs(between, out);
        if (min / block / 10 > 0)
            fprintf(out, "%" PRId64, min / block / 10);
        write_digit(out, first, last);
        if (zeros == 1)
            fputs("[0-9]", out);
        else if (zeros > 1)
            fprintf(out, "[0-9]{%d}", zeros);
        if (block * (last - first + 1) - 1 >= max - min)
            return;
        min += block * (last - first + 1);
        between = "|";
    }
}

#include "redis_row.h"

#include <assert.h>
#include <string.h>
#include "../core/decimal.h"
#include "../core/hex.h"

enum { HEX_MAX = 16 };

static char *put_text(char *at, const char *text, size_t len)
{
    memcpy(at, text, len);
    return at + len;
}

/* Rows */

char weir_redis_row_kind(const weir_store_limit_t *limit)
{
    switch (limit->algorithm) {
    case WEIR_LIMIT_CONCURRENCY:
        return 'c';
    case WEIR_LIMIT_SLIDING_WINDOW:
        return limit->precision == WEIR_PRECISION_EXACT ? 'x' : 's';
    default:
        return 'b';
    }
}

static void set_terms(weir_redis_row_t *row, const weir_conf_quota_t *quota)
{
    switch (row->kind) {
    case 'b':
        row->terms[0] = quota->rate.count;
        row->terms[1] = quota->rate.period_ns / 1000;
        row->terms[2] = quota->burst;
        break;
    case 'c':
        row->terms[0] = quota->limit;
        row->terms[1] = WEIR_REDIS_SLOT_LEASE_NS / 1000;
        break;
    default:
        row->terms[0] = quota->limit;
        row->terms[1] = quota->window_ns / 1000;
    }
}

void weir_redis_row_init(weir_redis_row_t *row, const weir_store_item_t *item, uint64_t id)
{
    *row = (weir_redis_row_t){.kind = weir_redis_row_kind(item->limit), .tag = item->key, .id = id};
    set_terms(row, item->quota);
}

size_t weir_redis_row_name(char out[WEIR_REDIS_ROW_NAME_MAX], weir_str_t prefix, const weir_store_item_t *item)
{
    const weir_store_limit_t *limit = item->limit;
    char kind = weir_redis_row_kind(limit), *at = out;
    size_t name_len = strlen(limit->name);
    assert(prefix.len + name_len + sizeof("{}:l::k") + 2 * HEX_MAX + WEIR_DECIMAL_DIGITS_MAX <= WEIR_REDIS_ROW_NAME_MAX);
    at = put_text(at, prefix.base, prefix.len);
    *at++ = '{';
    at = weir_hex_write(weir_hex_write(at, item->key.high, HEX_MAX), item->key.low, HEX_MAX);
    at = put_text(at, "}:l:", 4);
    at = put_text(at, limit->name, name_len);
    *at++ = ':';
    *at++ = kind;
    if (kind == 's' || kind == 'x')
        at = weir_decimal_write(at, (uint64_t)item->quota->window_ns / 1000);
    return (size_t)(at - out);
}

/* Arguments */

void weir_redis_args_init(weir_redis_args_t *args)
{
    args->count = 0;
    args->at = args->text;
}

static void end_arg(weir_redis_args_t *args, char *end)
{
    assert(args->count < WEIR_REDIS_ARGS_MAX);
    args->entries[args->count++] = (weir_str_t){args->at, (size_t)(end - args->at)};
    args->at = end;
}

void weir_redis_args_put_number(weir_redis_args_t *args, int64_t number)
{
    char *at = args->at;
    if (number < 0)
        *at++ = '-';
    end_arg(args, weir_decimal_write(at, number < 0 ? -(uint64_t)number : (uint64_t)number));
}

void weir_redis_args_put_member(weir_redis_args_t *args, uint64_t sidecar, uint64_t id)
{
    char *at = weir_hex_write(args->at, sidecar, HEX_MAX);
    *at++ = '-';
    end_arg(args, weir_hex_write(at, id, HEX_MAX));
}

void weir_redis_args_put_row(weir_redis_args_t *args, const weir_redis_row_t *row, uint64_t sidecar, int64_t first,
                             int64_t second)
{
    *args->at = row->kind;
    end_arg(args, args->at + 1);
    weir_redis_args_put_number(args, first);
    weir_redis_args_put_number(args, second);
    for (size_t i = 0; i < sizeof(row->terms) / sizeof(*row->terms); ++i)
        weir_redis_args_put_number(args, row->terms[i]);
    if (row->kind == 'x' || row->kind == 'c')
        weir_redis_args_put_member(args, sidecar, row->id);
    else
        weir_redis_args_put_number(args, 0);
}

#include "retry_after.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define NS_PER_S INT64_C(1000000000)

typedef struct {
    const char *at, *end;
} cursor_t;

typedef struct {
    int64_t year;
    bool has_century;
    int64_t month, day, hour, minute, second; /* month: 1 .. 12 */
} date_t;

static int64_t bounded(__int128 ns, int64_t max_ns)
{
    return ns < 0 ? 0 : ns < max_ns ? (int64_t)ns : max_ns;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool scan_number(cursor_t *cursor, int digits, int64_t *number)
{
    *number = 0;
    for (int i = 0; i < digits; ++i, ++cursor->at) {
        if (cursor->at == cursor->end || !is_digit(*cursor->at))
            return false;
        *number = *number * 10 + (*cursor->at - '0');
    }
    return true;
}

/* Which of the names follows, from 1; 0: none. Each name ends with a `,`, as no name of a date does. */
static int64_t scan_name(cursor_t *cursor, const char *names)
{
    for (int64_t number = 1; *names != '\0'; ++number) {
        size_t len = (size_t)(strchr(names, ',') - names);
        if ((size_t)(cursor->end - cursor->at) >= len && memcmp(cursor->at, names, len) == 0) {
            cursor->at += len;
            return number;
        }
        names += len + 1;
    }
    return 0;
}

static bool scan_literal(cursor_t *cursor, char c)
{
    return cursor->at != cursor->end && *cursor->at++ == c;
}

static bool scan_day_of_asctime(cursor_t *cursor, int64_t *day)
{
    bool is_short = cursor->at != cursor->end && *cursor->at == ' ';
    cursor->at += is_short;
    return scan_number(cursor, is_short ? 1 : 2, day);
}

/* A conversion of strftime(3). */
static bool scan_part(cursor_t *cursor, char part, date_t *date)
{
    switch (part) {
    case 'a':
        return scan_name(cursor, "Mon,Tue,Wed,Thu,Fri,Sat,Sun,") != 0;
    case 'A':
        return scan_name(cursor, "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday,") != 0;
    case 'b':
        return (date->month = scan_name(cursor, "Jan,Feb,Mar,Apr,May,Jun,Jul,Aug,Sep,Oct,Nov,Dec,")) != 0;
    case 'd':
        return scan_number(cursor, 2, &date->day);
    case 'e':
        return scan_day_of_asctime(cursor, &date->day);
    case 'H':
        return scan_number(cursor, 2, &date->hour);
    case 'M':
        return scan_number(cursor, 2, &date->minute);
    case 'S':
        return scan_number(cursor, 2, &date->second);
    case 'Y':
        date->has_century = true;
        return scan_number(cursor, 4, &date->year);
    default:
        assert(part == 'y');
        return scan_number(cursor, 2, &date->year);
    }
}

static bool scan_date(cursor_t cursor, const char *form, date_t *date)
{
    *date = (date_t){0};
    for (; *form != '\0'; ++form)
        if (*form == '%' ? !scan_part(&cursor, *++form, date) : !scan_literal(&cursor, *form))
            return false;
    return cursor.at == cursor.end;
}

/* Since 1970-01-01. Years begin in March here, so that the day of a leap year is their last (H. Hinnant, "chrono-
 * Compatible Low-Level Date Algorithms", days_from_civil). */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    year += month > 2 ? 400 : 399; /* not below 0 */
    int64_t day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468 - 146097;
}

static int64_t seconds_of(const date_t *date, int64_t year)
{
    return ((days_of(year, date->month, date->day) * 24 + date->hour) * 60 + date->minute) * 60 + date->second;
}

static void add_century(date_t *date, int64_t wall_s)
{
    for (date->year += 1900; seconds_of(date, date->year + 100 - 50) <= wall_s;)
        date->year += 100;
}

static bool is_date(const date_t *date)
{
    int64_t next = date->month == 12 ? days_of(date->year + 1, 1, 1) : days_of(date->year, date->month + 1, 1);
    return date->day >= 1 && days_of(date->year, date->month, date->day) < next && date->hour <= 23 &&
           date->minute <= 59 && date->second <= 60; /* 60: a leap second */
}

static int64_t seconds_to_ns(cursor_t cursor, int64_t max_ns)
{
    __int128 ns = 0;
    for (; cursor.at != cursor.end; ++cursor.at) {
        if (!is_digit(*cursor.at))
            return bounded(WEIR_RETRY_AFTER_DEFAULT_NS, max_ns);
        ns = bounded(ns * 10 + (*cursor.at - '0') * NS_PER_S, INT64_MAX);
    }
    return bounded(ns, max_ns);
}

static cursor_t trimmed(const char *text, size_t len)
{
    cursor_t cursor = {text, text + len};
    while (cursor.at != cursor.end && (*cursor.at == ' ' || *cursor.at == '\t'))
        ++cursor.at;
    while (cursor.at != cursor.end && (cursor.end[-1] == ' ' || cursor.end[-1] == '\t'))
        --cursor.end;
    return cursor;
}

int64_t weir_retry_after_ns(const char *text, size_t len, int64_t wall_ns, int64_t max_ns)
{
    static const char *const forms[] = {
        "%a, %d %b %Y %H:%M:%S GMT", /* IMF-fixdate */
        "%A, %d-%b-%y %H:%M:%S GMT", /* RFC 850 */
        "%a %b %e %H:%M:%S %Y",      /* asctime(3) */
    };
    assert(wall_ns >= 0);
    assert(max_ns >= 0);
    if (text == NULL)
        return bounded(WEIR_RETRY_AFTER_DEFAULT_NS, max_ns);
    cursor_t cursor = trimmed(text, len);
    if (cursor.at != cursor.end && is_digit(*cursor.at))
        return seconds_to_ns(cursor, max_ns);
    for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); ++i) {
        date_t date;
        if (!scan_date(cursor, forms[i], &date))
            continue;
        if (!date.has_century)
            add_century(&date, wall_ns / NS_PER_S);
        if (is_date(&date))
            return bounded((__int128)seconds_of(&date, date.year) * NS_PER_S - wall_ns, max_ns);
    }
    return bounded(WEIR_RETRY_AFTER_DEFAULT_NS, max_ns);
}

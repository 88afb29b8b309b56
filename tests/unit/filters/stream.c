/* Streams: what readers see step by step, who is told and when, what is kept and what goes, the account; and one writer
 * with readers that come and go at random, in threads. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/stream.h"

enum { KIB = 1024, MIB = 1024 * KIB, WRITER = 999, TICKETS = 1000 };

static _Atomic unsigned told[TICKETS];

static void on_tell(void *context, weir_ticket_t ticket)
{
    atomic_fetch_add(&told[ticket.slot], 1);
}

static const weir_store_teller_t teller = {on_tell, NULL};

static weir_ticket_t ticket_of(uint32_t slot)
{
    return (weir_ticket_t){.slot = slot};
}

/* How often it was told since this was asked last. */
static unsigned take_told(uint32_t slot)
{
    return atomic_exchange(&told[slot], 0);
}

static weir_stream_account_t account;

static int begin_account(void **state)
{
    memset(&account, 0, sizeof(account));
    account.max_bytes = 64 * MIB;
    for (int i = 0; i < TICKETS; ++i)
        told[i] = 0;
    return 0;
}

static int end_account(void **state)
{
    assert_int_equal(account.bytes, 0);
    return 0;
}

/* What every stream carries. */
static char body[5 * MIB];

static int fill_body(void **state)
{
    for (size_t i = 0; i < sizeof(body); ++i)
        body[i] = (char)(i * 7 + i / 251);
    return 0;
}

static void append(weir_stream_t *stream, int64_t *at, size_t len)
{
    assert_true((size_t)*at + len <= sizeof(body));
    weir_stream_append(stream, body + *at, len);
    *at += (int64_t)len;
}

static weir_stream_t *begun(int64_t max_bytes)
{
    weir_stream_t *stream = weir_stream_create(&account, max_bytes, teller);
    weir_stream_begin(stream, "head", 4);
    return stream;
}

static void end(weir_stream_t *stream)
{
    weir_stream_end(stream, WEIR_STREAM_DONE, (weir_stream_end_t){0});
}

static size_t view_bytes(const weir_stream_view_t *view)
{
    size_t bytes = 0;
    for (size_t i = 0; i < view->run_count; ++i)
        bytes += view->runs[i].len;
    return bytes;
}

static bool is_right(const weir_stream_view_t *view, int64_t position)
{
    for (size_t i = 0; i < view->run_count; position += (int64_t)view->runs[i++].len)
        if (memcmp(view->runs[i].base, body + position, view->runs[i].len) != 0)
            return false;
    return true;
}

/* Reads up to so many bytes of what is there, and checks them. Returns how many. */
static size_t read_some(weir_stream_reader_t *reader, size_t most)
{
    size_t sum = 0;
    for (;;) {
        weir_stream_view_t view;
        weir_stream_look(reader, &view);
        assert_true(is_right(&view, reader->position));
        size_t bytes = view_bytes(&view);
        bytes = bytes < most - sum ? bytes : most - sum;
        if (bytes == 0)
            return sum;
        weir_stream_went_on(reader, bytes);
        sum += bytes;
    }
}

static weir_stream_view_t look(weir_stream_reader_t *reader)
{
    weir_stream_view_t view;
    weir_stream_look(reader, &view);
    return view;
}

static void test_a_reader_sees_what_is_written(void **state)
{
    weir_stream_t *stream = weir_stream_create(&account, MIB, teller);
    weir_stream_reader_t reader;
    assert_false(weir_stream_has_head(stream));
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    weir_stream_view_t view = look(&reader);
    assert_null(view.head);
    assert_true(view.run_count == 0 && !view.is_all && !view.is_cut && view.state == WEIR_STREAM_OPEN &&
                view.total == 0);
    assert_int_equal(take_told(1), 0);
    weir_stream_begin(stream, "head", 4);
    assert_true(weir_stream_has_head(stream));
    assert_int_equal(take_told(1), 1);
    view = look(&reader);
    assert_int_equal(view.head_len, 4);
    assert_memory_equal(view.head, "head", 4);
    assert_int_equal(view.run_count, 0);
    weir_stream_append(stream, "", 0);
    weir_stream_append(stream, "abc", 3);
    assert_int_equal(take_told(1), 1);
    weir_stream_append(stream, "def", 3);
    assert_int_equal(take_told(1), 0); /* it does not wait */
    view = look(&reader);
    assert_int_equal(view_bytes(&view), 6);
    assert_memory_equal(view.runs[0].base, "abcdef", 6);
    assert_int_equal(view.total, 6);
    weir_stream_went_on(&reader, 2);
    view = look(&reader);
    assert_int_equal(view_bytes(&view), 4);
    assert_memory_equal(view.runs[0].base, "cdef", 4);
    weir_stream_went_on(&reader, 4);
    assert_false(weir_stream_is_whole(stream));
    weir_stream_end(stream, WEIR_STREAM_DONE, (weir_stream_end_t){0});
    assert_int_equal(take_told(1), 0); /* nor now: it has not looked again */
    view = look(&reader);
    assert_true(view.is_all && view.run_count == 0 && view.state == WEIR_STREAM_DONE && view.total == 6);
    assert_true(weir_stream_is_whole(stream));
    assert_int_equal(weir_stream_readers(stream), 1);
    weir_stream_leave(&reader);
    assert_null(reader.stream);
    weir_stream_leave(&reader);
    assert_int_equal(weir_stream_readers(stream), 0);
    weir_stream_release(stream);
}

static void test_the_end_is_seen_with_the_last_bytes(void **state)
{
    weir_stream_t *stream = begun(MIB);
    weir_stream_reader_t reader;
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    int64_t at = 0;
    append(stream, &at, 300 * KIB);
    end(stream);
    int64_t seen = 0;
    for (;;) {
        weir_stream_view_t view = look(&reader);
        seen += (int64_t)view_bytes(&view);
        assert_true(view.run_count <= WEIR_STREAM_RUNS_MAX && view.run_count > 0);
        assert_int_equal(view.is_all, seen == at);
        weir_stream_went_on(&reader, view_bytes(&view));
        if (view.is_all)
            break;
    }
    assert_int_equal(take_told(1), 0);
    weir_stream_leave(&reader);
    weir_stream_release(stream);
}

static void test_ways_to_end(void **state)
{
    for (int way = WEIR_STREAM_DONE; way <= WEIR_STREAM_LOST; ++way) {
        weir_stream_t *stream = weir_stream_create(&account, MIB, teller);
        weir_stream_reader_t reader;
        assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
        if (way != WEIR_STREAM_LOST) {
            weir_stream_begin(stream, "head", 4);
            weir_stream_append(stream, "abc", 3);
        }
        weir_stream_view_t view = look(&reader);
        weir_stream_went_on(&reader, view_bytes(&view));
        view = look(&reader);
        assert_false(view.is_all);
        weir_stream_end_t why = {WEIR_REASON_RESET, "it broke", way == WEIR_STREAM_LOST};
        weir_stream_end(stream, (weir_stream_state_t)way, why);
        assert_int_equal(take_told(1), 1);
        view = look(&reader);
        assert_true(view.is_all && view.run_count == 0 && (int)view.state == way);
        assert_true(view.end.reason == WEIR_REASON_RESET && view.end.is_unknown == why.is_unknown);
        assert_ptr_equal(view.end.detail, why.detail);
        assert_int_equal(view.head != NULL, way != WEIR_STREAM_LOST);
        assert_int_equal(weir_stream_is_whole(stream), way == WEIR_STREAM_DONE);
        weir_stream_leave(&reader);
        weir_stream_release(stream);
    }
}

/* The stream's owner may be gone before its readers. */
static void test_a_reader_holds_its_stream(void **state)
{
    weir_stream_t *stream = begun(MIB);
    weir_stream_reader_t reader;
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    int64_t at = 0;
    append(stream, &at, 100000);
    end(stream);
    weir_stream_release(weir_stream_acquire(stream));
    weir_stream_release(stream);
    assert_int_equal(read_some(&reader, SIZE_MAX), 100000);
    assert_true(account.bytes > 100000);
    weir_stream_leave(&reader);
}

static void test_later_readers_get_it_again(void **state)
{
    weir_stream_t *stream = begun(MIB);
    weir_stream_reader_t early, late, again;
    assert_true(weir_stream_join(stream, &early, ticket_of(1)));
    int64_t at = 0;
    for (size_t len = 1; len < 5000; len = len * 3 + 1)
        append(stream, &at, len);
    assert_int_equal(read_some(&early, SIZE_MAX), at);
    assert_true(weir_stream_join(stream, &late, ticket_of(2)));
    append(stream, &at, 1000);
    assert_int_equal(read_some(&late, 700), 700);
    weir_stream_leave(&early);
    end(stream);
    assert_int_equal(read_some(&late, SIZE_MAX), at - 700);
    weir_stream_leave(&late);
    for (int i = 0; i < 3; ++i) {
        assert_true(weir_stream_is_whole(stream));
        assert_true(weir_stream_join(stream, &again, ticket_of(3)));
        assert_int_equal(read_some(&again, SIZE_MAX), at);
        weir_stream_view_t view = look(&again);
        assert_true(view.is_all);
        weir_stream_leave(&again);
    }
    weir_stream_release(stream);
}

static void test_small_answers_take_little(void **state)
{
    weir_stream_t *stream = begun(MIB);
    int64_t at = 0;
    append(stream, &at, 200);
    end(stream);
    assert_true(weir_stream_bytes(stream) < 1024);
    assert_int_equal(weir_stream_bytes(stream), account.bytes);
    weir_stream_release(stream);
    stream = begun(MIB);
    at = 0;
    for (int i = 0; i < 1000; ++i)
        append(stream, &at, 100);
    assert_true(weir_stream_bytes(stream) < 100000 + 17 * KIB + 1024);
    weir_stream_release(stream);
}

/* More than max_bytes: only what somebody has to read still. */
static void test_a_large_answer_is_not_kept(void **state)
{
    weir_stream_t *stream = begun(100 * KIB);
    weir_stream_reader_t reader, late;
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    int64_t at = 0;
    append(stream, &at, 100 * KIB);
    assert_true(weir_stream_join(stream, &late, ticket_of(2)));
    weir_stream_leave(&late);
    append(stream, &at, 1);
    assert_false(weir_stream_join(stream, &late, ticket_of(2)));
    assert_null(late.stream);
    weir_stream_leave(&late);
    assert_true(weir_stream_bytes(stream) > 100 * KIB);
    assert_int_equal(read_some(&reader, SIZE_MAX), at);
    assert_true(weir_stream_bytes(stream) < 20 * KIB);
    int64_t read = at;
    for (int i = 0; i < 100; ++i) {
        append(stream, &at, 10 * KIB);
        read += (int64_t)read_some(&reader, SIZE_MAX);
        assert_int_equal(read, at);
        assert_true(weir_stream_bytes(stream) < 50 * KIB);
    }
    end(stream);
    weir_stream_view_t view = look(&reader);
    assert_true(view.is_all && view.total == at && !view.is_cut);
    assert_false(weir_stream_is_whole(stream));
    assert_false(weir_stream_join(stream, &late, ticket_of(2)));
    weir_stream_leave(&reader);
    assert_true(weir_stream_bytes(stream) < 1024);
    weir_stream_release(stream);
}

static void test_a_large_answer_that_nobody_reads(void **state)
{
    weir_stream_t *stream = begun(10 * KIB);
    int64_t at = 0;
    for (int i = 0; i < 100; ++i) {
        append(stream, &at, 3 * KIB);
        assert_true(account.bytes < 20 * KIB);
        assert_int_equal(weir_stream_ahead(stream, 0, ticket_of(WRITER)), 0);
    }
    assert_true(account.bytes < 1024);
    end(stream);
    weir_stream_release(stream);
    stream = begun(0); /* nothing of it is kept */
    end(stream);
    assert_true(weir_stream_is_whole(stream));
    weir_stream_release(stream);
    stream = begun(0);
    append(stream, &at, 1);
    end(stream);
    assert_false(weir_stream_is_whole(stream));
    weir_stream_release(stream);
}

/* However little is kept, who reads at the pace of the others gets all of it. */
static void test_nothing_kept_and_two_readers(void **state)
{
    weir_stream_t *stream = begun(0);
    weir_stream_reader_t a, b;
    assert_true(weir_stream_join(stream, &a, ticket_of(1)));
    assert_true(weir_stream_join(stream, &b, ticket_of(2)));
    int64_t at = 0;
    for (int i = 0; i < 20; ++i) {
        append(stream, &at, 64 * KIB);
        assert_int_equal(read_some(&a, SIZE_MAX), 64 * KIB);
        assert_int_equal(read_some(&b, SIZE_MAX), 64 * KIB);
    }
    end(stream);
    assert_true(look(&a).is_all && look(&b).is_all);
    weir_stream_leave(&a);
    weir_stream_leave(&b);
    weir_stream_release(stream);
}

static void test_a_slow_reader_is_cut_off(void **state)
{
    weir_stream_t *stream = begun(512 * KIB);
    weir_stream_reader_t fast, slow, slowest;
    assert_true(weir_stream_join(stream, &fast, ticket_of(1)));
    assert_true(weir_stream_join(stream, &slow, ticket_of(2)));
    assert_true(weir_stream_join(stream, &slowest, ticket_of(3)));
    int64_t at = 0;
    append(stream, &at, 512 * KIB);
    read_some(&fast, SIZE_MAX);
    assert_int_equal(read_some(&slow, 100 * KIB), 100 * KIB);
    weir_stream_view_t shown = look(&slowest), view;
    append(stream, &at, 64 * KIB);
    assert_false(look(&slow).is_cut); /* 64 KiB more than 512 behind the end, but not behind the fastest */
    assert_int_equal(weir_stream_readers(stream), 3);
    read_some(&fast, SIZE_MAX);
    assert_int_equal(weir_stream_readers(stream), 2);
    assert_false(look(&slow).is_cut);
    view = look(&slowest);
    assert_true(view.is_cut && view.run_count == 0 && !view.is_all);
    assert_true(is_right(&shown, 0)); /* what it was shown stays until it went on */
    int64_t before = weir_stream_bytes(stream);
    weir_stream_went_on(&slowest, 10);
    assert_true(weir_stream_bytes(stream) < before);
    assert_true(look(&slowest).is_cut);
    assert_int_equal(take_told(3), 0);
    for (int i = 0; i < 40; ++i) {
        append(stream, &at, 64 * KIB);
        read_some(&fast, SIZE_MAX);
        assert_true(weir_stream_bytes(stream) < 512 * KIB + 100 * KIB);
    }
    assert_true(look(&slow).is_cut);
    assert_true(weir_stream_bytes(stream) < 170 * KIB); /* the eight segments that it was shown */
    weir_stream_leave(&slow);
    weir_stream_leave(&slowest);
    assert_true(weir_stream_bytes(stream) < 40 * KIB);
    assert_int_equal(weir_stream_readers(stream), 1);
    end(stream);
    assert_true(look(&fast).is_all);
    weir_stream_leave(&fast);
    weir_stream_release(stream);
}

/* Two that were cut off with the same segments in hand. */
static void test_those_who_were_cut_off_let_go_one_by_one(void **state)
{
    weir_stream_t *stream = begun(256 * KIB);
    weir_stream_reader_t fast, slow[3];
    assert_true(weir_stream_join(stream, &fast, ticket_of(1)));
    int64_t at = 0;
    for (int i = 0; i < 3; ++i)
        assert_true(weir_stream_join(stream, &slow[i], ticket_of(2)));
    append(stream, &at, 256 * KIB);
    weir_stream_view_t shown[3];
    for (int i = 0; i < 3; ++i) {
        read_some(&slow[i], (size_t)i * 5000);
        shown[i] = look(&slow[i]);
        assert_true(shown[i].run_count > 1);
    }
    while (weir_stream_readers(stream) != 1) {
        append(stream, &at, 64 * KIB);
        read_some(&fast, SIZE_MAX);
    }
    int64_t before = weir_stream_bytes(stream);
    for (int i = 0; i < 3; ++i) {
        assert_true(is_right(&shown[i], i * 5000));
        i % 2 ? weir_stream_went_on(&slow[i], 1) : weir_stream_leave(&slow[i]);
        for (int j = i + 1; j < 3; ++j)
            assert_true(is_right(&shown[j], j * 5000));
    }
    assert_true(weir_stream_bytes(stream) < before - 50 * KIB);
    weir_stream_leave(&slow[1]);
    weir_stream_leave(&fast);
    end(stream);
    weir_stream_release(stream);
}

/* The account */

static int rooms_asked;
static weir_stream_t *others[4];

static void give_one(void *context, int64_t bytes)
{
    ++rooms_asked;
    for (int i = 0; i < 4; ++i)
        if (others[i] != NULL) {
            weir_stream_release(others[i]);
            others[i] = NULL;
            return;
        }
}

static void test_room_is_asked_for(void **state)
{
    int64_t at = 0;
    for (int i = 0; i < 4; ++i) {
        others[i] = begun(MIB);
        at = 0;
        append(others[i], &at, 60 * KIB);
        end(others[i]);
    }
    account.make_room = give_one;
    account.max_bytes = account.bytes + 10 * KIB;
    rooms_asked = 0;
    weir_stream_t *stream = begun(MIB);
    at = 0;
    for (int i = 0; i < 50; ++i) {
        append(stream, &at, 4 * KIB);
        assert_true(account.bytes <= account.max_bytes);
    }
    assert_in_range(rooms_asked, 3, 4);
    end(stream);
    assert_true(weir_stream_is_whole(stream));
    for (int i = 0; i < 4; ++i)
        if (others[i] != NULL)
            weir_stream_release(others[i]);
    weir_stream_release(stream);
}

static void test_no_room_means_that_it_is_not_kept(void **state)
{
    account.max_bytes = 50 * KIB;
    weir_stream_t *stream = begun(MIB);
    weir_stream_reader_t reader, late;
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    int64_t at = 0;
    for (int i = 0; i < 100; ++i) {
        append(stream, &at, 10 * KIB);
        assert_int_equal(read_some(&reader, SIZE_MAX), 10 * KIB);
        assert_true(account.bytes <= account.max_bytes);
    }
    assert_false(weir_stream_join(stream, &late, ticket_of(2)));
    end(stream);
    assert_true(look(&reader).is_all);
    weir_stream_leave(&reader);
    weir_stream_release(stream);
    at = 0; /* not even for a head */
    account.max_bytes = 0;
    stream = begun(MIB);
    assert_false(weir_stream_join(stream, &late, ticket_of(2)));
    append(stream, &at, 100 * KIB);
    assert_true(account.bytes < 1024);
    end(stream);
    assert_false(weir_stream_is_whole(stream));
    weir_stream_release(stream);
}

static void test_what_is_unread_is_kept_though_there_is_no_room(void **state)
{
    account.max_bytes = 1 * KIB;
    weir_stream_t *stream = weir_stream_create(&account, MIB, teller);
    weir_stream_reader_t reader;
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    weir_stream_begin(stream, "head", 4);
    int64_t at = 0;
    append(stream, &at, 200 * KIB);
    end(stream);
    assert_int_equal(read_some(&reader, SIZE_MAX), at);
    assert_true(look(&reader).is_all);
    weir_stream_leave(&reader);
    weir_stream_release(stream);
}

/* The writer and the fastest reader */

static void test_how_far_the_writer_is_ahead(void **state)
{
    weir_stream_t *stream = begun(MIB);
    weir_stream_reader_t fast, slow;
    int64_t at = 0;
    append(stream, &at, 100000);
    assert_int_equal(weir_stream_ahead(stream, 1000, ticket_of(WRITER)), 0); /* nobody reads */
    assert_true(weir_stream_join(stream, &fast, ticket_of(1)));
    assert_true(weir_stream_join(stream, &slow, ticket_of(2)));
    assert_int_equal(weir_stream_ahead(stream, 100000, ticket_of(WRITER)), 100000);
    read_some(&fast, 60000);
    assert_int_equal(take_told(WRITER), 0); /* it did not ask for less than there was */
    assert_int_equal(weir_stream_ahead(stream, 30000, ticket_of(WRITER)), 40000);
    read_some(&slow, 50000);
    read_some(&fast, 20000);
    assert_int_equal(take_told(WRITER), 0); /* 20000: more than half */
    read_some(&fast, 5000);
    assert_int_equal(take_told(WRITER), 1);
    read_some(&fast, 5000);
    assert_int_equal(take_told(WRITER), 0); /* once */
    assert_int_equal(weir_stream_ahead(stream, 5000, ticket_of(WRITER)), 10000);
    read_some(&slow, 47500);
    assert_int_equal(take_told(WRITER), 1); /* the other one is the fastest now */
    assert_int_equal(weir_stream_ahead(stream, 1000, ticket_of(WRITER)), 2500);
    assert_int_equal(weir_stream_ahead(stream, 2500, ticket_of(WRITER)), 2500);
    weir_stream_leave(&slow);
    weir_stream_leave(&fast);
    assert_int_equal(take_told(WRITER), 0); /* it took its question back */
    assert_true(weir_stream_join(stream, &slow, ticket_of(2)));
    assert_int_equal(weir_stream_ahead(stream, 0, ticket_of(WRITER)), at);
    weir_stream_leave(&slow);
    assert_int_equal(take_told(WRITER), 1); /* nobody reads any more */
    weir_stream_release(stream);
}

static void test_how_far_a_reader_is_behind(void **state)
{
    weir_stream_t *stream = begun(MIB);
    weir_stream_reader_t reader, late;
    assert_true(weir_stream_join(stream, &reader, ticket_of(1)));
    assert_int_equal(weir_stream_behind(&reader), 0);
    int64_t at = 0;
    append(stream, &at, 10000);
    assert_int_equal(weir_stream_behind(&reader), 10000);
    assert_int_equal(read_some(&reader, 4000), 4000);
    assert_int_equal(weir_stream_behind(&reader), 6000);
    assert_true(weir_stream_join(stream, &late, ticket_of(2)));
    assert_int_equal(weir_stream_behind(&late), 10000);
    end(stream);
    assert_int_equal(read_some(&reader, SIZE_MAX), 6000);
    assert_int_equal(weir_stream_behind(&reader), 0);
    weir_stream_leave(&late);
    weir_stream_leave(&reader);
    weir_stream_release(stream);
}

/* Half of what cuts a reader off, and only where bytes go at all; who waits for more has read all. */
static void test_who_is_left_behind(void **state)
{
    enum { SLACK = WEIR_STREAM_SLACK_MIN };
    weir_stream_t *stream = begun(100 * KIB);
    weir_stream_reader_t slow, fast;
    int64_t at = 0;
    assert_false(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    assert_true(weir_stream_join(stream, &slow, ticket_of(1)));
    assert_true(weir_stream_join(stream, &fast, ticket_of(2)));
    append(stream, &at, 100 * KIB);
    read_some(&fast, SIZE_MAX);
    assert_false(weir_stream_leaves_behind(stream, ticket_of(WRITER))); /* it is kept */
    append(stream, &at, SLACK / 2 - 100 * KIB);
    read_some(&fast, SIZE_MAX);
    assert_false(weir_stream_leaves_behind(stream, ticket_of(WRITER))); /* half, and not more */
    take_told(WRITER);
    append(stream, &at, 1);
    assert_int_equal(take_told(WRITER), 0);
    assert_true(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    assert_int_equal(take_told(WRITER), 0);
    assert_int_equal(read_some(&slow, 1), 1);
    assert_int_equal(take_told(WRITER), 1);
    assert_false(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    assert_int_equal(read_some(&slow, 1), 1);
    assert_int_equal(take_told(WRITER), 0); /* once */
    weir_stream_leave(&slow);
    append(stream, &at, SLACK);
    assert_true(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    weir_stream_leave(&fast);
    assert_int_equal(take_told(WRITER), 1);
    assert_false(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    weir_stream_release(stream);
}

static void test_who_was_cut_off_is_not_left_behind(void **state)
{
    weir_stream_t *stream = begun(KIB);
    weir_stream_reader_t slow, fast;
    int64_t at = 0;
    assert_true(weir_stream_join(stream, &slow, ticket_of(1)));
    assert_true(weir_stream_join(stream, &fast, ticket_of(2)));
    append(stream, &at, 200 * KIB);
    read_some(&fast, SIZE_MAX);
    assert_true(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    append(stream, &at, 200 * KIB);
    read_some(&fast, SIZE_MAX);
    assert_true(look(&slow).is_cut);
    assert_false(weir_stream_leaves_behind(stream, ticket_of(WRITER)));
    weir_stream_leave(&slow);
    weir_stream_leave(&fast);
    weir_stream_release(stream);
}

static void test_only_those_who_wait_are_told(void **state)
{
    enum { READERS = 100 };
    static weir_stream_reader_t readers[READERS];
    weir_stream_t *stream = begun(MIB);
    for (uint32_t i = 0; i < READERS; ++i)
        assert_true(weir_stream_join(stream, &readers[i], ticket_of(i)));
    for (int round = 0; round < 5; ++round) {
        for (uint32_t i = 0; i < READERS; i += 2)
            assert_int_equal(read_some(&readers[i], SIZE_MAX), round == 0 ? 0 : 10);
        int64_t at = round * 10;
        append(stream, &at, 10);
        for (uint32_t i = 0; i < READERS; ++i)
            assert_int_equal(take_told(i), i % 2 == 0);
    }
    for (uint32_t i = 0; i < READERS; i += 2)
        read_some(&readers[i], SIZE_MAX);
    for (uint32_t i = 0; i < READERS; i += 4) /* who left is not told */
        weir_stream_leave(&readers[i]);
    end(stream);
    for (uint32_t i = 0; i < READERS; ++i)
        assert_int_equal(take_told(i), i % 4 == 2);
    for (uint32_t i = 0; i < READERS; ++i)
        weir_stream_leave(&readers[i]);
    weir_stream_release(stream);
}

/* All of it at random, in one thread: readers of any pace come, look, go on and leave. */
static void test_random_readers(void **state)
{
    enum { READERS = 6 };
    seeded_t seeded = seeded_start(__func__);
    for (int round = 0; round < 30; ++round) {
        account.max_bytes = (int64_t)seeded_below(&seeded, 4) == 0 ? 300 * KIB : 64 * MIB;
        int64_t max_bytes = (int64_t)seeded_below(&seeded, MIB), at = 0;
        weir_stream_t *stream = begun(max_bytes);
        weir_stream_reader_t readers[READERS] = {{NULL}};
        weir_stream_view_t views[READERS];
        bool is_kept = true;
        size_t scale = (size_t)1 << seeded_below(&seeded, 15);
        for (int event = 0; event < 1000; ++event) {
            size_t i = seeded_below(&seeded, READERS);
            if (seeded_below(&seeded, 3) == 0) {
                append(stream, &at, seeded_below(&seeded, scale));
                is_kept = is_kept && at <= max_bytes;
            } else if (readers[i].stream == NULL) {
                bool joined = weir_stream_join(stream, &readers[i], ticket_of(1));
                assert_true(!joined || is_kept);
                assert_true(joined || !is_kept || account.max_bytes != 64 * MIB);
                views[i].run_count = 0;
            } else if (seeded_below(&seeded, 30) == 0) {
                weir_stream_leave(&readers[i]);
            } else {
                assert_true(is_right(&views[i], readers[i].position)); /* what it was shown before */
                size_t bytes = view_bytes(&views[i]);
                weir_stream_went_on(&readers[i],
                                    seeded_below(&seeded, 2) == 0 ? bytes : seeded_below(&seeded, bytes + 1));
                weir_stream_look(&readers[i], &views[i]);
                assert_true(is_right(&views[i], readers[i].position));
                assert_true(views[i].is_cut || view_bytes(&views[i]) > 0 || readers[i].position == at);
                assert_true(!views[i].is_cut || !is_kept || account.max_bytes != 64 * MIB);
            }
        }
        end(stream);
        assert_true(!weir_stream_is_whole(stream) || is_kept);
        weir_stream_release(stream);
        for (int i = 0; i < READERS; ++i) {
            if (readers[i].stream != NULL && !readers[i].is_cut) {
                read_some(&readers[i], SIZE_MAX);
                assert_int_equal(readers[i].position, at);
            }
            weir_stream_leave(&readers[i]);
        }
        assert_int_equal(account.bytes, 0);
    }
}

/* In threads. A writer that stops when it is ahead and waits to be told; readers that read until they have nothing, and
 * wait to be told. Who is not told though he should be waits for ever: the test does not end. */
enum { THREADS = 8, WINDOW_BYTES = 32 * KIB };

typedef struct {
    weir_stream_t *stream;
    seeded_t seeded;
    uint32_t slot;
    int64_t total;
    int wrong, cuts, wholes;
} worker_t;

static void wait_until_told(uint32_t slot)
{
    while (take_told(slot) == 0)
        sched_yield();
}

static void *write_all(void *arg)
{
    worker_t *worker = arg;
    weir_stream_begin(worker->stream, "head", 4);
    for (int64_t at = 0; at != worker->total;) {
        int64_t len = 1 + (int64_t)seeded_below(&worker->seeded, 20000);
        len = len < worker->total - at ? len : worker->total - at;
        weir_stream_append(worker->stream, body + at, (size_t)len);
        at += len;
        if (weir_stream_ahead(worker->stream, WINDOW_BYTES, ticket_of(WRITER)) > WINDOW_BYTES)
            wait_until_told(WRITER);
    }
    weir_stream_end(worker->stream, WEIR_STREAM_DONE, (weir_stream_end_t){0});
    return NULL;
}

/* Reads to the end, or until it is cut off or has enough. */
static void read_one(worker_t *worker, weir_stream_reader_t *reader, bool stays)
{
    for (;;) {
        weir_stream_view_t view;
        weir_stream_look(reader, &view);
        worker->wrong += !is_right(&view, reader->position);
        if (view.is_cut) {
            ++worker->cuts;
            return;
        }
        size_t bytes = view_bytes(&view);
        if (bytes == 0 && view.is_all) {
            worker->wrong += reader->position != worker->total;
            ++worker->wholes;
            return;
        }
        if (!stays && seeded_below(&worker->seeded, 40) == 0)
            return;
        if (bytes == 0)
            wait_until_told(worker->slot);
        else
            weir_stream_went_on(reader, 1 + seeded_below(&worker->seeded, bytes));
    }
}

static void *read_at_random(void *arg)
{
    worker_t *worker = arg;
    weir_stream_reader_t reader;
    for (int i = 0; i < 12; ++i) {
        bool stays = seeded_below(&worker->seeded, 3) == 0;
        if (!weir_stream_join(worker->stream, &reader, ticket_of(worker->slot)))
            break;
        read_one(worker, &reader, stays);
        weir_stream_leave(&reader);
        take_told(worker->slot);
    }
    weir_stream_release(worker->stream);
    return NULL;
}

static void run_threads(seeded_t *seeded, int64_t total, int64_t max_bytes, int *wholes)
{
    weir_stream_t *stream = weir_stream_create(&account, max_bytes, teller);
    pthread_t threads[THREADS + 1];
    static worker_t workers[THREADS + 1];
    for (uint32_t i = 0; i <= THREADS; ++i) {
        workers[i] = (worker_t){stream, {seeded_next(seeded)}, i, total};
        if (i != 0)
            weir_stream_acquire(stream);
        assert_int_equal(pthread_create(&threads[i], NULL, i == 0 ? write_all : read_at_random, &workers[i]), 0);
    }
    for (int i = 0; i <= THREADS; ++i) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
        *wholes += workers[i].wholes;
    }
    weir_stream_release(stream);
    assert_int_equal(account.bytes, 0);
}

static void test_threads_that_come_and_go(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    int wholes = 0;
    for (int round = 0; round < 4; ++round) {
        account.max_bytes = 64 * MIB;
        run_threads(&seeded, 300 * KIB, MIB, &wholes);       /* all of it is kept */
        run_threads(&seeded, 600 * KIB, 100 * KIB, &wholes); /* it is not */
        account.max_bytes = 100 * KIB;
        run_threads(&seeded, 600 * KIB, MIB, &wholes); /* there is no room for it */
    }
    assert_true(wholes > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin_account, end_account)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_reader_sees_what_is_written),
        TEST(test_the_end_is_seen_with_the_last_bytes),
        TEST(test_ways_to_end),
        TEST(test_a_reader_holds_its_stream),
        TEST(test_later_readers_get_it_again),
        TEST(test_small_answers_take_little),
        TEST(test_a_large_answer_is_not_kept),
        TEST(test_a_large_answer_that_nobody_reads),
        TEST(test_nothing_kept_and_two_readers),
        TEST(test_a_slow_reader_is_cut_off),
        TEST(test_those_who_were_cut_off_let_go_one_by_one),
        TEST(test_room_is_asked_for),
        TEST(test_no_room_means_that_it_is_not_kept),
        TEST(test_what_is_unread_is_kept_though_there_is_no_room),
        TEST(test_how_far_the_writer_is_ahead),
        TEST(test_how_far_a_reader_is_behind),
        TEST(test_who_is_left_behind),
        TEST(test_who_was_cut_off_is_not_left_behind),
        TEST(test_only_those_who_wait_are_told),
        TEST(test_random_readers),
        TEST(test_threads_that_come_and_go),
    };
    return cmocka_run_group_tests(tests, fill_body, NULL);
}

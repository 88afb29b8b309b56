/* Tickets: each names one owner, and after it was closed nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../proxy/exchange.h"
#include "../../../proxy/ticket.h"

static void (*posted)(weir_worker_t *worker, void *argument);
static void *posted_argument;
static weir_worker_t *posted_to;
static void *woken;

void weir_worker_post(weir_worker_t *worker, void (*run)(weir_worker_t *worker, void *argument), void *argument)
{
    posted = run;
    posted_argument = argument;
    posted_to = worker;
}

void weir_exchange_wake(void *exchange)
{
    woken = exchange;
}

enum { OWNERS = 200 };

static void each_names_its_owner_until_it_is_closed(void **state)
{
    static char owners[OWNERS];
    static weir_ticket_t tickets[OWNERS], closed[OWNERS * 100];
    bool is_open[OWNERS] = {false};
    size_t closed_count = 0;
    seeded_t seed = seeded_start("tickets");
    weir_worker_t worker = {.index = 1, .tickets = weir_tickets_create()};
    for (int round = 0; round < 20000; ++round) {
        size_t i = seeded_below(&seed, OWNERS);
        if (is_open[i]) {
            assert_ptr_equal(weir_ticket_owner(&worker, tickets[i]), &owners[i]);
            weir_ticket_close(&worker, tickets[i]);
            closed[closed_count++] = tickets[i];
        } else {
            tickets[i] = weir_ticket_open(&worker, &owners[i]);
            assert_int_equal(tickets[i].worker, 1);
            assert_true(tickets[i].slot < 256); /* places are used again */
        }
        is_open[i] = !is_open[i];
        for (size_t k = 0; k < closed_count; k += 37)
            assert_null(weir_ticket_owner(&worker, closed[k]));
    }
    weir_tickets_destroy(worker.tickets);
}

static void telling_wakes_the_owner_on_his_worker(void **state)
{
    char owner;
    weir_worker_t worker = {.index = 0, .tickets = weir_tickets_create()}, *workers[] = {&worker};
    weir_server_t server = {.workers = workers, .worker_count = 1};
    weir_ticket_t ticket = weir_ticket_open(&worker, &owner);
    woken = NULL;
    weir_ticket_tell(&server, ticket);
    assert_null(woken);
    assert_ptr_equal(posted_to, &worker);
    posted(posted_to, posted_argument);
    assert_ptr_equal(woken, &owner);

    woken = NULL;
    weir_ticket_tell(&server, ticket);
    weir_ticket_close(&worker, ticket);
    weir_ticket_t next = weir_ticket_open(&worker, &server); /* in the same place */
    assert_int_equal(next.slot, ticket.slot);
    posted(posted_to, posted_argument);
    assert_null(woken);
    weir_tickets_destroy(worker.tickets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_names_its_owner_until_it_is_closed),
        cmocka_unit_test(telling_wakes_the_owner_on_his_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

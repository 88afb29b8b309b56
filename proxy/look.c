#include "look.h"

#include <stddef.h>
#include "admin.h"
#include "h1.h"
#include "page.h"

static const int64_t WAIT_MIN_NS = INT64_C(50000000);

/* A page on its way; in the request's memory. */
typedef struct look {
    h2o_req_t *req;
    void (*make)(h2o_req_t *req);
    weir_store_look_t *store_look;
    int64_t until_ns;          /* it is over */
    h2o_timeout_entry_t timer; /* until then or, once it is told, until the next turn */
    bool is_answered;
    bool *is_gone; /* while it is made; NULL: it is not */
} look_t;

static look_t *making; /* control's thread has one at a time */

static look_t *look_of(h2o_timeout_entry_t *entry)
{
    return (look_t *)((char *)entry - offsetof(look_t, timer));
}

static weir_store_t *store_of(h2o_req_t *req)
{
    return weir_page_server(req)->store;
}

static bool waits(const look_t *look)
{
    return look->store_look->waits != 0 && !look->store_look->is_over;
}

static void on_dispose(void *argument)
{
    look_t *look = argument;
    weir_timer_stop(&look->timer);
    store_of(look->req)->look_close(look->store_look);
    if (look->is_gone != NULL)
        *look->is_gone = true;
}

static void make(look_t *look)
{
    weir_store_t *store = store_of(look->req);
    bool is_gone = false; /* an answer may end the request at once */
    look->is_gone = &is_gone;
    making = look;
    store->look_use(look->store_look);
    look->make(look->req);
    making = NULL;
    store->look_use(NULL);
    if (is_gone)
        return;
    look->is_gone = NULL;
    look->is_answered = !waits(look);
    if (look->is_answered)
        weir_timer_stop(&look->timer);
}

static void on_over(h2o_timeout_entry_t *entry)
{
    look_t *look = look_of(entry);
    look->store_look->is_over = true;
    make(look);
}

static void wait_on(look_t *look)
{
    int64_t left_ns = look->until_ns - weir_clock_now_ns();
    look->timer.cb = on_over;
    weir_timer_start(weir_worker_of(look->req->conn->ctx), &look->timer, left_ns > 0 ? left_ns : 0);
}

static void on_next_turn(h2o_timeout_entry_t *entry)
{
    look_t *look = look_of(entry);
    wait_on(look);
    make(look);
}

/* Called from where a connection to the store is read. */
static void on_told(void *context)
{
    look_t *look = context;
    if (look->is_answered)
        return;
    look->timer.cb = on_next_turn;
    weir_timer_start(weir_worker_of(look->req->conn->ctx), &look->timer, 0);
}

void weir_look_answer(h2o_req_t *req, void (*make_page)(h2o_req_t *req))
{
    weir_store_t *store = store_of(req);
    if (store->look_open == NULL) {
        make_page(req);
        return;
    }
    look_t *look = h2o_mem_alloc_pool(&req->pool, sizeof(*look));
    int64_t wait_ns = 5 * store->timeout_ns;
    *look = (look_t){.req = req, .make = make_page};
    look->until_ns = weir_clock_now_ns() + (wait_ns > WAIT_MIN_NS ? wait_ns : WAIT_MIN_NS);
    look->store_look = store->look_open(store, on_told, look);
    weir_h1_on_dispose(req, on_dispose, look);
    wait_on(look);
    make(look);
}

bool weir_look_waits(h2o_req_t *req)
{
    return making != NULL && waits(making);
}

bool weir_look_has_failed(h2o_req_t *req)
{
    return making != NULL && making->store_look->has_failed;
}

void weir_look_refuse(h2o_req_t *req, const char *detail)
{
    weir_admin_refuse(req, WEIR_REASON_STORE_DOWN, 503, detail);
}

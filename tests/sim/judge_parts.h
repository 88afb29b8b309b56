#ifndef WEIR_TESTS_SIM_JUDGE_PARTS_H
#define WEIR_TESTS_SIM_JUDGE_PARTS_H

/* What the judge's own files share. */

#include "judge.h"
#include "model.h"

enum { JUDGE_BUCKETS = 1 << 13, JUDGE_WAITING_MAX = 1024 };

/* What one key of a limit has used. */
typedef struct judge_row {
    struct judge_row *next;
    uint64_t hash;
    size_t limit;          /* in judge->limits */
    bool is_shared;        /* what keys share for which there is no room */
    sim_call_t call;       /* one that counts here */
    weir_conf_rate_t rate; /* in force */
    model_bucket_t bucket;
    model_window_t window;
    int64_t reserved;
    int64_t held, told, waiting; /* slots; held: by those who run, or wait for another limit's; told: granted, and it
                                    did not come for it yet */
    int64_t granted_of;          /* by the limit of those who were granted since it was last looked at; 0: nobody was */
    bool is_granted_by_reload;
    char key[];
} judge_row_t;

/* One limit, over all configurations. */
typedef struct {
    const char *name;
    const weir_conf_limit_t *conf; /* of the configuration in force; NULL: not in it */
    judge_row_t *shared;
    size_t row_count;
    sim_request_t *waiting[JUDGE_WAITING_MAX]; /* not told; the oldest first */
    size_t waiting_count;
    const sim_request_t *made_room_for; /* who displaced someone last */
} judge_limit_t;

typedef struct {
    size_t limit;      /* in judge->limits */
    size_t conf_index; /* in its configuration's */
    const weir_conf_limit_t *conf;
    const weir_conf_quota_t *quota;
    judge_row_t *row;
    int64_t cost, charged_ns;
    uint64_t charge;
    bool is_charged;
    bool is_held; /* a slot, while it waits for one that comes after it */
} judge_item_t;

typedef struct {
    size_t count;
    judge_item_t items[WEIR_LIMITS_PER_ROUTE_MAX];
    judge_item_t *waits_for; /* NULL: it does not */
    weir_lane_t lane;
    bool is_told, may_be_displaced, was_overtaken;
    bool is_passed;     /* by the limits */
    size_t waits, left; /* as the observer heard */
} judged_t;

struct judge {
    sim_t *sim;
    size_t limit_count;
    judge_limit_t limits[SIM_LIMITS_MAX];
    judge_row_t *rows[JUDGE_BUCKETS];
    judge_figures_t figures;
};

/* ---- keys and what they have used (judge_rows.c) ---- */

bool judge_is_bucket(const weir_conf_limit_t *conf);
bool judge_is_slots(const weir_conf_limit_t *conf);
int64_t judge_size_of(const weir_conf_limit_t *conf, const weir_conf_quota_t *quota);
const char *judge_tenant_of(const sim_call_t *call);
const weir_conf_quota_t *judge_quota_of(const weir_conf_limit_t *conf, const sim_call_t *call);
/* A bucket fills as fast as the configuration in force says; how much it holds is the request's own configuration's. */
model_rate_t judge_rate_of(const judge_row_t *row, const weir_conf_quota_t *quota);
size_t judge_limit_called(judge_t *judge, const char *name);
judge_row_t *judge_row_of(judge_t *judge, const weir_conf_limit_t *conf, const sim_call_t *call,
                          weir_str_t correlation);
/* The row that keys share for which there is no room. */
judge_row_t *judge_shared_row(judge_t *judge, const weir_conf_limit_t *conf, const sim_call_t *call);
void judge_see_rate(judge_t *judge, judge_row_t *row); /* that is in force now */
/* `late`: what is certain; else, what may be. */
bool judge_row_fits(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, int64_t cost,
                    bool late, int64_t now_ns);
int64_t judge_row_retry_ns(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota,
                           int64_t cost, bool late, int64_t now_ns);
int64_t judge_row_remaining(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, bool late,
                            int64_t now_ns);
void judge_charge(judge_item_t *item, int64_t now_ns);
void judge_refund(judge_item_t *item, int64_t now_ns);
void judge_settle(judge_item_t *item, const sim_request_t *request, const weir_outcome_t *outcome);

/* ---- who waits (judge_queue.c) ---- */

bool judge_has_queue(const judge_item_t *item);
/* Limits differ in their wait: the deadline tells which one it waits for. */
judge_item_t *judge_item_waited_for(judged_t *judged, const sim_request_t *request, int64_t until_ns);
void judge_enter_line(judge_t *judge, sim_request_t *request, judged_t *judged, judge_item_t *item);
void judge_note_told(judge_t *judge, sim_request_t *request);
/* It does not wait any more, for whatever reason; what it holds stays. */
void judge_stop_waiting(judge_t *judge, sim_request_t *request);
/* Slots before the one that it waits for; and all that it holds. */
void judge_hold(judged_t *judged, const judge_item_t *before);
void judge_let_go(judged_t *judged);
/* Whether the queue takes a newcomer, in somebody's place or not. */
bool judge_has_room(const judge_limit_t *limit, const weir_conf_limit_t *conf, const sim_call_t *call);
/* Whose numbers the queue has. */
const weir_conf_limit_t *judge_conf_of(const judge_t *judge, const judge_item_t *item);
/* No slot may be free while someone waits for it, and none is granted beyond the limit. */
void judge_check_line(judge_t *judge, judge_row_t *row);
void judge_check_lines(judge_t *judge, judged_t *judged);

/* ---- judge.c ---- */

void judge_fail(judge_t *judge, const judged_t *judged, const judge_item_t *item, const char *what);

#endif

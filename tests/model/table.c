/* Prints what filters/core/claim.c does with every state and event, as rows of the model: claim_table.pml. run.sh
 * compares the two. */
#include <stdio.h>
#include "../../filters/core/claim.h"

enum { OWNER = 1, OTHER = 2, FINGERPRINT = 5, NOW = 1000, LEASE = 10, WINDOW = 100, UNTIL = NOW + 1 };

typedef enum { ASK, ASK_OTHER, RENEW, COMMIT, FORGET, LOSE, LOSE_REMEMBERING, TIME, EVENTS } event_t;

static const char *const states[] = {"FREE", "IN_FLIGHT", "DONE", "UNKNOWN"};
static const char *const events[] = {"ASK",  "ASK_OTHER",        "RENEW", "COMMIT", "FORGET",
                                     "LOSE", "LOSE_REMEMBERING", "TIME"};
static const char *const tellings[] = {"RUN", "IS_RUNNING", "IS_DONE", "IS_UNKNOWN", "IS_OTHER"};

static const char *act(weir_claim_t *claim, event_t event, uint64_t who)
{
    static const char *const answers[] = {"NO", "YES"};
    switch (event) {
    case ASK:
        return tellings[weir_claim_ask(claim, who, FINGERPRINT, true, LEASE, NOW)];
    case ASK_OTHER:
        return tellings[weir_claim_ask(claim, who, FINGERPRINT + 1, true, LEASE, NOW)];
    case RENEW:
        return answers[weir_claim_renew(claim, who, LEASE, NOW)];
    case COMMIT:
        return answers[weir_claim_commit(claim, who, WINDOW, NOW)];
    case FORGET:
        return answers[weir_claim_forget(claim, who, NOW)];
    case LOSE:
        return answers[weir_claim_lose(claim, who, false, WINDOW, NOW)];
    default:
        return answers[weir_claim_lose(claim, who, true, WINDOW, NOW)];
    }
}

static const char *until_of(const weir_claim_t *claim)
{
    if (weir_claim_state(claim, NOW) == WEIR_CLAIM_FREE)
        return "NEVER";
    return claim->until_ns == UNTIL ? "AS_IT_WAS" : claim->until_ns == NOW + LEASE ? "A_LEASE" : "A_WINDOW";
}

static weir_claim_t claim_in(weir_claim_state_t state)
{
    uint64_t owner = state == WEIR_CLAIM_IN_FLIGHT ? OWNER : 0;
    return (weir_claim_t){owner, FINGERPRINT, UNTIL, (uint8_t)state};
}

static void print_row(weir_claim_state_t state, event_t event, uint64_t who)
{
    weir_claim_t claim = claim_in(state);
    const char *answer = act(&claim, event, who);
    printf("ROW(%s, %s, %s, %s, %s, %s)\n", states[state], events[event], who == OWNER ? "OWNER" : "OTHER",
           states[weir_claim_state(&claim, NOW)], answer, until_of(&claim));
}

static void print_end(weir_claim_state_t state)
{
    weir_claim_t claim = claim_in(state);
    if (weir_claim_state(&claim, UNTIL - 1) == state)
        printf("ROW(%s, TIME, NOBODY, %s, NO, NEVER)\n", states[state], states[weir_claim_state(&claim, UNTIL)]);
}

int main(void)
{
    printf(
        "/* state, event, whose, the state after it, what is told, until when; printed by table.c from the core. */\n");
    for (int state = WEIR_CLAIM_FREE; state <= WEIR_CLAIM_UNKNOWN; ++state) {
        for (int event = ASK; event < TIME; ++event) {
            if (state == WEIR_CLAIM_IN_FLIGHT)
                print_row((weir_claim_state_t)state, (event_t)event, OWNER);
            print_row((weir_claim_state_t)state, (event_t)event, OTHER);
        }
        if (state != WEIR_CLAIM_FREE)
            print_end((weir_claim_state_t)state);
    }
    return 0;
}

/* The claim protocol: owners, each of which lives for one call, on machines that may stop at any time; a store that knows
 * one key; and a network that loses and delays what they say to each other, both ways.
 *
 * What the store does is claim_table.pml, which table.c prints from filters/core/claim.c. Time goes by in ticks that count
 * down what is left. Of an owner's precautions each can be left out, and spin finds two that run at once:
 *
 *   NO_CANCEL     he stops his call before the tick with which his lease ends. He cannot where his machine stands still for
 *                 longer than that while his upstream goes on: the one case that is left
 *   FROM_ANSWER   he counts his lease from when he asked for it, not from when he was answered
 *   OLD_ANSWER    he takes the answer to his last question only
 *   ANY_OWNER     the store changes what is in flight for its owner alone
 *
 * and, with NO_LEASE_END, where the store does not end a lease by itself, a key that is in flight for ever. */

#define OWNERS 3
#ifndef LEASE
#define LEASE 3
#endif
#define WINDOW 1
#define RENEWALS 2
#define NONE 255

mtype = {FREE, IN_FLIGHT, DONE, UNKNOWN};
mtype = {ASK, ASK_OTHER, RENEW, COMMIT, FORGET, LOSE, LOSE_REMEMBERING, TIME, NO_EVENT};
mtype = {OWNER, OTHER, NOBODY};
mtype = {RUN, IS_RUNNING, IS_DONE, IS_UNKNOWN, IS_OTHER, YES, NO};
mtype = {AS_IT_WAS, A_LEASE, A_WINDOW, NEVER};

/* the store's */
mtype state = FREE;
byte owner = NONE, left;

/* the owners' */
byte lease[OWNERS];  /* what is left of it, as its owner reckons */
byte asked[OWNERS];  /* the same, of the one that he has asked for last */
bool runs[OWNERS], is_over[OWNERS];
byte running, begun;

/* between them */
chan questions[OWNERS] = [2] of {mtype, byte};
chan answers[OWNERS] = [2] of {mtype, byte};

#define COUNT_DOWN(left) left = (left > 0 -> left - 1 : 0)
#define LASTS(i) (!runs[i] || lease[i] > 1)
#define COUNTS(i) (lease[i] > 0 || asked[i] > 0)
#ifdef NO_CANCEL
#define ALL_HAVE_STOPPED true
#else
#define ALL_HAVE_STOPPED (LASTS(0) && LASTS(1) && LASTS(2))
#endif
#define TIME_GOES_BY ((left > 0 || COUNTS(0) || COUNTS(1) || COUNTS(2)) && ALL_HAVE_STOPPED)

#define ROW(before, what, whose, after, tells, lasts) \
    :: state == before && event == what && who == whose -> state = after; answer = tells; until = lasts

active proctype Store()
{
    mtype event, who, answer, until;
    byte id, number;
end:
    do
    :: atomic {
        if
        :: questions[0]?event, number -> id = 0
        :: questions[1]?event, number -> id = 1
        :: questions[2]?event, number -> id = 2
        :: TIME_GOES_BY ->
            COUNT_DOWN(left);
            COUNT_DOWN(lease[0]); COUNT_DOWN(lease[1]); COUNT_DOWN(lease[2]);
            COUNT_DOWN(asked[0]); COUNT_DOWN(asked[1]); COUNT_DOWN(asked[2]);
            id = NONE;
            event = (left == 0 && state != FREE -> TIME : NO_EVENT)
        fi;
#ifdef NO_LEASE_END
        if
        :: event == TIME && state == IN_FLIGHT -> event = NO_EVENT
        :: else
        fi;
#endif
        if /* a question may be lost on its way */
        :: event != TIME -> event = NO_EVENT
        :: true
        fi;
        if
        :: event == NO_EVENT -> goto end
        :: event == TIME -> who = NOBODY
#ifdef ANY_OWNER
        :: event != TIME && event != NO_EVENT -> who = (state == IN_FLIGHT -> OWNER : OTHER)
#else
        :: event != TIME && event != NO_EVENT -> who = (state == IN_FLIGHT && owner == id -> OWNER : OTHER)
#endif
        fi;
        if
#include "claim_table.pml"
        fi;
        if
        :: until == A_LEASE -> owner = id; left = LEASE
        :: until == A_WINDOW -> owner = NONE; left = WINDOW
        :: until == NEVER -> owner = NONE; left = 0
        :: until == AS_IT_WAS
        fi;
        if
        :: id == NONE || is_over[id]
        :: id != NONE && !is_over[id] && nfull(answers[id]) -> answers[id]!answer, number
        :: id != NONE && !is_over[id] /* and so may the answer */
        fi;
        event = NO_EVENT; who = NOBODY; answer = NO; until = NEVER; id = NONE; number = 0
       }
    od
}

inline stop(id)
{
    running = running - (runs[id] -> 1 : 0);
    runs[id] = false;
    is_over[id] = true;
    lease[id] = 0;
    asked[id] = 0;
    do
    :: answers[id]?answer, given
    :: empty(answers[id]) -> break
    od;
    answer = NO; given = 0; number = 0;
    goto over
}

inline take_lease(id)
{
#ifdef FROM_ANSWER
    lease[id] = LEASE
#else
    lease[id] = asked[id]
#endif
}

proctype Owner(byte id)
{
    mtype answer;
    byte number, given;
    atomic { /* as they are all alike, they ask in this order; a body that is another one changes only what is told */
        begun == id -> begun++;
        questions[id]!ASK, 0;
        asked[id] = LEASE
    }
    do
    :: atomic {
        answers[id]?answer, given ->
        if
#ifndef OLD_ANSWER
        :: given != number -> skip
        :: given == number && answer == YES ->
#else
        :: answer == YES ->
#endif
            take_lease(id)
        :: given == number && answer == RUN && asked[id] > 0 ->
            take_lease(id);
            runs[id] = true;
            running++;
            assert(running <= 1)
        :: given == number && answer != YES && !(answer == RUN && asked[id] > 0) -> stop(id)
        fi;
        answer = NO;
        given = 0
       }
    :: atomic {
        runs[id] && number < RENEWALS && nfull(questions[id]) ->
        number++;
        asked[id] = LEASE;
        questions[id]!RENEW, number
       }
    :: atomic { /* its call has ended */
        runs[id] && nfull(questions[id]) ->
        if
        :: questions[id]!COMMIT, 0
        :: questions[id]!FORGET, 0
        :: questions[id]!LOSE, 0
        :: questions[id]!LOSE_REMEMBERING, 0
        fi;
        stop(id)
       }
    :: atomic { stop(id) } /* it cancels, gives up waiting, or its machine stops */
    od;
over:
    skip
}

init
{
    atomic {
        run Owner(0);
        run Owner(1);
        run Owner(2)
    }
}

ltl never_stuck { [] (state == IN_FLIGHT -> <> (state != IN_FLIGHT)) }

#ifndef WEIR_PROXY_SHARE_H
#define WEIR_PROXY_SHARE_H

/* An answer that comes from a stream (filters/stream.h): to those who share it, to later ones who get it again, and to the
 * caller whose own call writes it. Each reads at its own pace; the call waits for the fastest alone. */

#include "exchange_parts.h"

/* After WEIR_SHARE: the reader has joined; the head is waited for within the route's timeout. */
void weir_share_begin(weir_exchange_t *exchange);
/* Sends what there is, as far as the caller takes it; what comes later is told to the ticket. */
void weir_share_pump(weir_exchange_t *exchange);

/* Of the call that writes it. */
void weir_share_write_head(weir_exchange_t *exchange, const weir_call_head_t *head);
void weir_share_write(weir_exchange_t *exchange, const h2o_iovec_t *bufs, size_t count);
/* Has the call wait where it is too far ahead of all who read, and go on where it is not. */
void weir_share_mind_the_gap(weir_exchange_t *exchange);

#endif

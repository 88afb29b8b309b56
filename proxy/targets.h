#ifndef WEIR_PROXY_TARGETS_H
#define WEIR_PROXY_TARGETS_H

/* What each upstream of a route is asked: with its own head, its own names of models, its own credential. What the caller
 * sent as a credential goes to the first upstream alone: to another one it would be a secret told. */

#include "exchange_parts.h"

/* A hash of the credential in a head that goes up, whichever field it is in; 0: there is none. */
uint64_t weir_targets_credential(h2o_iovec_t head);

/* Fills `first` and the fallbacks of the call; request->picked may be NULL. */
void weir_targets_make(weir_exchange_t *exchange, weir_call_request_t *call);

#endif

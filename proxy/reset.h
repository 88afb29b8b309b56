#ifndef WEIR_PROXY_RESET_H
#define WEIR_PROXY_RESET_H

/* DELETE /limits/NAME: a fresh start for one key of a limit, the key of the request that question.h describes. All that
 * the limit counts by must be said: nobody is let off by what was forgotten. Control thread. */

#include <h2o.h>

#define WEIR_RESET_LIMITS "/limits/"
void weir_reset_answer(h2o_req_t *req);

#endif

#ifndef WEIR_PROXY_CALL_HEAD_H
#define WEIR_PROXY_CALL_HEAD_H

/* The head that goes to an upstream: the caller's, less what ends here and what filters took out, with what they added
 * and this upstream's `forward` allows. Without framing and the empty line at its end. */

#include <h2o.h>
#include "../conf/conf.h"
#include "../filters/filter.h"

typedef struct {
    const weir_request_t *request;
    const weir_conf_upstream_t *upstream;
    bool is_fallback;     /* the caller's credential is not for this one */
    weir_str_t authority; /* as the caller wrote it */
    weir_str_t peer;      /* its address as text */
    bool tls;
    int minor_version;
    bool wants_tunnel; /* it asks for a WebSocket */
} weir_call_head_source_t;

/* malloc'ed */
h2o_iovec_t weir_call_head_compose(const weir_call_head_source_t *source);

#endif

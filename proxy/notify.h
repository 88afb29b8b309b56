#ifndef WEIR_PROXY_NOTIFY_H
#define WEIR_PROXY_NOTIFY_H

/* Tells the service manager how far weir is, as in sd_notify(3): one datagram to the socket that NOTIFY_SOCKET names.
 * Where it names none, nothing is sent. Takes at most a second; what cannot be sent is logged and forgotten. Control thread. */

#include <stdint.h>

void weir_notify_ready(void);
/* Answered by weir_notify_ready, whether the new configuration is in force or not. */
void weir_notify_reloading(void);
/* `most_ns` is how long the end may take; the manager waits so long, where that is more than it would have. */
void weir_notify_stopping(int64_t most_ns);

#endif

#ifndef WEIR_PROXY_WATCH_H
#define WEIR_PROXY_WATCH_H

/* Tells when the contents of files change, however they are changed: in place, by a rename over them, or by a link
 * that is turned to another folder, as a mounted ConfigMap does with `..data`. It is the folders that are watched, and
 * then contents are compared: whatever else happens in those folders is not told. Control thread. */

#include "server.h"

typedef struct weir_watch weir_watch_t;

/* Changes are told to on_change(server), once they have ended for 100 ms, or last for a second; where the kernel grants no
 * inotify - its instances and watches are counted by user and machine -, after 10 s. */
weir_watch_t *weir_watch_create(weir_server_t *server, void (*on_change)(weir_server_t *server));
/* What the files hold now is known from here on. Before they are read: what changes meanwhile is told after. */
void weir_watch_look(weir_watch_t *watch);
/* These are the files from now on. Those that were watched before keep what is known of them. */
void weir_watch_aim(weir_watch_t *watch, const weir_conf_strings_t *files);
void weir_watch_destroy(weir_watch_t *watch);

#endif

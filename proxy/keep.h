#ifndef WEIR_PROXY_KEEP_H
#define WEIR_PROXY_KEEP_H

/* `store.file`: finished dedup keys and their answers, so that a restart forgets nothing.
 *
 * The whole file is written anew beside the old one and then takes its name; it has a version and a checksum (XXH3) over
 * all of it. One that cannot be read as such is set aside under another name, with an error in the log, and nothing of it
 * is believed; what is no regular file is left alone, and nothing is written. It has the secret that its keys were hashed with, and answers: nobody but its owner may read it. Written by
 * a thread of its own, every 10 s where anything changed, and at a clean stop. */

#include "server.h"

typedef struct weir_keep weir_keep_t;

/* Reads the file, if it is there; `secret` becomes the one that it has. */
weir_keep_t *weir_keep_open(const char *path, uint8_t secret[64]);
/* Puts what was read into the store, which was made with that secret and has its dedups; the first time it is called.
 * Then the writing begins. */
void weir_keep_restore(weir_keep_t *keep, weir_store_t *store);
void weir_keep_close(weir_keep_t *keep); /* writes once more */

#endif

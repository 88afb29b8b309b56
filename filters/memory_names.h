#ifndef WEIR_FILTERS_MEMORY_NAMES_H
#define WEIR_FILTERS_MEMORY_NAMES_H

/* The names of keys that came close to a limit of the store in memory; nothing for a limit that nobody came close to.
 * Thread-safe; the functions are the store's of the same purpose. */

#include <stdatomic.h>
#include "core/closest.h"
#include "core/key_table.h"
#include "rows.h"
#include "store.h"

typedef struct {
    _Atomic(weir_closest_t *) closest; /* NULL until there is one */
} weir_memory_names_t;

enum { WEIR_MEMORY_NAMES_BYTES = WEIR_CLOSEST_PLACES * sizeof(weir_closest_key_t) };

void weir_memory_names_dispose(weir_memory_names_t *names);
/* Whoever is decided in the overflow row has none: it is not his own quota that is used up. */
bool weir_memory_names_want(weir_memory_names_t *names, const weir_store_item_t *item, unsigned used_permille,
                            int64_t now_ns);
/* `generation`: of the quotas that the item's is one of. */
void weir_memory_names_note(weir_memory_names_t *names, const weir_store_item_t *item, uint64_t generation,
                            unsigned used_permille, int64_t now_ns, const char *name, size_t len);
/* The same of a key whose row is elsewhere: it is as the item says, until all is there again. */
void weir_memory_names_note_told(weir_memory_names_t *names, const weir_store_item_t *item, uint64_t generation,
                                 unsigned used_permille, int64_t now_ns, const char *name, size_t len);
/* The quotas change: all names are wanted again. */
void weir_memory_names_forget(weir_memory_names_t *names);
/* Of the generation in force, by the rows of the table as they are now; takes the locks of its shards. */
size_t weir_memory_names_closest(weir_memory_names_t *names, const weir_rows_t *rows, const weir_key_table_t *table,
                                 weir_key_shard_t *shards, uint64_t generation, int64_t now_ns,
                                 weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX]);

#endif

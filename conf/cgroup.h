#ifndef WEIR_CONF_CGROUP_H
#define WEIR_CONF_CGROUP_H

/* What the kernel grants this process. `root` is "/", or where a test has put its files. */

#include <stdint.h>

/* CPUs: the quota rounded up, the affinity mask, at least 1. */
int64_t weir_conf_cgroup_cpus(const char *root);
/* The memory limit in bytes; 0 where there is none. */
uint64_t weir_conf_cgroup_memory_bytes(const char *root);

#endif

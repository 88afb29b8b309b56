#include "cgroup.h"
#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES_MAX = 4096 };

static bool read_line(const char *root, const char *path, char *line, int line_bytes)
{
    char name[PATH_BYTES_MAX];
    if (snprintf(name, sizeof(name), "%s/%s", root, path) >= (int)sizeof(name))
        return false;
    FILE *in = fopen(name, "re");
    if (in == NULL)
        return false;
    bool is_read = fgets(line, line_bytes, in) != NULL;
    fclose(in);
    return is_read;
}

/* The process's own group below the mount: "" in a container that sees only itself (cgroups(7)). */
static void own_group(const char *root, char *group, size_t group_bytes)
{
    char name[PATH_BYTES_MAX], line[PATH_BYTES_MAX];
    *group = '\0';
    snprintf(name, sizeof(name), "%s/proc/self/cgroup", root);
    FILE *in = fopen(name, "re");
    if (in == NULL)
        return;
    while (fgets(line, sizeof(line), in) != NULL)
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(group, group_bytes, "%s", strcmp(line, "0::/") == 0 ? "" : line + 3);
        }
    fclose(in);
}

/* Calls `take` with the file's line in the own group and in every one around it, as each of them binds. */
static void each_group(const char *root, const char *file, void (*take)(const char *line, void *data), void *data)
{
    char group[PATH_BYTES_MAX], path[PATH_BYTES_MAX + 64], line[128];
    own_group(root, group, sizeof(group));
    for (;;) {
        snprintf(path, sizeof(path), "sys/fs/cgroup%s/%s", group, file);
        if (read_line(root, path, line, sizeof(line)))
            take(line, data);
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

static void take_quota(const char *line, void *data)
{
    int64_t quota, period, *cpus = data;
    if (sscanf(line, "%" SCNd64 " %" SCNd64, &quota, &period) != 2 || quota <= 0 || period <= 0)
        return; /* "max 100000" */
    int64_t granted = quota / period + (quota % period != 0);
    if (granted < *cpus)
        *cpus = granted;
}

static void take_memory(const char *line, void *data)
{
    uint64_t bytes, *least = data;
    if (sscanf(line, "%" SCNu64, &bytes) != 1)
        return; /* "max" */
    if (*least == 0 || bytes < *least)
        *least = bytes;
}

int64_t weir_conf_cgroup_cpus(const char *root)
{
    cpu_set_t set;
    int64_t cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    each_group(root, "cpu.max", take_quota, &cpus);
    return cpus > 1 ? cpus : 1;
}

uint64_t weir_conf_cgroup_memory_bytes(const char *root)
{
    uint64_t bytes = 0;
    each_group(root, "memory.max", take_memory, &bytes);
    return bytes;
}

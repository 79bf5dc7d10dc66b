/* The memory cgroup's limit: what a container will kill for, though the file system lets it in.
 *
 * Owns:      reading /proc/self/cgroup and the limits of both cgroup versions.
 * Does not:  decide what a topic may take.
 *
 * Invariants
 *   C1  What cannot be read does not limit: an unreadable limit is no error.
 * A crash here leaves: nothing.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "os/os.h"

#include "os/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first version of cgroups says so with the largest number of pages. To ask what is used of it
 * costs as much as all the rest of a small topic's creation. */
#define NO_LIMIT (UINT64_C(1) << 62)

/* Reads the number in a small file; "max" and anything unreadable give `otherwise`. */
static uint64_t
read_number(const char *path, uint64_t otherwise)
{
    char text[64];
    FILE *file = OS_CALL(NULL, fopen(path, "re"));
    if (!file) {
        return otherwise;
    }
    uint64_t value = otherwise;
    if (OS_CALL(NULL, fgets(text, sizeof text, file)) && text[0] >= '0' && text[0] <= '9') {
        value = strtoull(text, NULL, 10);
    }
    fclose(file);
    return value;
}

/* Page cache that the kernel gives back under pressure does not count as used. */
static uint64_t
read_reclaimable(const char *group, const char *key)
{
    char path[4352], line[256];
    snprintf(path, sizeof path, "%s/memory.stat", group);
    FILE *file = OS_CALL(NULL, fopen(path, "re"));
    if (!file) {
        return 0;
    }
    uint64_t value = 0;
    size_t key_len = strlen(key);
    while (OS_CALL(NULL, fgets(line, sizeof line, file))) {
        if (strncmp(line, key, key_len) == 0 && line[key_len] == ' ') {
            value = strtoull(line + key_len + 1, NULL, 10);
            break;
        }
    }
    fclose(file);
    return value;
}

/* Room under `root``group` and each of its ancestors: a parent's limit binds its children. */
static uint64_t
read_group_room(const char *root, char *group, const char *limit_name, const char *used_name,
                const char *reclaim_key)
{
    uint64_t room = UINT64_MAX;
    for (;;) {
        char base[4096], path[4352];
        snprintf(base, sizeof base, "%s%s", root, strcmp(group, "/") == 0 ? "" : group);
        snprintf(path, sizeof path, "%s/%s", base, limit_name);
        uint64_t limit = read_number(path, UINT64_MAX);
        if (limit < NO_LIMIT) {
            snprintf(path, sizeof path, "%s/%s", base, used_name);
            uint64_t used = read_number(path, 0);
            uint64_t spare = read_reclaimable(base, reclaim_key);
            used -= spare < used ? spare : used;
            uint64_t here = limit > used ? limit - used : 0;
            room = here < room ? here : room;
        }
        char *slash = strrchr(group, '/');
        if (!slash || strcmp(group, "/") == 0) {
            return room;
        }
        slash[slash == group ? 1 : 0] = 0;
    }
}

uint64_t
os_cgroup_room(void)
{
    char line[4096];
    uint64_t room = UINT64_MAX;
    FILE *file = OS_CALL(NULL, fopen("/proc/self/cgroup", "re"));
    if (!file) {
        return room;
    }
    while (OS_CALL(NULL, fgets(line, sizeof line, file))) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) {
            continue;
        }
        *group++ = 0;
        uint64_t here = UINT64_MAX;
        if (strcmp(controllers + 1, "memory") == 0) {
            here = read_group_room("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                                   "memory.usage_in_bytes", "total_inactive_file");
        }
        else if (controllers[1] == 0) {
            here = read_group_room("/sys/fs/cgroup", group, "memory.max", "memory.current",
                                   "inactive_file");
        }
        room = here < room ? here : room;
    }
    fclose(file);
    return room;
}

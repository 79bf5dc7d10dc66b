/* Fuzz target: names of topics, which users type and programs make.
 *
 * Owns:      a second account of which names are names.
 * Does not:  touch files.
 *
 * A name is refused with SF_BAD_NAME, or its path is one file of the folder: nothing after the
 * folder can lead out of it, be hidden, or be cut short.
 */
#include "fuzz.h"

static int
is_good(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > 200 || name[0] == '/' || name[len - 1] == '/' || strstr(name, "//")) {
        return 0;
    }
    for (const char *c = name; *c; c++) {
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/", *c) ||
            (*c == '.' && (c == name || c[-1] == '/'))) {
            return 0;
        }
    }
    return 1;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char prefix[] = "/dev/shm/a-folder/shmflow.";
    static int is_set;
    if (!is_set) {
        is_set = setenv("SHMFLOW_DIR", "/dev/shm/a-folder", 1) == 0;
    }
    if (len == 0) {
        return 0;
    }
    /* Exact sizes, for the sanitizer: the name, and the room for its path. */
    size_t room = data[0] == 0xff ? 4096 : data[0];
    char *name = malloc(len);
    char *out = malloc(room + 1);
    DEMAND(name && out);
    memcpy(name, data + 1, len - 1);
    name[len - 1] = 0;
    int status = sf_segment_path(name, out, room + 1);
    check_status(status);
    DEMAND((status == SF_BAD_NAME) == !is_good(name));
    if (status == 0) {
        size_t name_len = strlen(name);
        DEMAND(strlen(out) == sizeof prefix - 1 + name_len && strlen(out) <= room);
        DEMAND(memcmp(out, prefix, sizeof prefix - 1) == 0);
        DEMAND(strchr(out + sizeof prefix - 1, '/') == NULL);
    }
    else if (status != SF_BAD_NAME) {
        DEMAND(status == -ENAMETOOLONG && sizeof prefix - 1 + strlen(name) > room);
    }
    free(out);
    free(name);
    return 0;
}

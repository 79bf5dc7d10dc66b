/* The module: its state, its types, and the few functions that are not methods.
 *
 * Owns:      multi-phase initialisation, module state, the exit hook.
 * Does not:  contain behaviour of any type.
 *
 * Invariants
 *   I1  One module object per interpreter owns one sf_state; types find it by their module.
 *   I2  Subinterpreters are not supported, as NumPy's are not.
 *
 * Every mutable object with static storage in src/, and why it is one.
 * Globals:
 *   registry: core/fork.c, attachments of this process; fork handlers get no argument
 *   epoch, guard, trouble: core/fork.c, whether this process is a fork of the one that attached
 *   ending: core/fork.c, whether this process makes temporary topics no more
 *   setting_up, is_set_up: core/fork.c, the once-per-process setup of the above
 *   guarded, begun, before: os/guard.c, a signal handler gets no argument
 *   stats_desc, stats_fields, participant_desc, participant_fields: python/topic_facts.c, written
 *     by nobody; CPython's API takes them as non-const
 *   names: python/options.c, likewise (PyArg_ParseTupleAndKeywords)
 *   sf_numpy_api, sf_numpy_apiPyArray_RUNTIME_VERSION: python/arrays.c, NumPy's import_array fills
 *     them
 *
 * A crash here leaves: nothing.
 */
#include "python/module.h"

#include <string.h>

PyMODINIT_FUNC PyInit__core(void);

struct sf_state *
sf_state_of_module(PyObject *module)
{
    return PyModule_GetState(module);
}

struct sf_state *
sf_state_of(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

static PyObject *
at_exit(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    sf_process_exit();
    Py_RETURN_NONE;
}

static PyObject *
remove_topic(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *path;
    int only_idle;
    if (!PyArg_ParseTuple(args, "sp:_remove", &path, &only_idle)) {
        return NULL;
    }
    int status = sf_segment_remove(path, NULL, only_idle ? SF_WHEN_IDLE : SF_ALWAYS);
    if (status < 0 && status > -4096) { /* the kernel's: it says nothing of the file */
        errno = -status;
        return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    }
    return PyUnicode_FromString(status == 0 ? "" : sf_status_name(status));
}

/* What a status means, by its name. */
static PyObject *
said(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    if (!name) {
        return NULL;
    }
#define SF_SAY(status, value, text)                                                                \
    if (strcmp(name, #status) == 0) {                                                              \
        return PyUnicode_FromString(text);                                                         \
    }
    SF_STATUSES(SF_SAY)
#undef SF_SAY
    return PyUnicode_FromString("the system refuses it");
}

/* Constants of a topic's file without attaching: (status, dict). */
static PyObject *
peek(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *path;
    struct sf_layout layout;
    struct os_file_info info;
    if (!PyArg_ParseTuple(args, "s:_peek", &path)) {
        return NULL;
    }
    uint8_t identity_bytes[16];
    int status = sf_segment_peek(path, &layout, &info, identity_bytes);
    if (status < 0) {
        return Py_BuildValue("s{}", sf_status_name(status));
    }
    return Py_BuildValue("s{sK sK sK sK sO}", "", "capacity", (unsigned long long)layout.capacity,
                         "depth", (unsigned long long)layout.depth, "max_message",
                         (unsigned long long)layout.max_message, "file_len",
                         (unsigned long long)layout.file_len, "temporary",
                         (layout.flags & SF_TEMPORARY) != 0 ? Py_True : Py_False);
}

/* Cleans dead participants of one topic, as a participant for a moment. */
static PyObject *
clean_topic(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *path;
    struct sf_attachment *att;
    if (!PyArg_ParseTuple(args, "s:_clean", &path)) {
        return NULL;
    }
    int status = sf_attach(path, SF_AS_READER, &att);
    if (status < 0) {
        return PyLong_FromLong(0);
    }
    int cleaned = att->cleaned; /* attaching is what cleans */
    sf_attachment_unref(att);
    return PyLong_FromLong(cleaned);
}

static PyObject *
identity(PyObject *Py_UNUSED(module), PyObject *arg)
{
    struct sf_attachment *att;
    const char *path;
    if (!PyArg_Parse(arg, "s:_identity", &path)) { /* refuses what a 0 would cut short */
        return NULL;
    }
    if (sf_attach(path, SF_AS_MONITOR, &att) < 0) {
        return PyBytes_FromStringAndSize("", 0);
    }
    PyObject *result = PyBytes_FromStringAndSize((const char *)att->identity, sizeof att->identity);
    sf_attachment_unref(att);
    return result;
}

/* The name of what a folder's file system cannot do; None where it can all, or it cannot be tried. */
static PyObject *
try_folder(PyObject *Py_UNUSED(module), PyObject *arg)
{
    const char *dir = PyUnicode_AsUTF8(arg);
    if (!dir) {
        return NULL;
    }
    int status = sf_try_folder(dir);
    bool told = status < -4096; /* not the kernel's: those the other checks tell */
    return told ? PyUnicode_FromString(sf_status_name(status)) : Py_NewRef(Py_None);
}

/* For the command line, which looks at everybody's topics. */
static PyObject *
guard(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    int status = os_guard_begin();
    if (status < 0) {
        errno = -status;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* The dtype of a wire form, or None: for tests of what readers take for one. */
static PyObject *
dtype_of(PyObject *Py_UNUSED(module), PyObject *wire)
{
    char *bytes;
    Py_ssize_t len;
    PyObject *dtype;
    if (PyBytes_AsStringAndSize(wire, &bytes, &len) < 0) {
        return NULL;
    }
    int status = sf_parse_dtype(bytes, (uint32_t)len, &dtype);
    return status == SF_BAD_MESSAGE ? Py_NewRef(Py_None) : dtype;
}

static PyMethodDef module_methods[] = {
    {"_at_exit", at_exit, METH_NOARGS, NULL},
    {"_remove", remove_topic, METH_VARARGS, NULL},
    {"_said", said, METH_O, NULL},
    {"_peek", peek, METH_VARARGS, NULL},
    {"_clean", clean_topic, METH_VARARGS, NULL},
    {"_identity", identity, METH_O, NULL},
    {"_guard", guard, METH_NOARGS, NULL},
    {"_try_folder", try_folder, METH_O, NULL},
    {"_message", sf_message_restore, METH_VARARGS, NULL},
    {"_dtype_of", dtype_of, METH_O, NULL},
    {"wait", (PyCFunction)(void (*)(void))sf_wait_function, METH_FASTCALL | METH_KEYWORDS,
     sf_wait_doc},
    {NULL, NULL, 0, NULL},
};

/* ---- setup ---- */

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type && spec != &sf_view_spec && PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

static int
add_record(PyObject *module, PyTypeObject *type)
{
    return type ? PyModule_AddType(module, type) : -1;
}

static int
add_hooks(PyObject *module, struct sf_state *state)
{
    PyObject *exit_module = PyImport_ImportModule("atexit");
    PyObject *hook = exit_module ? PyObject_GetAttrString(module, "_at_exit") : NULL;
    PyObject *done = hook ? PyObject_CallMethod(exit_module, "register", "O", hook) : NULL;
    Py_XDECREF(exit_module);
    Py_XDECREF(hook);
    Py_XDECREF(done);
    PyObject *restore = done ? PyObject_GetAttrString(state->texts, "restore") : NULL;
    int status = restore ? PyModule_AddObjectRef(module, "_restore", restore) : -1;
    Py_XDECREF(restore);
    return status;
}

static int
module_exec(PyObject *module)
{
    struct sf_state *state = sf_state_of_module(module);
    if (sf_arrays_setup() < 0 || sf_dtypes_setup(state) < 0) {
        return -1;
    }
    state->topic_type = add_type(module, &sf_topic_spec);
    state->loan_type = add_type(module, &sf_loan_spec);
    state->view_type = add_type(module, &sf_view_spec);
    state->message_type = add_type(module, &sf_message_spec);
    state->messages_type = add_type(module, &sf_messages_spec);
    state->stats_type = sf_make_stats_type();
    state->participant_type = sf_make_participant_type();
    if (!state->topic_type || !state->loan_type || !state->view_type || !state->message_type ||
        !state->messages_type || add_record(module, state->stats_type) < 0 ||
        add_record(module, state->participant_type) < 0) {
        return -1;
    }
    state->wire = PyImport_ImportModule("shmflow._wire");
    state->texts = state->wire ? PyImport_ImportModule("shmflow._texts") : NULL;
    state->aio = state->texts ? PyImport_ImportModule("shmflow._aio") : NULL;
    PyObject *errors = state->aio ? PyImport_ImportModule("shmflow._errors") : NULL;
    state->closed_error = errors ? PyObject_GetAttrString(errors, "Closed") : NULL;
    Py_XDECREF(errors);
    return state->closed_error ? add_hooks(module, state) : -1;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct sf_state *state = sf_state_of_module(module);
    Py_VISIT(state->topic_type);
    Py_VISIT(state->loan_type);
    Py_VISIT(state->view_type);
    Py_VISIT(state->message_type);
    Py_VISIT(state->messages_type);
    Py_VISIT(state->stats_type);
    Py_VISIT(state->participant_type);
    Py_VISIT(state->wire);
    Py_VISIT(state->texts);
    Py_VISIT(state->closed_error);
    Py_VISIT(state->aio);
    Py_VISIT(state->dtypes.by_dtype);
    Py_VISIT(state->dtypes.by_identity);
    Py_VISIT(state->dtypes.by_wire);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct sf_state *state = sf_state_of_module(module);
    Py_CLEAR(state->topic_type);
    Py_CLEAR(state->loan_type);
    Py_CLEAR(state->view_type);
    Py_CLEAR(state->message_type);
    Py_CLEAR(state->messages_type);
    Py_CLEAR(state->stats_type);
    Py_CLEAR(state->participant_type);
    Py_CLEAR(state->wire);
    Py_CLEAR(state->texts);
    Py_CLEAR(state->closed_error);
    Py_CLEAR(state->aio);
    Py_CLEAR(state->dtypes.by_dtype);
    Py_CLEAR(state->dtypes.by_identity);
    Py_CLEAR(state->dtypes.by_wire);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* D2 of module.h */
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The native core of shmflow; use the package's names.");

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,         .m_name = "shmflow._core",
    .m_doc = module_doc,           .m_size = sizeof(struct sf_state),
    .m_methods = module_methods,   .m_slots = module_slots,
    .m_traverse = module_traverse, .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}

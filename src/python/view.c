/* Views: the objects that keep a block as it is while an array looks at it.
 *
 * Owns:      ViewObject, the `base` of arrays that lie in the ring, and of private loans.
 * Does not:  make the arrays (arrays.c) or decide who may hold how much (core/pins.c).
 *
 * Invariants
 *   V1  A view owns one pin (or one claim) and one reference to its attachment, or private memory;
 *       they end when the last array over it dies, in any thread, after close, after unlink.
 *   V2  In a forked child a view owns nothing shared: only the reference is dropped.
 * A crash here leaves: the participant's bit; cleaning its slot clears it.
 */
#include "python/module.h"

static ViewObject *
new_view(struct sf_state *state, struct sf_attachment *att)
{
    ViewObject *view = (ViewObject *)state->view_type->tp_alloc(state->view_type, 0);
    if (view) {
        sf_attachment_ref(att);
        view->att = att;
    }
    return view;
}

PyObject *
sf_view_new(struct sf_state *state, struct sf_attachment *att, uint32_t desc)
{
    ViewObject *view = new_view(state, att);
    if (!view) {
        sf_unpin(att, desc);
        return NULL;
    }
    view->claim.desc = desc;
    return (PyObject *)view;
}

PyObject *
sf_view_new_claim(struct sf_state *state, struct sf_attachment *att, const struct sf_claim *claim)
{
    ViewObject *view = new_view(state, att);
    if (!view) {
        sf_loan_drop(att, claim->desc);
        return NULL;
    }
    view->claim = *claim;
    view->is_claim = true;
    return (PyObject *)view;
}

PyObject *
sf_view_new_private(struct sf_state *state, uint64_t len, void **memory)
{
    ViewObject *view = (ViewObject *)state->view_type->tp_alloc(state->view_type, 0);
    if (!view) {
        return NULL;
    }
    /* Zeros: what is published of it was in nobody's memory before (Y6 of arrays.c). */
    view->memory = PyMem_RawCalloc(len ? (size_t)len : 1, 1);
    if (!view->memory) {
        Py_DECREF(view);
        return PyErr_NoMemory();
    }
    *memory = view->memory;
    return (PyObject *)view;
}

static void
view_dealloc(PyObject *self)
{
    ViewObject *view = (ViewObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (view->att) {
        if (sf_attachment_is_mine(view->att)) {
            if (view->is_claim) {
                sf_loan_drop(view->att, view->claim.desc);
            }
            else {
                sf_unpin(view->att, view->claim.desc);
            }
        }
        sf_attachment_unref(view->att);
    }
    PyMem_RawFree(view->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(view_doc, "The hold on a block of a topic that arrays over it share as their base.");

static PyType_Slot view_slots[] = {
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_doc, (void *)view_doc},
    {0, NULL},
};

PyType_Spec sf_view_spec = {
    .name = "shmflow._core._View",
    .basicsize = sizeof(ViewObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = view_slots,
};

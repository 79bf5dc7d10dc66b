"""Each way into a Topic, a Loan, Messages or a Message is guarded where there is no GIL (SF_GUARD
of src/python/pycompat.h), or is one of those that need not be, each with its reason."""

from __future__ import annotations

import re

TABLE = re.compile(
    r"\b(?:PyMethodDef|PyGetSetDef|PyType_Slot) (\w+)\[\] = \{(.*?)^\};", re.M | re.S
)
ENTRY = re.compile(r'\{\s*("\w+"|Py_\w+),\s*([^,{}]*[^,{}\s])')
# What the interpreter calls when nobody else can reach the object, and what is no code.
NO_CALL = {
    f"Py_tp_{slot}"
    for slot in ("doc", "dealloc", "traverse", "clear", "new", "methods", "members", "getset")
}
UNGUARDED = {
    "get_name": "constant once the Topic is initialised",
    "get_mode": "constant once the Topic is initialised",
    "get_closed": "one atomic word",
    "message_repr": "constant since the message was taken",
    "PyObject_SelfIter": "looks at nothing",
}


def unguarded(files: dict[str, str]) -> list[str]:
    found = []
    for path, text in files.items():
        for table, entries in TABLE.findall(text):
            if table.startswith("module_"):
                continue  # functions without an object
            for name, function in ENTRY.findall(entries):
                guarded = "SF_GUARDED(" in function or function.startswith("CALL(")
                if name not in NO_CALL and not guarded and function not in UNGUARDED:
                    found.append(f"{path}: {table}: {name}")
    return found


def test_each_way_in_is_guarded(c_tree):
    files = {path: text for path, text in c_tree.items() if path.startswith("src/python/")}
    entries = sum(len(ENTRY.findall(body)) for t in files.values() for _, body in TABLE.findall(t))
    assert entries > 60
    assert "SF_GUARDED(function)" in files["src/python/topic_type.c"], "what CALL stands for"
    assert unguarded(files) == []


def test_the_rule_finds_offenders():
    text = """\
static PyMethodDef loan_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))SF_GUARDED(loan_publish), METH_FASTCALL, doc},
    {"discard", loan_discard, METH_NOARGS, doc},
    {"late", (PyCFunction)(void (*)(void))loan_late,
     METH_FASTCALL, doc},
    {"write", CALL(sf_topic_write_method), FAST, doc},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef loan_getset[] = {
    {"array", loan_get_array, NULL, doc, NULL}, {"name", get_name, NULL, doc, NULL},
};
static PyType_Slot loan_slots[] = {
    {Py_tp_doc, (void *)loan_doc}, {Py_bf_getbuffer, loan_get_buffer}, {0, NULL},
};
static PyMethodDef module_methods[] = {
    {"_clean", clean, METH_VARARGS, NULL},
};
"""
    assert unguarded({"a.c": text}) == [
        'a.c: loan_methods: "discard"',
        'a.c: loan_methods: "late"',
        'a.c: loan_getset: "array"',
        "a.c: loan_slots: Py_bf_getbuffer",
    ]

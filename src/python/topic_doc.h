/* The manual page: docstrings of Topic, apart from the code so that both can be read.
 *
 * Owns:      texts of help(shmflow.Topic); first lines are signatures for inspect.
 * Does not:  contain code.
 *
 * Invariants
 *   D1  Each says what it takes and gives (with units and shapes), when it blocks, what it raises.
 * A crash here leaves: nothing.
 */
#ifndef SHMFLOW_TOPIC_DOC_H
#define SHMFLOW_TOPIC_DOC_H

PyDoc_STRVAR(
    topic_doc,
    "Topic(name=None, mode='rw', *, capacity=None, max_message=None, depth=None, start='oldest',"
    " lossless=False, group=None, max_held=None, create=None, replace=False, temporary=False, "
    "allow_lossless=True,"
    " permissions=0o600, max_participants=128, spin=None)\n--\n\n"
    "A ring of messages in shared memory, by name; every reader sees every message.\n"
    "\n"
    "    with shmflow.Topic('cam', 'w') as topic:       # one process\n"
    "        topic.write(frame)\n"
    "    for frame in shmflow.Topic('cam', 'r'):        # any number of others\n"
    "        ...\n"
    "\n"
    "Programs may start in any order: a reader subscribes to a name, waits until a topic of that\n"
    "name appears, and follows when it is removed and made anew. A slow reader loses old messages\n"
    "and is told how many; it never slows a writer, unless it is lossless. A process that dies,\n"
    "even by kill -9, costs nobody anything. Threads may share a Topic; each message then goes to\n"
    "one of them.\n"
    "\n"
    "name: letters, digits, '.', '_', '-', parts joined by '/'. None: a unique, temporary one.\n"
    "mode: 'rw', 'r', 'w', or 'monitor' (maps everything read-only, takes no slot, copies).\n"
    "capacity: bytes for messages, or '64 MiB', '64M' (2**20), '64MB' (10**6). None: sized at the\n"
    "    first write, 16 times that message, at least 1 MiB.\n"
    "max_message: the largest payload in bytes; None: a quarter of the capacity.\n"
    "depth: how many messages are retained at most; None: as many as fit, of messages like the "
    "first,\n"
    "    or with a capacity of 1.2 KiB and more; of smaller ones capacity / 1216, at least 255.\n"
    "start: where a reader begins: 'oldest' retained, 'latest' (the newest one first), 'new'.\n"
    "lossless: True: nothing that this reader has yet to read is evicted; writers wait for it, up "
    "to\n"
    "    their timeout. Other readers of the topic stay as they are. Ends with its process.\n"
    "group: a name: each message goes to one of the living members of that group, in order. A "
    "group\n"
    "    outlives its members: who joins it later goes on where it stood (start is for the "
    "first).\n"
    "max_held: bytes of views this Topic may hold before read() copies; None: a quarter of the\n"
    "    capacity, at least two messages.\n"
    "create: None: a writer makes the topic at its first write, or now with a capacity. True: "
    "make\n"
    "    it now, TopicExists if it is there. False: it must be there now.\n"
    "replace: True ends what is there; readers follow to the new generation.\n"
    "temporary: the topic goes when its last participant does; else it stays until unlink().\n"
    "allow_lossless: whether readers of the topic made here may make writers wait for them.\n"
    "permissions: of the file. 0o600: your user. 0o660: your group. 0o644: others may monitor.\n"
    "max_participants: Topics attached at a time, at most 1024 (rounded up to a multiple of 64).\n"
    "spin: seconds that a waiting read polls before it sleeps; None: adaptive, at most 50 us.\n"
    "\n"
    "capacity (at least), max_message and depth are requirements: a live topic that differs is\n"
    "TopicMismatch; an idle one is replaced. Raises ValueError, TypeError for bad arguments,\n"
    "TopicExists, TopicNotFound, TopicMismatch, CorruptTopic, NotAllowed, NoSlot, NoSpace,\n"
    "UnsupportedFileSystem.");

PyDoc_STRVAR(
    write_doc,
    "write($self, data, /, *, meta=None, timestamp_ns=None, timeout=None)\n--\n\n"
    "Append one message; returns its sequence number (1, 2, 3, ...).\n"
    "\n"
    "data: an ndarray of any dtype without Python objects, any order (strided arrays arrive C\n"
    "contiguous, Fortran ones stay so), a NumPy or Python number (0-d), bytes, bytearray or any\n"
    "buffer, a DLPack producer in memory that the CPU reads. It is copied once, into the ring.\n"
    "meta: a mapping of JSON values, at most 64 KiB; tuples and arrays of numbers arrive as "
    "lists.\n"
    "timestamp_ns: 0 or more ns since 1970 (a warning if that is not of these days); None: now.\n"
    "\n"
    "Waits, for at most timeout seconds (None: for ever), for lossless readers that have yet to "
    "read\n"
    "what would have to go; other readers are never waited for. Also while another writer is in "
    "its\n"
    "short critical section, or, when readers hold the rest, in the lane.\n"
    "Raises Full with the blame when that takes too long, MessageTooLarge, Closed after\n"
    "shutdown(), TypeError for what cannot travel, RuntimeError if a signal's handler gives the\n"
    "array other memory meanwhile. The first write makes the topic and may raise what the\n"
    "constructor does.");

PyDoc_STRVAR(
    loan_doc,
    "loan($self, shape, dtype='uint8', *, meta=None, timestamp_ns=None, timeout=None)\n--\n\n"
    "An array in the ring to be filled, then published: a message without any copy.\n"
    "\n"
    "    with topic.loan((480, 640), 'float32') as out:\n"
    "        np.multiply(left, right, out=out)\n"
    "    loan = topic.loan((720, 1280, 3))\n"
    "    ok, frame = camera.read(loan.array)\n"
    "    if ok and frame is loan.array:                 # decoded into the ring\n"
    "        loan.publish()\n"
    "    else:                                          # unfilled: the clip's end, another size\n"
    "        loan.discard()\n"
    "    loan = topic.loan(65536)                       # a file or a socket, without a copy\n"
    "    loan.publish(file.readinto(loan))              # shorter at the file's end\n"
    "\n"
    "Published when the block ends, dropped if it raises; or call publish() and discard() of the\n"
    "Loan. What fills an array in place (out=loan.array, cv2's dst=) fills the message. Given an\n"
    "array of another shape or dtype, NumPy raises, but OpenCV allocates a new one and returns\n"
    "that: the loan stays unfilled, and must not be published.\n"
    "\n"
    "The array is writable until published, read-only after. It is in the ring if it is at least\n"
    "4 KiB (or capacity / 16384) and there is room that nobody holds; there it begins as what\n"
    "earlier messages of the topic left: what you do not fill is published as it is. Otherwise it\n"
    "is private memory, zeros at first, that publish copies. Never waits for readers; timeout is\n"
    "for the publish, as in write(). Raises as write() does.");

PyDoc_STRVAR(
    read_doc,
    "read($self, timeout=None, *, latest=False, copy=False, out=None, default=...)\n--\n\n"
    "The next message as an ndarray of the shape, dtype and order that was written.\n"
    "\n"
    "From 4 KiB on (capacity / 16384 in large topics) it is a read-only view of the ring, without\n"
    "a copy: it never changes and stays valid as long as it or any view of it lives. Writers flow\n"
    "around it. A Topic that holds more than max_held gets copies instead (and one warning).\n"
    "copy=True gives a writable array of your own; out= copies into an array of the same shape,\n"
    "dtype and order and returns it.\n"
    "\n"
    "Blocks without the GIL for at most timeout seconds (None: for ever, 0: not at all); Ctrl-C\n"
    "ends it. latest=True passes over all but the newest. A reader that was lapped continues at\n"
    "the oldest message still there, or, if a quick writer overwrites that one meanwhile, an\n"
    "eighth of what is retained later: see lost, read_message().\n"
    "Raises Empty when the time is over (or returns default, if given), Closed when the stream\n"
    "was shut down and is drained, or this Topic closed, ValueError for an out= that does not fit\n"
    "(nothing is consumed), CorruptTopic.");

PyDoc_STRVAR(
    read_message_doc,
    "read_message($self, timeout=None, *, latest=False, copy=False, out=None, default=...)\n--\n\n"
    "Like read(), but gives a Message: array, seq, timestamp_ns, meta, lost, skipped, writer.");

PyDoc_STRVAR(
    write_many_doc,
    "write_many($self, items, /, *, timeout=None)\n--\n\n"
    "Append several messages, one after the other; returns the last one's sequence number.\n"
    "\n"
    "items: an iterable of what write() takes (an array counts as its rows). Other writers' "
    "messages\n"
    "may come in between. Up to 32 items are taken before the first of them is sent, so an\n"
    "iterator must not use one buffer again for the next (RuntimeError where it has resized it).\n"
    "Small ones (up to 4 KiB) share locks "
    "and\n"
    "wakes, some 30 at a time, and those that do share one timestamp: several times the rate of\n"
    "write().\n"
    "timeout: seconds for all of them. Waits and raises as write() does; whatever is raised, its\n"
    "attribute `written` tells how many got through (all before the one that failed).\n"
    "Returns 0 if there was none.");

PyDoc_STRVAR(
    read_many_doc,
    "read_many($self, limit, timeout=None, *, copy=False, stack=False)\n--\n\n"
    "What is there at the call, at most limit messages, as a list of arrays, as read() gives "
    "them.\n"
    "\n"
    "Waits, for at most timeout seconds (None: for ever), for the first only; [] when none came.\n"
    "stack=True: one writable array of shape (n, ...) of your own, of as many messages in a row "
    "as\n"
    "have the same dtype, shape and order; one that differs is left for the next call.\n"
    "Raises Closed at the end of the stream, CorruptTopic, ValueError for a limit below 1.");

PyDoc_STRVAR(read_messages_doc, "read_messages($self, limit, timeout=None, *, copy=False)\n--\n\n"
                                "Like read_many(), but a list of Message objects.");

PyDoc_STRVAR(
    snapshot_doc,
    "snapshot($self, /, *, copy=False)\n--\n\n"
    "All messages that are retained now, oldest first, as a list of Message; [] without a topic.\n"
    "\n"
    "Consumes nothing and moves nothing. Arrays are views as read() gives them, up to max_held\n"
    "bytes, then copies. What is evicted meanwhile is left out. Never blocks.\n"
    "Raises WrongMode on a Topic of mode 'w'.");

PyDoc_STRVAR(peek_doc,
             "peek($self, seq, *, copy=False)\n--\n\n"
             "The message with this number as a Message, if it is retained. Consumes nothing.\n"
             "\n"
             "Never blocks. Raises NotRetained, TopicNotFound, WrongMode on a Topic of mode 'w'.");

PyDoc_STRVAR(
    seek_doc,
    "seek($self, place=None, *, timestamp_ns=None)\n--\n\n"
    "Go on reading elsewhere; returns the number of the message that comes next.\n"
    "\n"
    "place: a number from topic.tail to topic.head + 1, 'oldest', 'latest' (the newest one next) "
    "or\n"
    "'new' (only what comes).  timestamp_ns: the first retained message that is not older (ns "
    "since\n"
    "1970), or what comes next if all are. What is passed over counts neither as lost nor as\n"
    "skipped. In a group it moves all members. A lossless reader and a group may go back: from "
    "then\n"
    "on nothing from there is evicted; they wait for a writer in its critical section.\n"
    "Raises NotRetained for a number beyond the ends (nothing moves), TopicNotFound.");

PyDoc_STRVAR(messages_doc, "messages($self, *, latest=False, copy=False, timeout=None)\n--\n\n"
                           "An iterator of Message objects, as read_message() gives them.\n"
                           "\n"
                           "Ends when the stream was shut down and is drained, or this Topic is "
                           "closed. Raises Empty when\n"
                           "no message comes for timeout seconds (None: waits for ever).");

PyDoc_STRVAR(
    fileno_doc,
    "fileno($self, /)\n--\n\n"
    "A descriptor (int) that is readable while something is unread, for event loops.\n"
    "\n"
    "For select, poll, selectors, loop.add_reader, zmq.Poller, Qt, GLib: whatever waits for\n"
    "descriptors. Level-triggered: it is readable as long as read(timeout=0) would give a message\n"
    "or raise Closed since the stream was shut down, and when a topic appears that was waited\n"
    "for. Now and then it is readable although nothing came: then read(timeout=0) raises Empty "
    "and\n"
    "makes it quiet again. Do not read from, write to or close it.\n"
    "\n"
    "The same number until close(), which closes it; a forked child gets one of its own when it\n"
    "asks. The first call starts a thread that sleeps until there is news (it never takes the GIL\n"
    "and receives no signals); a Topic whose fileno() is never asked for has none. Never blocks.\n"
    "Raises WrongMode for mode 'w', Closed, OSError (EMFILE) and RuntimeError when the process "
    "may\n"
    "have no more descriptors or threads, and what a read that attaches may raise.");

PyDoc_STRVAR(
    read_async_doc,
    "read_async($self, timeout=None, *, latest=False, copy=False)\n--\n\n"
    "read() for asyncio: await topic.read_async() gives the next message as an ndarray.\n"
    "\n"
    "The event loop goes on while it waits, for at most timeout seconds (None: for ever, 0: not "
    "at\n"
    "all), also for a topic that does not exist yet. The message is taken in the very moment in\n"
    "which it is returned: a call that is cancelled or times out, at whatever point, has lost\n"
    "nothing. Tasks that wait on one Topic are served in the order in which they came, each "
    "message\n"
    "goes to one. When messages are always there, one call in 32 lets the loop run first.\n"
    "Raises Empty when the time is over, Closed when the stream was shut down and is drained or\n"
    "this Topic was closed (also while it is awaited), and what read() and fileno() raise.");

PyDoc_STRVAR(read_message_async_doc,
             "read_message_async($self, timeout=None, *, latest=False, copy=False)\n--\n\n"
             "Like read_async(), but gives a Message, as read_message() does.");

PyDoc_STRVAR(
    stats_doc,
    "stats($self, /)\n--\n\n"
    "Counters of this Topic object: written, read, copied, pinned, lost, skipped, held_bytes, ...\n"
    "\n"
    "Over all generations since it was opened. Never blocks; also after close().");

PyDoc_STRVAR(
    participants_doc,
    "participants($self, /)\n--\n\n"
    "Everybody attached to the topic, as a list of Participant; [] if there is no topic.\n"
    "\n"
    "Dead ones that were not cleaned up yet have alive=False. Never blocks, disturbs nobody.");

PyDoc_STRVAR(
    shutdown_doc,
    "shutdown($self, /)\n--\n\n"
    "End the stream for everybody: writers get Closed, readers drain it and then get Closed.\n"
    "\n"
    "Iterations just end. The topic stays until unlink(); the next writer that opens it starts a\n"
    "new generation. Waits for a writer in its critical section, Ctrl-C ends the wait.");

PyDoc_STRVAR(
    close_doc,
    "close($self, /)\n--\n\n"
    "Leave the topic. Arrays that were read stay valid; calls blocked in other threads end.\n"
    "\n"
    "May be called again; every other call then raises Closed. Never blocks.");

PyDoc_STRVAR(
    unlink_doc,
    "unlink($self, /)\n--\n\n"
    "Remove the topic: its name is free, its memory goes with the last array or Topic on it.\n"
    "\n"
    "Readers drain it and follow the next generation; views stay valid. Does nothing if it is\n"
    "gone already. Never blocks.");

PyDoc_STRVAR(
    reduce_doc,
    "__reduce__($self, /)\n--\n\n"
    "Pickles as name, mode, identity, reader options and where it stands. Unpickling attaches,\n"
    "never creates; what comes out reads on where this one stood, as in a forked child.\n"
    "copy.copy() and copy.deepcopy() are the same: another Topic, attached to the same topic.");

#endif

/* The doorbell: readers that sleep until there is news, writers and a shutdown that wake them.
 *
 * Owns:      the protocol of wait.c for readers; the order of ended and head (flow.c, J4).
 * Does not:  wait for room (room.pml).
 *
 * READERS readers, WRITERS writers of MSGS messages each, one that may shut down at any time. A sleep
 * ends by a wake; by its slice only once somebody has died, so that a lost wake shows as a deadlock.
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef MSGS
#define MSGS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define ENDER WRITERS
#define FIRST_READER (WRITERS + 1)

byte lock, head;
bit ended, sleepers;
byte count;
byte asleep; /* the kernel's queue on count: one bit each */
byte deaths;
bit dead[WRITERS + 1];

#define ASLEEP(p) (asleep & (1 << (p)))
#define DIE :: atomic { deaths < CRASHES -> deaths++; DEATH; goto died }
#define STEP(body) if :: atomic { body } DIE fi

#define DEATH dead[me] = 1; mended = 0

inline ring_always() {
#ifdef BREAK_WAKE_WITHOUT_COUNT
    STEP(sleepers = 0);
#else
#ifdef BREAK_CLEAR_LAST
    STEP(count = count + 1);
    STEP(asleep = 0);
    STEP(sleepers = 0);
    goto rung;
#else
    STEP(sleepers = 0);
    STEP(count = count + 1);
#endif
#endif
    STEP(asleep = 0)
}

proctype waker(byte me) {
    byte todo = (me == ENDER -> 1 : MSGS);
    bit mended;
next:
    if
    :: todo == 0 || me == ENDER -> goto finished /* it may never come to a shutdown */
    :: todo != 0 -> todo--
    fi;
    if
    :: atomic { lock == 0 -> lock = me + 1 }
    :: atomic { lock != 0 && dead[lock - 1] -> lock = me + 1; mended = 1 } /* head is right */
    DIE
    fi;
#ifdef BREAK_FLAG_READ_EARLY
    STEP(mended = mended | sleepers);
#endif
    if
    :: me == ENDER -> STEP(ended = 1)
    :: else ->
        if
        :: atomic { ended -> skip }
        :: atomic { !ended -> head++ }
        DIE
        fi
    fi;
    STEP(lock = 0);
    if
    :: mended || me == ENDER -> ring_always()
    :: else ->
#ifndef BREAK_FLAG_READ_EARLY
        if
        :: atomic { sleepers != 0 -> skip }
            ring_always()
        :: atomic { sleepers == 0 -> skip }
        DIE
        fi
#endif
    fi;
#ifdef BREAK_CLEAR_LAST
rung:
#endif
    mended = 0;
    goto next;
died:
finished:
    skip
}

#undef DEATH
#define DEATH asleep = asleep & ~(1 << me); n = 0; end = 0; cursor = 0

proctype reader(byte me) {
    byte cursor = 1, n;
    bit end;
look: /* sf_take_look */
#ifdef BREAK_HEAD_BEFORE_ENDED
    if
    :: atomic { head >= cursor -> cursor++; goto look }
    :: atomic { head < cursor -> skip }
    DIE
    fi;
    if
    :: atomic { ended -> assert(head == cursor - 1); goto finished }
    :: atomic { !ended -> skip }
    DIE
    fi;
#else
    STEP(end = ended);
    if
    :: atomic { head >= cursor -> cursor++; end = 0; goto look }
    :: atomic { head < cursor && end -> assert(head == cursor - 1); goto finished }
    :: atomic { head < cursor && !end -> skip }
    DIE
    fi;
#endif
    /* sf_wait_message. Its first look and its spin are a look that finds nothing. */
#ifdef BREAK_FLAG_FIRST_COUNT_LAST
    STEP(sleepers = 1);
#else
    STEP(n = count);
#ifndef BREAK_FLAG_LATE
    STEP(sleepers = 1);
#endif
#endif
    if
    :: atomic { ended -> n = 0; goto look }
    :: atomic { !ended -> skip }
    DIE
    fi;
    if
    :: atomic { head >= cursor -> n = 0; goto look }
    :: atomic { head < cursor -> skip }
    DIE
    fi;
#ifdef BREAK_FLAG_LATE
    STEP(sleepers = 1);
#endif
#ifdef BREAK_FLAG_FIRST_COUNT_LAST
    STEP(n = count);
#endif
    if
    :: atomic { count == n -> asleep = asleep | (1 << me); n = 0 }
    :: atomic { count != n -> n = 0; goto look }
    DIE
    fi;
    if
    :: atomic { !ASLEEP(me) -> skip }
    :: atomic { ASLEEP(me) && deaths > 0 -> asleep = asleep & ~(1 << me) } /* a slice */
    :: atomic { timeout && head < cursor && !ended -> goto finished } /* rightly asleep for ever */
    DIE
    fi;
    goto look;
died:
finished:
    skip
}

init {
    atomic {
        run waker(0);
#if WRITERS > 1
        run waker(1);
#endif
        run waker(ENDER);
        run reader(FIRST_READER);
#if READERS > 1
        run reader(FIRST_READER + 1)
#endif
    }
}

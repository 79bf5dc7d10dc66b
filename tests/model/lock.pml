/* The writer lock: the word, its waiters bit, the futex, time-outs, theft and slots that are used again.
 *
 * Owns:      the protocol of lock.c, and of a slot's generation (participants.c).
 * Does not:  look at what the lock protects (ring.pml).
 *
 * K contenders take the lock ROUNDS times each. A sleep ends by a wake; by its slice only once
 * somebody has died (SLICES), so that a lost wake shows as a deadlock; TIMEOUTS let a caller give up.
 */
#ifndef K
#define K 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 1
#endif

#define WAITERS 128
#define OWNER(w) ((w) & 127)
#define SLOT(w) ((OWNER(w) - 1) % K)
#define LIVES(w) (gen[SLOT(w)] == (OWNER(w) - 1) / K)
#define MINE (me + 1 + K * gen[me])

byte lock;
byte gen[K];
bit taken[K] = 1;
byte byt[K] = 1;
byte asleep;     /* the kernel's queue on the word: one bit each */
byte inside;     /* ghost: who is in the critical section */
byte deaths;     /* so far */
byte timeouts = TIMEOUTS;

#define ASLEEP(p) (asleep & (1 << (p)))
#define DIE :: atomic { deaths < CRASHES -> deaths++; byt[me] = 0; asleep = asleep & ~(1 << me); \
    if :: inside == me + 1 -> inside = 0 :: else fi; word = 0; slept = 0; goto died }
#define STEP(body) if :: atomic { body } DIE fi

/* FUTEX_WAKE of one: whichever the kernel likes. */
inline wake_one() {
    if
    :: ASLEEP(0) -> asleep = asleep & ~1
    :: ASLEEP(1) -> asleep = asleep & ~2
    :: ASLEEP(2) -> asleep = asleep & ~4
    :: asleep == 0 -> skip
    fi
}

proctype contender(byte me) {
    byte word, todo = ROUNDS;
    bit slept;

next:
    word = 0; slept = 0;
    if
    :: todo == 0 -> goto finished
    :: else -> todo--
    fi;
    if /* sf_lock_try */
    :: atomic { lock == 0 -> assert(inside == 0); lock = MINE; inside = me + 1; goto locked }
    :: atomic { lock != 0 -> skip }
    DIE
    fi;
look:
    STEP(word = lock);
    if
    :: word == 0 ->
        if
        :: atomic { lock == 0 -> assert(inside == 0); inside = me + 1;
#ifdef BREAK_NOT_PASSED_ON
            lock = MINE;
#else
            lock = MINE | WAITERS; /* K3 */
#endif
            goto locked }
        :: atomic { lock != 0 -> goto look }
        DIE
        fi
    :: else
    fi;
    if
#ifdef BREAK_STEAL_LIVING
    :: atomic { byt[SLOT(word)] != 9 -> skip }
#else
    :: atomic { !LIVES(word) -> skip }
#endif
        if
#ifdef BREAK_STEAL_ANY_WORD
        :: atomic { 1 ->
#else
        :: atomic { lock != word -> goto look }
        :: atomic { lock == word ->
#endif
            assert(inside == 0); lock = MINE | WAITERS; inside = me + 1; goto locked }
        DIE
        fi
    :: atomic { LIVES(word) && timeouts > 0 -> timeouts-- } /* now >= until; K4 is the cleaner's */
#ifndef BREAK_LEAVE_SILENTLY
        if
        :: slept && !(word & WAITERS) ->
            if
            :: atomic { lock == word -> lock = lock | WAITERS }
            :: atomic { lock != word -> timeouts++; goto look }
            DIE
            fi
        :: else
        fi;
#endif
        goto next
    :: atomic { LIVES(word) -> skip }
    DIE
    fi;
    if
    :: !(word & WAITERS) ->
#ifndef BREAK_NO_WAITERS_BIT
        if
        :: atomic { lock == word -> lock = lock | WAITERS }
        :: atomic { lock != word -> goto look }
        DIE
        fi
#else
        skip
#endif
    :: else
    fi;
    /* futex_wait: compares and falls asleep in one; the word it compares with has the bit. */
    if
#ifdef BREAK_NO_WAITERS_BIT
    :: atomic { lock == word -> asleep = asleep | (1 << me) }
    :: atomic { lock != word -> goto look }
#else
    :: atomic { lock == (word | WAITERS) -> asleep = asleep | (1 << me) }
    :: atomic { lock != (word | WAITERS) -> goto look }
#endif
    DIE
    fi;
    if
    :: atomic { !ASLEEP(me) -> slept = 1 }
    :: atomic { ASLEEP(me) && deaths > 0 -> asleep = asleep & ~(1 << me); slept = 1 } /* a slice */
    DIE
    fi;
    goto look;

locked: /* the critical section; sf_unlock: the exchange tells who sleeps, the wake comes after */
    word = 0; slept = 0;
    STEP(assert(inside == me + 1); inside = 0; word = lock & WAITERS;
#ifdef BREAK_WAKE_FIRST
         if :: word != 0 -> wake_one() :: else fi);
    STEP(assert(inside == 0); lock = 0);
#else
         lock = 0);
    if
    :: word != 0 -> STEP(wake_one())
    :: else
    fi;
#endif
    goto next;

died: /* the next one in this slot: it cleans it if nobody has, under its byte */
    atomic { byt[me] == 0 -> byt[me] = 1 }
    if
    :: atomic { taken[me] -> gen[me] = gen[me] + 1 }
    :: atomic { !taken[me] -> taken[me] = 1 }
    fi;
    goto next;
finished:
    skip
}

/* Whoever probes: what K2 and V2 say of stealing rests on this order. */
proctype cleaner() {
    byte x;
end_idle:
    atomic {
        if
        :: taken[0] && byt[0] == 0 -> x = 0
        :: taken[1] && byt[1] == 0 -> x = 1
        :: taken[2] && byt[2] == 0 -> x = 2
        fi;
        byt[x] = 2
    }
    gen[x] = gen[x] + 1;
    taken[x] = 0;
    atomic { byt[x] = 0; x = 0; goto end_idle }
}

init {
    atomic { run contender(0); run contender(1); run contender(2); run cleaner() }
}

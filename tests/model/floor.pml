/* The floor: lossless readers that join, read, go back, leave and die; writers that may not pass them.
 *
 * Owns:      the protocol of floor.c; join, unjoin and seek (join.c), what a lossless commit owes
 *            (take.c), the cleaning of a policy (participants.c), the wait for it (flow.c, wait.c).
 * Does not:  say how a message is found or held (ring.pml), nor what members of a group do among
 *            themselves (group.pml).
 *
 * Sizes: NW writers of MSGS messages each, NR readers with LIVES joins and SEEKS ways back between
 * them, DEPTH messages retained, CRASHES deaths. With OWN the first writer is a lossless reader too.
 * A sleep ends by a wake; by its slice only once somebody has died who owed a ring.
 */
#ifndef NW
#define NW 2
#endif
#ifndef NR
#define NR 2
#endif
#ifndef MSGS
#define MSGS 2
#endif
#ifndef DEPTH
#define DEPTH 1
#endif
#ifndef LIVES
#define LIVES 1
#endif
#ifndef SEEKS
#define SEEKS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

#define P (NW + NR)
#define NONE 99 /* no lossless reader */
#ifdef OWN
#define FIRST 0
#else
#define FIRST NW
#endif
#define WORD(p) ((p) + 1 + P * gen[p])
#define SLOT(word) (((word) - 1) % P)
#define LIVES_STILL(word) (gen[SLOT(word)] == ((word) - 1) / P)

/* ---- the segment ---- */
byte lock, head, tail = 1, floor = NONE;
byte gen[P], cursor[P];
bit policy[P], taken[P] = 1;
bit sleepers;
byte count;
/* ---- the kernel ---- */
byte byt[P + 1] = 1; /* lock on the slot's byte: 0 free, 1 the participant's, 2 a cleaner's */
byte asleep;         /* its queue on count: one bit each */
/* ---- ghosts ---- */
byte inside, budget = CRASHES, spent_seeks, spent_lives;
byte owes;   /* who has news for sleepers, or has cleared their flag, and not woken them yet: a bit each */
bit excused; /* one of them has died */

#define ASLEEP(p) (asleep & (1 << (p)))
#define OWES(p) owes = owes | (1 << (p))
/* The locals are the same for all; me is P in the cleaner, whose slot is c (P: none). */
#define LOCALS byte todo, n, c, e, f, i; bit listening, flag, mended, own
#define FORGET todo = 0; n = 0; c = 0; e = 0; f = 0; i = 0; listening = 0; flag = 0; mended = 0; \
    own = 0
#define DIE :: atomic { budget > 0 -> budget--; \
    if :: owes & (1 << me) -> excused = 1; owes = owes & ~(1 << me) :: else fi; \
    if :: inside == me + 1 -> inside = 0 :: else fi; \
    if :: me == P -> byt[c] = 0 :: else -> byt[me] = 0 fi; \
    asleep = asleep & ~(1 << me); FORGET; goto died }
#define STEP(body) if :: atomic { body } DIE fi

/* Who reads on, and what it has yet to read. The dead protect nothing, cleaned or not. */
#define KEEPS(p, s) (byt[p] == 1 && policy[p] && cursor[p] <= (s))
#if P - FIRST == 1
#define IS_KEPT(s) KEEPS(FIRST, s)
#elif P - FIRST == 2
#define IS_KEPT(s) (KEEPS(FIRST, s) || KEEPS(FIRST + 1, s))
#else
#define IS_KEPT(s) (KEEPS(FIRST, s) || KEEPS(FIRST + 1, s) || KEEPS(FIRST + 2, s))
#endif

/* F1, as it must be before every unlock; cursors only grow until the next. */
#define CHECK_FLOOR assert(floor == 0 || !IS_KEPT(floor - 1))

inline take_lock(me) {
    if
    :: atomic { lock == 0 -> assert(inside == 0); lock = WORD(me); inside = me + 1 }
    :: atomic { lock != 0 && !LIVES_STILL(lock) -> /* K2; then rebuild */
        assert(inside == 0); lock = WORD(me); inside = me + 1; mended = 1 }
    DIE
    fi;
    if
    :: mended -> raise_floor()
    :: else
    fi
}

/* sf_floor_without: policy, then cursor, slot by slot; no lock keeps readers from either. */
inline scan(but) {
    f = NONE;
    i = FIRST;
    do
    :: i < P ->
        if
        :: atomic { !policy[i] || i == but -> i++ }
        :: atomic { policy[i] && i != but -> skip }
            STEP(if :: cursor[i] < f -> f = cursor[i] :: else fi; i++)
        DIE
        fi
    :: else -> break
    od;
    i = 0
}

/* It may fall: a scan may see a new owner's cursor in a slot whose policy was the last one's. */
inline raise_floor() {
    scan(P);
    STEP(floor = f; f = 0)
}

inline ring_room() {
    STEP(flag = sleepers; if :: flag -> OWES(me) :: else -> owes = owes & ~(1 << me) fi);
    if
    :: flag ->
        flag = 0;
        STEP(sleepers = 0);
        STEP(count = count + 1);
        STEP(asleep = 0; owes = owes & ~(1 << me))
    :: else
    fi
}

inline ring_always() {
    STEP(sleepers = 0);
    STEP(count = count + 1);
    STEP(asleep = 0; owes = owes & ~(1 << me))
}

inline unlock() {
    STEP(CHECK_FLOOR; lock = 0; inside = 0; if :: mended -> OWES(me) :: else fi);
    if
    :: mended -> mended = 0; ring_always()
    :: else
    fi
}

proctype writer(byte me) {
    LOCALS;
    todo = MSGS;
next:
    n = 0; listening = 0; e = 0;
    if
    :: atomic { todo == 0 -> goto finished }
    :: atomic { todo > 0 -> todo-- }
#ifdef OWN
    :: atomic { me == 0 && cursor[0] <= head -> assert(tail <= cursor[0]); cursor[0]++; OWES(0) }
        ring_room();
        goto next
#endif
    fi;
enter:
#ifdef BREAK_STALE_SCAN
    scan(P);
    i = f;
    STEP(if :: lock == 0 -> lock = WORD(me); inside = me + 1 :: lock != 0 && !LIVES_STILL(lock) ->
        lock = WORD(me); inside = me + 1; mended = 1 fi);
    STEP(floor = i; i = 0; f = 0);
#else
    take_lock(me);
#endif
    /* ---- next_number, sf_may_evict_locked ---- */
    if
    :: head + 1 - tail < DEPTH -> goto publish
    :: else -> e = head + 1 - DEPTH
    fi;
    if
    :: e < floor -> skip
    :: else ->
#ifndef BREAK_STALE_SCAN
        raise_floor()
#else
        skip
#endif
    fi;
    if
    :: e < floor -> goto evict
    :: else
    fi;
    /* ---- SF_LAGGING ---- */
#ifdef OWN
#ifndef BREAK_OWN_LAG_UNASKED
    if
    :: me == 0 -> STEP(own = (cursor[0] <= floor)) /* else it is another who is in the way */
    :: else
    fi;
#else
    own = (me == 0);
#endif
#ifdef BREAK_OWN_LAG_UNASKED
    unlock();
#endif
    if
    :: own ->
        scan(0);
        STEP(if :: f > head -> assert(KEEPS(0, e)) :: else -> own = 0 fi; f = 0)
    :: else
    fi;
#ifndef BREAK_OWN_LAG_UNASKED
    unlock();
#endif
    if
    :: own -> own = 0; goto next /* SF_OWN_LAG: this write fails */
    :: else
    fi;
#else
    unlock();
#endif
#ifdef BREAK_LISTEN_LATE
    STEP(n = count);
    STEP(sleepers = 1);
    listening = 1;
#endif
    if
    :: listening ->
        listening = 0;
        if
        :: atomic { count == n -> asleep = asleep | (1 << me); n = 0 }
            if
            :: atomic { !ASLEEP(me) -> skip }
            :: atomic { ASLEEP(me) && excused -> asleep = asleep & ~(1 << me) } /* a slice */
            :: atomic { timeout && IS_KEPT(e) -> asleep = asleep & ~(1 << me);
                todo = 0; n = 0; e = 0; goto finished } /* rightly, for ever */
            fi
        :: atomic { count != n -> n = 0 }
        DIE
        fi
    :: else
    fi;
#ifdef BREAK_FLAG_FIRST_COUNT_LAST
    STEP(sleepers = 1);
    STEP(n = count);
#else
    STEP(n = count);
    STEP(sleepers = 1);
#endif
    listening = 1;
    e = 0;
    goto enter;

evict:
    do
    :: tail <= e -> STEP(assert(!IS_KEPT(tail)); tail++)
    :: else -> break
    od;
publish:
    STEP(assert(head + 1 - tail < DEPTH); head++);
    unlock();
    ring_room();
    goto next;
died:
finished:
    skip
}

proctype reader(byte me) {
    LOCALS;
end_plain:
    atomic { spent_lives < LIVES * NR -> spent_lives++ }
    /* ---- join_locked ---- */
#ifndef BREAK_JOIN_WITHOUT_LOCK
    take_lock(me);
#endif
    if
    :: STEP(c = tail)
    :: STEP(c = head + 1)
    fi;
    STEP(cursor[me] = c);
#ifndef BREAK_NOT_LOWERED_AT_JOIN
#ifndef BREAK_LOWERED_AFTER_UNLOCK
    STEP(if :: c < floor -> floor = c :: else fi);
#endif
#endif
    STEP(policy[me] = 1);
#ifdef BREAK_LOWERED_AFTER_UNLOCK
    STEP(lock = 0; inside = 0);
    STEP(if :: c < floor -> floor = c :: else fi);
#else
#ifdef BREAK_JOIN_WITHOUT_LOCK
    skip;
#else
    unlock();
#endif
#endif
    c = 0;

end_joined:
    if
    :: atomic { cursor[me] <= head -> c = cursor[me]; goto take }
    :: atomic { spent_seeks < SEEKS && tail < cursor[me] -> spent_seeks++; goto seek }
    :: goto leave
    :: goto stopped /* it never reads again, and keeps what it has not read */
    DIE
    fi;

take: /* look, copy or pin, commit: it is there until then */
#ifdef BREAK_COMMIT_FIRST
    STEP(cursor[me] = c + 1; OWES(me));
    STEP(assert(tail <= c));
    c = 0;
    ring_room();
    goto end_joined;
#endif
    STEP(assert(tail <= c));
#ifdef BREAK_FLAG_READ_EARLY
    STEP(flag = sleepers);
    STEP(assert(tail <= c); cursor[me] = c + 1; c = 0);
    if
    :: flag -> flag = 0; ring_always()
    :: else
    fi;
#else
    STEP(assert(tail <= c); cursor[me] = c + 1; c = 0; OWES(me)); /* H: then the fence */
#ifndef BREAK_SILENT_ADVANCE
    ring_room();
#endif
#endif
    goto end_joined;

seek: /* back, under the lock */
#ifndef BREAK_SEEK_WITHOUT_LOCK
    take_lock(me);
#endif
    if
    :: STEP(c = tail)
    :: STEP(c = (head > tail -> head : tail))
    fi;
#ifndef BREAK_NOT_LOWERED_AT_SEEK
    STEP(if :: c < floor -> floor = c :: else fi);
#endif
    STEP(cursor[me] = c; c = 0; OWES(me));
#ifndef BREAK_SEEK_WITHOUT_LOCK
    unlock();
#endif
    ring_room();
    goto end_joined;

leave: /* sf_unjoin; then the slot is given up, and taken by the next */
    STEP(policy[me] = 0; OWES(me));
#ifndef BREAK_SILENT_LEAVE
    ring_room();
#endif
    STEP(gen[me] = gen[me] + 1; taken[me] = 0; byt[me] = 0);
    STEP(cursor[me] = 0; taken[me] = 1; byt[me] = 1);
    goto end_plain;

died:
end_dead: /* Somebody else takes the slot: a clean one, or one that it cleans itself. */
    if
    :: atomic { !taken[me] && byt[me] == 0 -> byt[me] = 1 }
    :: atomic { taken[me] && byt[me] == 0 -> byt[me] = 1 }
        STEP(gen[me] = gen[me] + 1);
        STEP(policy[me] = 0; OWES(me));
#ifndef BREAK_SILENT_TAKEOVER
        ring_room();
#endif
    fi;
    STEP(cursor[me] = 0);
    STEP(taken[me] = 1);
    goto end_plain;
stopped:
    skip
}

/* sf_clean_dead, by whoever is there. */
proctype cleaner(byte me) {
    LOCALS;
end_idle:
    atomic { /* c is 0 */
        if
        :: taken[0] && byt[0] == 0 -> c = 0
        :: taken[1] && byt[1] == 0 -> c = 1
#if P > 2
        :: taken[2] && byt[2] == 0 -> c = 2
#endif
#if P > 3
        :: taken[3] && byt[3] == 0 -> c = 3
#endif
        fi;
        byt[c] = 2
    }
    STEP(gen[c] = gen[c] + 1);
#ifndef BREAK_POLICY_STAYS
    STEP(policy[c] = 0; OWES(P));
#endif
    STEP(taken[c] = 0);
    STEP(byt[c] = 0; c = P);
#ifndef BREAK_SILENT_CLEANING
    ring_room();
#endif
    c = 0;
    goto end_idle;
died: /* the byte went with its process; another one begins again */
    goto end_idle
}

init {
    atomic {
#ifdef OWN
        cursor[0] = 1; policy[0] = 1; floor = 1;
#endif
        run writer(0);
#if NW > 1
        run writer(1);
#endif
        run reader(NW);
#if NR > 1
        run reader(NW + 1);
#endif
#if CRASHES > 0
        run cleaner(P)
#endif
    }
}

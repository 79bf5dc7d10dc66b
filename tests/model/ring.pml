/* The ring: claim, evict, publish, look, copy, pin, the lock's theft, cleaning and rebuild, with
 * deaths. One step is one access to a shared word; what the writer lock alone protects is local.
 *
 * Owns:      the protocol of ring.c, space.c, rebuild.c and of cleaning (participants.c).
 * Does not:  sleep and wake (bell.pml, room.pml) or the lock's waiters (lock.pml).
 *
 * Sizes: NW writers of MSGS messages each, NR readers, NMAIN blocks of main and one of the lane,
 * DEPTH messages retained, N index entries, CRASHES deaths in all. FINE splits what the README
 * shows to be one step. A writer looks for room from the block placed last on; with ANY it takes any
 * block that may go, so that nothing rests on the order in which space.c looks.
 * Names of breaks are told in the README.
 */
#ifndef NW
#define NW 2
#endif
#ifndef NR
#define NR 1
#endif
#ifndef NMAIN
#define NMAIN 3
#endif
#ifndef MSGS
#define MSGS 2
#endif
#ifndef LAST
#define LAST MSGS /* messages of the last writer */
#endif
#ifndef DEPTH
#define DEPTH 3
#endif
#ifndef N
#define N 4
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

#define NB (NMAIN + 1)
#define LANE NMAIN
#define NSEQ ((NW - 1) * MSGS + LAST)
#define P (NW + NR)
#define NEW 99 /* content of a claim that is filled and has no number yet */

#define SLOT(word) ((word - 1) % P)
#define LIVES(word) (gen[SLOT(word)] == (word - 1) / P)
#define BIT(slot) (1 << ((slot) - NW))

/* ---- the segment ---- */
byte lock, head, tail = 1, ndx[N];
byte seq[NB], owner[NB], holders[NB];
bit live[NB];
byte fields[NB];  /* what the descriptor says: the number it was written for */
byte payload[NB]; /* 0: none, or being overwritten; NEW; else the number it was published under */
byte gen[P];
bit taken[P] = 1;
/* ---- the kernel ---- */
byte byt[P] = 1; /* lock on the slot's byte: 0 free, 1 the participant's, 2 a cleaner's */
/* ---- derived, under the lock ---- */
byte cur;
/* ---- ghosts: what is true, for the assertions only ---- */
byte inside;     /* who is in the critical section: slot + 1 */
byte mine[P + 1]; /* the block that a living writer fills, that a reader holds validated: + 1 */
byte numbered;   /* the newest number ever given */
byte budget = CRASHES;

/* A death is one step: the kernel frees the byte; FORGET takes the process's locals away. */
#define DIE :: atomic { budget > 0 -> budget--; byt[me] = 0; mine[me] = 0; \
    if :: inside == me + 1 -> inside = 0 :: else fi; FORGET; goto died }
#define STEP(body) if :: atomic { body } DIE fi
#define IS_VIEWED(d) (NR > 0 && (mine[NW] == (d) + 1 || mine[P - 1] == (d) + 1))

/* A run may go over it. Exact in one step: an owner of 0 stays 0 under the lock. */
#define PASSABLE(d) (d == LANE -> (seq[d] != 0 || owner[d] == 0 || DEAD_CLAIM(d)) : \
    (seq[d] == 0 && owner[d] != 0 -> DEAD_CLAIM(d) : holders[d] == 0))
#ifdef BREAK_NO_GENERATION
#define DEAD_CLAIM(d) (byt[SLOT(owner[d])] == 0)
#else
#define DEAD_CLAIM(d) (!LIVES(owner[d]))
#endif

#ifdef RESPAWN
#define FORGET e = 0; k = 0; x = 0; s = 0; held = 0; i = 0; n = 0; word = 0
#else
#define FORGET e = 0; k = 0; x = 0; s = 0; held = 0; i = 0; n = 0; word = 0; todo = 0
#endif

/* L5, L6 and the numbers, as sf_check_locked has them. */
inline check_tables() {
    d_step {
        i = 0; n = 0;
        do
        :: i < NB ->
            if
            :: seq[i] != 0 ->
                n++;
                assert(live[i] && tail <= seq[i] && seq[i] <= head);
                assert(ndx[seq[i] % N] == i);
                assert(payload[i] == seq[i])
            :: else
            fi;
            i++
        :: else -> break
        od;
        assert(tail <= head + 1 && n == head + 1 - tail && n <= DEPTH && head == numbered);
        i = 0; n = 0
    }
}

/* Is a number from a to b still there? */
inline assert_gone(a, b) {
    i = 0;
    do
    :: i < NB -> assert(seq[i] == 0 || seq[i] < a || seq[i] > b); i++
    :: else -> i = 0; break
    od
}

#define FREE_IT(d) assert(!IS_VIEWED(d)); live[d] = 0; fields[d] = 0; payload[d] = 0

/* space.c, reap: owner, then len. */
inline reap(d) {
    if
    :: owner[d] != 0 -> STEP(owner[d] = 0)
    :: else
    fi;
    STEP(FREE_IT(d))
}

/* space.c, evict_oldest; ring.c, sf_retire_locked: seq first, then the holders. */
inline evict_oldest() {
    x = ndx[tail % N];
    if
    :: seq[x] == tail ->
#ifdef BREAK_LOOK_FIRST
        STEP(held = (x != LANE && holders[x] != 0));
        STEP(seq[x] = 0);
#else
        STEP(seq[x] = 0);
#ifdef BREAK_NO_HOLDERS
        held = 0;
#else
        if
        :: x != LANE -> STEP(held = (holders[x] != 0))
        :: else -> held = 0
        fi;
#endif
#endif
        if
        :: !held -> reap(x)
        :: else
        fi;
        held = 0
    :: else
    fi;
    x = 0;
    STEP(tail = tail + 1)
}

inline evict_through(last) {
    do
    :: tail <= last -> evict_oldest()
    :: else -> break
    od
}

proctype writer(byte me) {
    byte word, todo = (me == NW - 1 -> LAST : MSGS), e, k, x, s, i, n;
    bit held;
    word = me + 1 + P * gen[me];

enter:
    if
    :: atomic { mine[me] == 0 && todo == 0 -> goto finished }
#ifndef BREAK_OWNER_EARLY
    :: atomic { mine[me] != 0 -> /* E: discard, no lock */
        owner[mine[me] - 1] = 0; mine[me] = 0; todo--; goto enter }
#endif
    :: atomic { !(mine[me] == 0 && todo == 0) && lock == 0 ->
        assert(inside == 0); lock = word; inside = me + 1 }
#ifdef BREAK_STEAL_LIVING
    :: atomic { !(mine[me] == 0 && todo == 0) && lock != 0 && SLOT(lock) != me ->
#else
    :: atomic { !(mine[me] == 0 && todo == 0) && lock != 0 && !LIVES(lock) ->
#endif
        assert(inside == 0); lock = word; inside = me + 1;
#ifndef BREAK_NO_REBUILD
        goto rebuild
#endif
        }
    DIE
    fi;

locked:
    if
    :: mine[me] != 0 -> goto publish
    :: else
    fi;

    /* ---- claim: the gap at the start; a lap; the lane ---- */
#ifdef ANY
    /* Any block of main that may go; the lane only when none may: k marks what was looked at. */
lap:
    if
    :: k == (1 << NMAIN) - 1 -> goto lane
    :: !(k & 1) -> e = 0
#if NMAIN > 1
    :: !(k & 2) -> e = 1
#endif
#if NMAIN > 2
    :: !(k & 4) -> e = 2
#endif
    fi;
    k = k | (1 << e);
#else
    e = 0;
    if
    :: atomic { !live[0] -> goto got }
    :: atomic { live[0] && seq[0] == 0 && PASSABLE(0) -> skip }
        reap(0);
        goto got
    :: atomic { live[0] && !(seq[0] == 0 && PASSABLE(0)) -> skip }
    DIE
    fi;
    k = 1;
lap:
    if
    :: k > NMAIN -> goto lane
    :: else -> e = (cur + k) % NMAIN; k++
    fi;
#endif
    if
    :: atomic { !live[e] -> goto got }
    :: atomic { live[e] && !PASSABLE(e) -> e = 0; goto lap }
    :: atomic { live[e] && PASSABLE(e) -> s = seq[e] }
    DIE
    fi;
    if
    :: s != 0 ->
#ifdef BREAK_EVICT_ONE
        tail = s;
#endif
        evict_through(s)
    :: else
    fi;
    s = 0;
    if
    :: atomic { !live[e] -> goto got }
    :: atomic { live[e] && PASSABLE(e) -> skip }
        reap(e);
        goto got
    :: atomic { live[e] && !PASSABLE(e) -> /* a reader was quicker: look again */
#ifdef ANY
        k = 0;
#else
        k = 1;
#endif
        goto lap }
    DIE
    fi;

lane:
    k = 0;
    e = LANE;
    if
    :: atomic { !live[e] -> goto got }
    :: atomic { live[e] && !PASSABLE(e) -> /* promise 4: only a writer that fills it, or died */
        assert(SLOT(owner[e]) != me && (byt[SLOT(owner[e])] != 1 || mine[SLOT(owner[e])] == e + 1));
        goto no_room }
    :: atomic { live[e] && PASSABLE(e) -> s = seq[e] }
    DIE
    fi;
    if
    :: s != 0 -> evict_through(s)
    :: else
    fi;
    s = 0;
    if
    :: live[e] -> reap(e)
    :: else
    fi;

got:
    k = 0;
    STEP(owner[e] = word);
    STEP(live[e] = 1; assert(mine[0] != e + 1 && mine[NW - 1] != e + 1 && seq[e] == 0);
         assert(payload[e] == 0); mine[me] = e + 1;
         if :: e != LANE -> cur = e :: else fi);
    STEP(check_tables(); lock = 0; inside = 0);
    /* ---- the payload, outside the lock ---- */
    STEP(assert(!IS_VIEWED(e) && payload[e] == 0 && live[e]); payload[e] = NEW);
#ifdef BREAK_OWNER_EARLY
    STEP(owner[e] = 0);
#endif
    e = 0;
    goto enter;

no_room:
    e = 0;
    STEP(check_tables(); lock = 0; inside = 0);
    if
    :: atomic { !live[LANE] || PASSABLE(LANE) -> goto enter }
    DIE
    fi;

publish:
    e = mine[me] - 1;
    s = head + 1;
    if
    :: s - tail >= DEPTH -> evict_through(s - DEPTH)
    :: else
    fi;
#ifdef FINE
    STEP(fields[e] = s);
#endif
#ifdef BREAK_HEAD_FIRST
    STEP(head = s);
#endif
#ifndef BREAK_INDEX_LATE
    STEP(ndx[s % N] = e);
#endif
    STEP(assert(seq[e] == 0 && s == numbered + 1 && payload[e] == NEW);
         seq[e] = s; payload[e] = s; numbered = s);
    STEP(owner[e] = 0; mine[me] = 0; todo--);
#ifndef BREAK_HEAD_FIRST
    STEP(head = s);
#endif
#ifdef BREAK_INDEX_LATE
    STEP(ndx[s % N] = e);
#endif
    e = 0; s = 0;
    STEP(check_tables(); lock = 0; inside = 0);
    goto enter;

    /* ---- rebuild.c ---- */
rebuild:
    e = 0; s = 0;
    do
    :: e < NB ->
        if
        :: !live[e] -> skip
        :: live[e] && seq[e] != 0 ->
            if
            :: owner[e] != 0 -> STEP(owner[e] = 0)
            :: else
            fi;
            if
            :: seq[e] > s -> s = seq[e]
            :: else
            fi
        :: live[e] && seq[e] == 0 ->
            if
#ifdef BREAK_REBUILD_TAKES_CLAIMS
            :: atomic { (owner[e] != 0 || holders[e] == 0 || e == LANE) -> owner[e] = 0 }
#else
            :: atomic { (owner[e] != 0 -> !LIVES(owner[e]) : holders[e] == 0) -> owner[e] = 0 }
#endif
                STEP(FREE_IT(e))
#ifndef BREAK_REBUILD_TAKES_CLAIMS
            :: atomic { (owner[e] != 0 -> LIVES(owner[e]) : holders[e] != 0) -> skip }
#else
            :: atomic { (owner[e] == 0 && holders[e] != 0) -> skip }
#endif
            DIE
            fi
        fi;
        e++
    :: else -> break
    od;
#ifdef BREAK_NO_ROLL
    s = head;
#endif
    assert(s <= head + 1);
    if
    :: s < head -> s = head
    :: else
    fi;
    e = 0;
    do
    :: e < NB ->
        if
        :: seq[e] != 0 && ndx[seq[e] % N] != e -> STEP(ndx[seq[e] % N] = e)
        :: else
        fi;
        e++
    :: else -> break
    od;
    atomic { /* history is what hangs together below head */
        x = s + 1;
        do
        :: x > 1 && (s < DEPTH || x > s - DEPTH + 1) && seq[ndx[(x - 1) % N]] == x - 1 -> x--
        :: else -> break
        od;
        e = 0;
        do /* nothing else is numbered: no undamaged table needs the retiring that follows */
        :: e < NB -> assert(seq[e] == 0 || (seq[e] >= x && ndx[seq[e] % N] == e)); e++
        :: else -> break
        od;
        e = 0
    }
    if
    :: x != tail -> STEP(tail = x)
    :: else
    fi;
    x = 0;
    if
    :: s != head -> STEP(head = s)
    :: else
    fi;
    s = 0;
    STEP(check_tables());
    goto locked;

died:
#ifdef RESPAWN
    /* Somebody else takes the slot: another generation, and the rest of the messages. */
    atomic { !taken[me] && byt[me] == 0 ->
        byt[me] = 1; taken[me] = 1; word = me + 1 + P * gen[me]; goto enter }
#endif
finished:
    word = 0
}

#undef FORGET
#define FORGET c = 0; d = 0; h = 0; ok = 0; i = 0

/* Without a memory: each round it stands at any place a cursor could be, and takes once. */
proctype reader(byte me) {
    byte c, d, h, i;
    bit ok;

end_idle:
    if
    :: atomic { head < NSEQ -> c = head + 1 }
    :: atomic { head >= 1 && head >= tail - 1 -> c = head }
    :: atomic { head >= 2 && head - 1 >= tail - 1 -> c = head - 1 }
    :: atomic { head >= 3 && head - 2 >= tail - 1 -> c = head - 2 }
    DIE
    fi;
#ifdef FINE
    STEP(d = ndx[c % N]); /* A */
    if
    :: atomic { seq[d] != c -> d = 0; goto missed }
    :: atomic { seq[d] == c -> skip }
    DIE
    fi;
    STEP(ok = (fields[d] == c));
    if
    :: atomic { seq[d] != c -> d = 0; ok = 0; goto missed } /* F */
    :: atomic { seq[d] == c -> assert(ok); ok = 0 }
    DIE
    fi;
#else
    if
    :: atomic { seq[ndx[c % N]] != c -> goto missed }
    :: atomic { seq[ndx[c % N]] == c -> d = ndx[c % N] }
    DIE
    fi;
#endif
    if
    :: atomic { ok = (payload[d] == c) } /* the copy path */
        if
#ifdef BREAK_NO_SEQLOCK
        :: atomic { assert(ok) }
#else
        :: atomic { seq[d] == c -> assert(ok) } /* F */
        :: atomic { seq[d] != c -> skip }
#endif
        DIE
        fi
#ifdef BREAK_PIN_LANE
    :: atomic { holders[d] = holders[d] | BIT(me) }
#else
    :: atomic { d != LANE -> holders[d] = holders[d] | BIT(me) } /* C */
#endif
        if
#ifdef BREAK_NO_RECHECK
        :: atomic { mine[me] = d + 1; assert(payload[d] == c); c = 0 }
#else
        :: atomic { seq[d] == c -> mine[me] = d + 1; assert(payload[d] == c); c = 0 }
        :: atomic { seq[d] != c -> skip }
#endif
        DIE
        fi;
        STEP(mine[me] = 0; holders[d] = holders[d] & ~BIT(me)) /* D */
    DIE
    fi;
    atomic { c = 0; d = 0; ok = 0; goto end_idle }

missed:
    if
    :: atomic { head < c -> c = 0; goto end_idle } /* not there yet */
    :: atomic { head >= c -> h = head } /* B */
    DIE
    fi;
#ifdef FINE
    STEP(d = ndx[c % N]);
#else
    d = ndx[c % N];
#endif
    if
    :: atomic { seq[d] == c -> c = 0; d = 0; h = 0; goto end_idle }
    :: atomic { seq[d] != c -> d = 0; assert_gone(c, c) } /* told as lost: it had better be */
    DIE
    fi;
    /* next_after: what it passes over is gone */
    STEP(d = c + 1;
         if :: tail <= h + 1 && tail > d -> d = tail :: else fi;
         if :: h >= N && h - N + 1 > d -> d = h - N + 1 :: else fi;
         assert_gone(c, d - 1); c = 0; d = 0; h = 0);
    goto end_idle;

died:
#ifdef RESPAWN
end_dead:
    atomic { !taken[me] && byt[me] == 0 -> byt[me] = 1; taken[me] = 1; goto end_idle }
#else
    skip
#endif
}

#undef FORGET
#define FORGET me = 0; d = 0

/* Whoever probes or attaches: it cleans a slot whose byte it could take. */
proctype cleaner() {
    byte me, d;
end_idle:
    atomic { /* me and d are 0 */
        if
        :: taken[0] && byt[0] == 0 -> me = 0
        :: taken[1] && byt[1] == 0 -> me = 1
#if P > 2
        :: taken[2] && byt[2] == 0 -> me = 2
#endif
#if P > 3
        :: taken[3] && byt[3] == 0 -> me = 3
#endif
        fi;
        byt[me] = 2
    }
    STEP(gen[me] = gen[me] + 1); /* E' */
#ifndef BREAK_BITS_STAY
    if
    :: me >= NW ->
        do
        :: d < NB ->
            if
            :: holders[d] & BIT(me) -> STEP(holders[d] = holders[d] & ~BIT(me))
            :: else
            fi;
            d++
        :: else -> break
        od
    :: else
    fi;
#endif
    STEP(taken[me] = 0; d = 0;
         do
         :: d < NB -> assert(me < NW || !(holders[d] & BIT(me))); d++
         :: else -> break
         od);
    STEP(byt[me] = 0; me = 0; d = 0);
    goto end_idle;
died: /* the byte went with its process; another one begins again */
    goto end_idle
}

init {
    atomic {
        run writer(0);
#if NW > 1
        run writer(1);
#endif
#if NR > 0
        run reader(NW);
#endif
#if NR > 1
        run reader(NW + 1);
#endif
#if CRASHES > 0
        run cleaner()
#endif
    }
}

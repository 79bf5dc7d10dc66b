/* Groups: members that share one cursor word; whoever exchanges it has the message.
 *
 * Owns:      the protocol of take.c; what a member does before and after its commit (copy first, or
 *            hold, commit, copy); seeks of a group, its floor, and the use of its place by another
 *            name (join.c, floor.c).
 * Does not:  say how pins and copies see evictions (ring.pml): a pin succeeds while the message is
 *            there, and what is pinned stays. Nor wait (floor.pml, bell.pml).
 *
 * Sizes: NM members, N messages of one writer, SEEKS, CRASHES of members. Without LOSSLESS messages
 * may be evicted at any moment. With REUSE another thread closes the first member's Topic at any
 * moment, and the second one makes a group of another name of the same place.
 */
#ifndef NM
#define NM 2
#endif
#ifndef N
#define N 3
#endif
#ifndef SEEKS
#define SEEKS 0
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define NONE 99

/* ---- the segment ---- */
byte lock, head, tail = 1, floor = NONE, cursor = 1;
bit policy[NM];  /* lossless */
bit named[NM];   /* the slot names the group */
byte own[NM];    /* the slot's own cursor: for a member, behind its last message */
/* ---- ghosts ---- */
byte pinned[NM]; /* what is held */
byte name = 1;   /* whose place it is */
byte fate[N + 2]; /* of each number */
#define TAKEN 10  /* + me: committed, not yet delivered */
#define PASSED 20 /* + me: committed over, not yet counted */
#define DELIVERED 1
#define LOST 2
#define GIVEN_UP 3 /* by a seek */
byte spent_seeks, deaths;
bit dead[NM], cleaned[NM], closed;

#define FORGET from = 0; m = 0; at = 0; ok = 0; x = 0
#define DIE :: atomic { deaths < CRASHES -> deaths++; dead[me] = 1; pinned[me] = 0; FORGET; \
    goto died }
#define STEP(body) if :: atomic { body } DIE fi

#if NM == 2
#define PINNED(s) (pinned[0] == (s) || pinned[1] == (s))
#define KEPT(s) (cursor <= (s) && ((policy[0] && !dead[0]) || (policy[1] && !dead[1])))
#define NAMED (named[0] || named[1])
#else
#define PINNED(s) (pinned[0] == (s) || pinned[1] == (s) || pinned[2] == (s))
#define KEPT(s) (cursor <= (s) && ((policy[0] && !dead[0]) || (policy[1] && !dead[1]) || \
    (policy[2] && !dead[2])))
#define NAMED (named[0] || named[1] || named[2])
#endif
/* The bytes are those of message s: it has not been evicted, or its block waits for who holds it. */
#define INTACT(s) (tail <= (s) || PINNED(s))

/* It does not die here: ring.pml has that. */
proctype writer() {
    byte f, i;
    bit g;
end_idle:
    if
    :: atomic { head < N && lock == 0 -> head++ }
#ifdef LOSSLESS
    :: atomic { tail <= head && lock == 0 -> lock = 99 }
        if
        :: tail < floor -> skip
        :: else -> /* sf_raise_floor_locked: whose cursor, policy, then that */
            f = NONE; i = 0;
            do
            :: i < NM ->
                g = named[i];
                if
                :: !policy[i] -> i++
                :: policy[i] ->
#ifdef BREAK_OWN_CURSOR_KEEPS
                    g = 0;
#endif
                    atomic {
                        if
                        :: g && cursor < f -> f = cursor
                        :: !g && own[i] < f -> f = own[i]
                        :: else
                        fi;
                        i++; g = 0 }
                fi
            :: else -> break
            od;
            i = 0;
            atomic { floor = f; f = 0 }
        fi;
        if
        :: atomic { tail < floor -> assert(!KEPT(tail)); tail++ }
        :: atomic { tail >= floor -> skip }
        fi;
        atomic { assert(floor == 0 || !KEPT(floor - 1)); lock = 0 }
#else
    :: atomic { tail <= head && lock == 0 -> tail++ }
#endif
    fi;
    goto end_idle
}

/* sf_take_commit. Every number passed is gone; each is taken, or passed, once. */
inline commit() {
    if
#ifdef BREAK_NO_EXCHANGE
    :: atomic { true ->
#else
    :: atomic { cursor == from ->
#endif
        assert(name == mine);
#ifdef LOSSLESS
        assert(from == m || !policy[me]);
#endif
        x = from;
        do
        :: x < m -> assert(fate[x] == 0 && x < tail); fate[x] = PASSED + me; x++
        :: else -> break
        od;
        x = 0;
        assert(fate[m] == 0);
        fate[m] = TAKEN + me;
        cursor = m + 1 }
#ifndef BREAK_NO_EXCHANGE
    :: atomic { cursor != from -> pinned[me] = 0; goto again }
#endif
    DIE
    fi;
#ifndef BREAK_LOST_NOT_COUNTED
    STEP(x = from;
        do
        :: x < m -> if :: fate[x] == PASSED + me -> fate[x] = LOST :: else fi; x++
        :: else -> break
        od;
        x = 0);
#endif
    STEP(own[me] = m + 1)
}

#define DELIVER if :: fate[m] == TAKEN + me -> fate[m] = DELIVERED :: else fi; pinned[me] = 0

proctype member(byte me) {
    byte from, m, at, x, mine = 1;
    bit ok;
#ifdef REUSE
    if
    :: me == 1 -> /* enter_group: N5 */
end_outside:
        atomic { lock == 0 && !NAMED -> lock = me + 1 }
        atomic { cursor = tail; name = 2; mine = 2; x = 0;
            do
            :: x < N + 2 -> fate[x] = 0; x++
            :: else -> break
            od;
            x = 0 }
#ifdef LOSSLESS
        atomic { floor = (cursor < floor -> cursor : floor) }
#endif
        atomic { named[me] = 1;
#ifdef LOSSLESS
            policy[me] = 1;
#endif
            lock = 0 }
    :: else
    fi;
#endif
again:
    atomic { FORGET;
        if
        :: me == 0 && closed -> named[0] = 0; goto finished /* sf_slot_give_up */
        :: else
        fi }
    if
    :: STEP(from = cursor)
    :: atomic { spent_seeks < SEEKS -> spent_seeks++; goto seek }
    fi;
    at = from;
find: /* sf_look */
    if
    :: atomic { at < tail -> at = at + 1 }
        goto find
    :: atomic { at < tail -> /* a stale tail, or the true one */
#ifdef BREAK_TO_HEAD
        at = head;
#else
        at = tail;
#endif
        goto find }
    :: atomic { tail <= at && at <= head -> m = at; at = 0 }
    :: atomic { head < at && tail <= at -> at = 0 }
end_empty:
        if
        :: atomic { cursor != from || head >= from || (me == 0 && closed) -> goto again }
        :: atomic { spent_seeks < SEEKS -> goto again }
        DIE
        fi
    DIE
    fi;
    if
    :: skip -> goto copy
    :: skip -> goto hold
    fi;

copy: /* copied, looked at again, committed */
#ifdef BREAK_COMMIT_WITHOUT_PIN
    commit();
    STEP(assert(INTACT(m)); DELIVER);
#else
#ifdef BREAK_COMMIT_BEFORE_LOOK
    STEP(ok = INTACT(m));
    commit();
    if
    :: atomic { tail <= m -> assert(ok); DELIVER }
    :: atomic { tail > m -> goto again } /* torn, and nobody will get it */
    DIE
    fi;
#else
    STEP(ok = INTACT(m));
    if
#ifndef BREAK_NO_LOOK_AGAIN
    :: atomic { tail > m -> goto again }
    :: atomic { tail <= m -> skip }
#else
    :: skip
#endif
    DIE
    fi;
    commit();
    STEP(assert(ok); DELIVER);
#endif
#endif
    goto again;

hold: /* pinned, committed, and then read in place, or copied */
    if
    :: atomic { tail <= m -> pinned[me] = m }
    :: atomic { tail > m -> goto again }
    DIE
    fi;
    commit();
    STEP(assert(INTACT(m)));
    STEP(assert(INTACT(m)); DELIVER);
    goto again;

seek:
    if
    :: atomic { lock == 0 || (lock != 99 && cleaned[lock - 1]) -> lock = me + 1 }
    DIE
    fi;
    if
    :: STEP(at = tail)
    :: STEP(at = head + 1)
    fi;
#ifdef LOSSLESS
#ifndef BREAK_NOT_LOWERED_AT_SEEK
    STEP(if :: policy[me] || (me == 0 && closed) -> floor = (at < floor -> at : floor) :: else fi);
#endif
#endif
    STEP(assert(name == mine);
        x = 0;
        do
        :: x < N + 2 ->
            if
            :: x >= at && x < cursor -> fate[x] = 0 /* to be read again */
            :: x >= cursor && x < at -> fate[x] = GIVEN_UP
            :: else
            fi;
            x++
        :: else -> break
        od;
        cursor = at; at = 0; x = 0);
    STEP(lock = 0);
    goto again;
died:
finished:
    skip
}

/* Another thread closes the first member's Topic, at any moment: sf_unjoin. */
proctype closer() {
    if
    :: atomic { !dead[0] -> closed = 1; policy[0] = 0 }
#ifdef BREAK_PLACE_LEFT
        named[0] = 0
#endif
    :: dead[0] -> skip
    fi
}

proctype cleaner() {
    byte x;
end_idle:
    atomic {
        if
        :: dead[0] && !cleaned[0] -> x = 0
        :: dead[1] && !cleaned[1] -> x = 1
#if NM > 2
        :: dead[2] && !cleaned[2] -> x = 2
#endif
        fi;
        policy[x] = 0
    }
    named[x] = 0;
    atomic { cleaned[x] = 1; x = 0; goto end_idle }
}

/* When nothing moves any more: each number that was passed has been delivered once, or counted as lost
 * once; but for what the dead took with them: one message each, and the count of what it passed. */
proctype judge() {
    byte s = 1, missing;
end_judge:
    atomic {
        timeout;
        do
        :: s < cursor ->
            assert(fate[s] != 0 || name == 2);
            if
            :: fate[s] >= PASSED -> assert(dead[fate[s] - PASSED] && s < tail)
            :: fate[s] >= TAKEN && fate[s] < PASSED -> assert(dead[fate[s] - TAKEN]); missing++
            :: else
            fi;
            s++
        :: else -> break
        od;
        assert(missing <= deaths)
    }
}

init {
    atomic {
        named[0] = 1;
        own[0] = 1;
#ifndef REUSE
        named[1] = 1;
        own[1] = 1;
#if NM > 2
        named[2] = 1;
        own[2] = 1;
#endif
#endif
#ifdef LOSSLESS
        floor = 1;
        policy[0] = 1;
#ifndef REUSE
        policy[1] = 1;
#if NM > 2
        policy[2] = 1;
#endif
#endif
#endif
        run writer();
        run member(0);
        run member(1);
#if NM > 2
        run member(2);
#endif
#if CRASHES > 0
        run cleaner();
#endif
#ifdef REUSE
        run closer();
#endif
        run judge()
    }
}

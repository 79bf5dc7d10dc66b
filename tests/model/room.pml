/* Waiting for room: writers that find main full and the lane busy, the bell `room` and the turn.
 *
 * Owns:      the protocol of enter_and_claim (flow.c), of room (wait.c) and of the turn (space.c).
 * Does not:  say where in main a block goes (ring.pml): main has room for MAIN blocks in all.
 *
 * K writers of MSGS messages each, every one of which needs the whole lane or a block of main. A
 * sleep ends by a wake; by its slice only once somebody has died; GIVEUPS callers run out of time.
 */
#ifndef K
#define K 3
#endif
#ifndef MSGS
#define MSGS 2
#endif
#ifndef MAIN
#define MAIN 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef GIVEUPS
#define GIVEUPS 1
#endif

byte lock, lane, turn, main = MAIN; /* 0, or who has it: + 1 */
bit sleepers;
byte count, asleep, deaths, giveups = GIVEUPS;
bit dead[K], cleaned[K];
byte filling; /* ghost: who writes into the lane: + 1 */

#define ASLEEP(p) (asleep & (1 << (p)))
#define DIE :: atomic { deaths < CRASHES -> deaths++; dead[me] = 1; \
    asleep = asleep & ~(1 << me); \
    if :: filling == me + 1 -> filling = 0 :: else fi; \
    n = 0; listening = 0; last = 0; flag = 0; in_lane = 0; todo = 0; goto died }
#define STEP(body) if :: atomic { body } DIE fi

inline ring_room() {
    STEP(flag = sleepers);
    if
    :: flag ->
        flag = 0;
        STEP(sleepers = 0);
        STEP(count = count + 1);
        STEP(asleep = 0)
    :: else
    fi
}

#define LANE_IS_FREE (lane == 0 || cleaned[lane - 1])
#define IS_MY_TURN (turn == 0 || turn == me + 1 || cleaned[turn - 1])

proctype writer(byte me) {
    byte todo = MSGS, n;
    bit listening, last, flag, in_lane;
next:
    n = 0; listening = 0; last = 0; in_lane = 0;
    if
    :: todo == 0 -> goto finished
    :: else -> todo--
    fi;
enter:
    if
    :: atomic { lock == 0 || (dead[lock - 1] && cleaned[lock - 1]) -> lock = me + 1 }
    DIE
    fi;
    if
    :: atomic { main > 0 -> main--; in_lane = 0 }
        goto claimed
    :: atomic { main == 0 && (last || IS_MY_TURN) -> skip }
        if
        :: atomic { LANE_IS_FREE -> assert(filling == 0); lane = me + 1; filling = me + 1; in_lane = 1 }
            goto claimed
        :: atomic { !LANE_IS_FREE -> skip }
        DIE
        fi
    :: atomic { main == 0 && !(last || IS_MY_TURN) -> skip }
    DIE
    fi;
    if
    :: atomic { IS_MY_TURN -> turn = me + 1 }
    :: atomic { !IS_MY_TURN -> skip }
    DIE
    fi;
    STEP(lock = 0);
#ifdef BREAK_LISTEN_LATE
    STEP(n = count);
    STEP(sleepers = 1);
    listening = 1;
#endif
    if
    :: last -> goto leave
    :: !last && listening ->
        if
        :: atomic { count == n -> asleep = asleep | (1 << me) }
            if
            :: atomic { !ASLEEP(me) -> skip }
            :: atomic { ASLEEP(me) && deaths > 0 -> asleep = asleep & ~(1 << me) }
            :: atomic { ASLEEP(me) && giveups > 0 -> giveups--; last = 1;
                asleep = asleep & ~(1 << me) }
            DIE
            fi
        :: atomic { count != n -> skip }
        DIE
        fi
    :: else
    fi;
    STEP(n = count);
    STEP(sleepers = 1);
    listening = 1;
    goto enter;

claimed:
#ifndef BREAK_TURN_KEPT
    if
    :: turn == me + 1 -> STEP(turn = 0)
    :: else
    fi;
#endif
    STEP(lock = 0);
    n = 0; listening = 0; last = 0;
    if
    :: atomic { lock == 0 || (dead[lock - 1] && cleaned[lock - 1]) -> lock = me + 1 } /* publish */
        STEP(if :: in_lane -> filling = 0; lane = 0 :: else fi);
        STEP(lock = 0)
    :: atomic { if :: in_lane -> filling = 0; lane = 0 :: else fi } /* discard: one store, no lock */
#ifdef BREAK_SILENT_DISCARD
        goto next
#endif
    DIE
    fi;
    ring_room();
    goto next;

leave: /* sf_leave_queue */
    if
    :: turn == me + 1 -> STEP(if :: turn == me + 1 -> turn = 0 :: else fi)
    :: else
    fi;
#ifndef BREAK_SILENT_LEAVE
    ring_room();
#endif
    goto next;
died:
finished:
    skip
}

/* clean_rarely, by whoever waits or attaches. */
proctype cleaner() {
    byte x;
end_idle:
    atomic {
        if
        :: dead[0] && !cleaned[0] -> x = 0
        :: dead[1] && !cleaned[1] -> x = 1
        :: dead[2] && !cleaned[2] -> x = 2
        fi;
        cleaned[x] = 1;
        x = 0
    }
    if
    :: atomic { sleepers != 0 -> sleepers = 0 }
        count = count + 1;
        asleep = 0
    :: atomic { sleepers == 0 -> skip }
    fi;
    goto end_idle
}

init {
    atomic { run writer(0); run writer(1); run writer(2); run cleaner() }
}

/* A reader of the storm: copies, holds, follows the newest, lags behind or only looks.
 *
 * Owns:      what readers do, until they are killed or told to leave; the judgement of each
 *            message and of the order and the gaps between them.
 * Does not:  excuse anything: what it finds wrong ends the storm.
 *
 * Judged of each message: its bytes and description (message.c); that its number is the last one's
 * plus one plus what was told as lost and skipped; that what one writer wrote comes in order, and
 * without a gap where nothing was told as lost; that all who meet its number mean the same message
 * (board.c). Of each view: that it is the same at the end as at the start.
 *
 * A crash here leaves: pins of a dead participant.
 */
#include "storm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct view {
    struct sf_message m;
    uint64_t seed;
};

/* What was last read of a writer; exact: nothing of anybody's was lost since. */
struct follow {
    uint32_t incarnation, counter;
    bool exact;
};

struct reader {
    uint32_t number, most_views;
    struct seat *seat;
    struct sf_topic topic;
    uint64_t random, next_seq, max_held;
    uint64_t gone_seq, gone_head; /* what was told as lost last, and when */
    bool newest, copies, naps, started, lossless, member;
    enum sf_mode mode;
    struct follow follow[WRITERS];
    struct view views[HELD];
    uint32_t view_count;
    char *copy;
};

static _Noreturn void
complain(const struct reader *r, const struct sf_message *m, const struct identity *id,
         const char *what)
{
    violate("%s (seat %u), seq %llu: %s; it says writer %u, incarnation %u, counter %u, %llu bytes "
            "(lost %llu, skipped %llu, offset %llu, %s)",
            role_of(r->number), r->number, (unsigned long long)m->seq, what, id->writer,
            id->incarnation, id->counter, (unsigned long long)m->payload_len,
            (unsigned long long)m->lost, (unsigned long long)m->skipped,
            (unsigned long long)m->block_off, m->pinnable ? "main" : "small or lane");
}

/* ---- views ---- */

static void
let_go(struct reader *r, uint32_t at)
{
    struct view *v = &r->views[at];
    struct identity id;
    const char *wrong =
        check_payload(sf_message_payload(r->topic.att, &v->m), v->m.payload_len, &id);
    if (wrong || id.seed != v->seed) {
        complain(r, &v->m, &id, wrong ? wrong : "a held view became another message");
    }
    wrong = check_description(&v->m, sf_message_prefix(r->topic.att, &v->m), &id);
    if (wrong) {
        complain(r, &v->m, &id, "the prefix of a held view changed");
    }
    uint32_t last = --r->view_count;
    /* Both cleared before the bit goes (watch_compare); the last one is told again after. */
    sf_store_seq(&r->seat->held[at], 0);
    sf_store_seq(&r->seat->held[last], 0);
    sf_unpin(r->topic.att, v->m.desc);
    if (at != last) {
        *v = r->views[last];
        sf_store_seq(&r->seat->held[at], v->m.desc + 1); /* as above */
    }
    count(&r->seat->tally.views, 1);
}

static void
hold(struct reader *r, const struct sf_message *m, const struct identity *id)
{
    while (r->view_count >= r->most_views) {
        let_go(r, (uint32_t)draw_between(&r->random, 0, r->view_count - 1));
    }
    r->views[r->view_count] = (struct view){.m = *m, .seed = id->seed};
    sf_store_seq(&r->seat->held[r->view_count++], m->desc + 1); /* after the bit: watch_compare */
}

/* ---- the judgement ---- */

/* What was told as lost must be gone: whatever is found again was not. And tail must have passed it,
 * if not at once, for its evictor is still at it, then before anything more is published. */
static void
judge_loss(struct reader *r, const struct sf_message *m)
{
    const struct sf_ring *ring = &r->topic.att->ring;
    /* B: in this order, as evictors store tail before whatever they publish after. */
    uint64_t head = sf_load_seq(&ring->header->head);
    uint64_t tail = sf_load_seq(&ring->header->tail);
    if (r->gone_seq >= tail && head > r->gone_head + 1) {
        violate("%s (seat %u): %llu was told as lost when head was %llu; now that is %llu, and "
                "tail still %llu",
                role_of(r->number), r->number, (unsigned long long)r->gone_seq,
                (unsigned long long)r->gone_head, (unsigned long long)head,
                (unsigned long long)tail);
    }
    if (m->lost == 0 || r->newest) {
        return;
    }
    const uint64_t ends[2] = {r->next_seq, m->seq - 1};
    struct sf_message again;
    for (int i = 0; i < 2; i++) {
        if (sf_look(ring, ends[i], &again) == 0 && again.seq == ends[i]) {
            violate("%s (seat %u): %llu … %llu were told as lost, and %llu is there",
                    role_of(r->number), r->number, (unsigned long long)ends[0],
                    (unsigned long long)ends[1], (unsigned long long)ends[i]);
        }
    }
    r->gone_seq = ends[1];
    r->gone_head = sf_load_seq(&ring->header->head); /* B: no earlier than the loss was told */
}

static void
judge_order(struct reader *r, const struct sf_message *m, const struct identity *id)
{
    if (r->member) {
        /* The others have what is between; somebody who seeks there is not. */
        memset(r->follow, 0, sizeof r->follow);
        note_team(r->seat, m->seq);
    }
    else if (m->seq != r->next_seq + m->lost + m->skipped || (m->skipped != 0 && !r->newest)) {
        violate("%s (seat %u) stood at %llu and got %llu, with %llu lost and %llu skipped",
                role_of(r->number), r->number, (unsigned long long)r->next_seq,
                (unsigned long long)m->seq, (unsigned long long)m->lost,
                (unsigned long long)m->skipped);
    }
    for (uint32_t i = 0; i < WRITERS && m->lost + m->skipped != 0; i++) {
        r->follow[i].exact = false;
    }
    if (m->lost != 0 && r->lossless && !r->member) {
        violate("%s (seat %u) lost %llu messages before %llu", role_of(r->number), r->number,
                (unsigned long long)m->lost, (unsigned long long)m->seq);
    }
    struct follow *f = &r->follow[id->writer];
    const char *wrong = NULL;
    if (id->incarnation < f->incarnation) {
        wrong = "a message of a dead writer comes after those of its successor";
    }
    else if (id->incarnation == f->incarnation) {
        wrong = id->counter <= f->counter                   ? "out of order or twice"
                : f->exact && id->counter != f->counter + 1 ? "a gap, and nothing told as lost"
                                                            : NULL;
    }
    else if (f->exact && id->counter != 1) {
        wrong = "a gap before it, and nothing told as lost";
    }
    if (wrong) {
        violate("%s (seat %u), seq %llu of writer %u: counter %u of incarnation %u after %u of %u: "
                "%s",
                role_of(r->number), r->number, (unsigned long long)m->seq, id->writer, id->counter,
                id->incarnation, f->counter, f->incarnation, wrong);
    }
    *f = (struct follow){.incarnation = id->incarnation, .counter = id->counter, .exact = true};
    /* Relaxed: a writer's pid is stored before it is forked. */
    if (m->writer_pid != sf_load_relaxed(&board->seats[id->writer].pids[id->incarnation % PIDS])) {
        complain(r, m, id, "it names another process as its writer");
    }
}

static void
tell(struct reader *r, const struct sf_message *m)
{
    struct seat *seat = r->seat;
    /* A seqlock of which the only reader comes after our death; so order within the process is
     * enough, and seq_cst is more than that. */
    sf_store_seq(&seat->version, sf_load_relaxed(&seat->version) + 1);
    count(&seat->read, 1);
    count(&seat->lost, m->lost);
    count(&seat->skipped, m->skipped);
    sf_store_seq(&seat->last_seq, m->seq);
    sf_store_seq(&seat->version, sf_load_relaxed(&seat->version) + 1); /* as above */
    count(&seat->tally.read, 1);
    count(&seat->tally.read_len, m->payload_len);
    count(&seat->tally.lost, m->lost);
    count(&seat->tally.skipped, m->skipped);
    count(&seat->tally.in_lane, m->block_off >= r->topic.att->ring.lay.capacity);
    sf_store_relaxed(&seat->next_seq, r->next_seq); /* for watch_stuck: a moment's lag is fine */
    note_success(seat);
}

/* ---- taking ---- */

/* 1 taken, 0 try again, or a status. */
static int
take(struct reader *r)
{
    struct sf_attachment *att = r->topic.att;
    struct sf_message m;
    struct identity id = {0};
    uint64_t from;
    int status = sf_take_look(att, r->newest, &from, &m);
    if (status == SF_EMPTY) {
        r->next_seq = r->member ? m.seq : r->next_seq;
        return status;
    }
    if (status < 0) {
        violate("%s (seat %u): reading at %llu gives %s", role_of(r->number), r->number,
                (unsigned long long)r->next_seq, sf_status_name(status));
    }
    bool brief = r->copies || draw(&r->random) % 8 == 0;
    bool pinned = m.pinnable && r->mode != SF_MODE_MONITOR && sf_pin(att, &m, brief) == SF_PIN_OK;
    const char *prefix = sf_message_prefix(att, &m);
    const char *payload = sf_message_payload(att, &m);
    if (!pinned || brief) {
        memcpy(r->copy, prefix, m.prefix_len);
        memcpy(r->copy + m.prefix_len, payload, m.payload_len);
        prefix = r->copy;
        payload = r->copy + m.prefix_len;
        if (!pinned && !sf_is_current(&att->ring, &m)) {
            count(&r->seat->tally.repeats, 1);
            return 0;
        }
    }
    const char *wrong = check_payload(payload, m.payload_len, &id);
    wrong = wrong ? wrong : check_description(&m, prefix, &id);
    if (wrong) {
        complain(r, &m, &id, wrong);
    }
    if (!sf_take_commit(att, from, &m)) {
        if (!r->member) {
            violate("%s (seat %u): its cursor was moved by another", role_of(r->number), r->number);
        }
        if (pinned) {
            sf_unpin(att, m.desc);
        }
        count(&r->seat->tally.repeats, 1);
        return 0; /* another member was quicker */
    }
    if (!r->member) {
        judge_loss(r, &m);
    }
    judge_order(r, &m, &id);
    r->next_seq = m.seq + 1;
    note_content(r->seat, m.seq, &id, "read");
    tell(r, &m);
    if (pinned && brief) {
        sf_unpin(att, m.desc);
    }
    else if (pinned) {
        hold(r, &m, &id);
    }
    return 1;
}

static void
join(struct reader *r)
{
    struct seat *seat = r->seat;
    join_topic(&r->topic, seat, r->mode, r->max_held);
    r->next_seq = sf_load_relaxed(r->topic.att->cursor); /* ours alone, or a hint */
    uint64_t nothing = 0;
    if (r->member) { /* the group stands where its first member joined, or was moved on from there */
        (void)sf_cas_relaxed(&board->team_from, &nothing, r->next_seq);
    }
    sf_store_seq(&seat->version, 1); /* as in tell */
    sf_store_seq(&seat->read, 0);
    sf_store_seq(&seat->lost, 0);
    sf_store_seq(&seat->skipped, 0);
    sf_store_seq(&seat->first_seq, r->next_seq); /* as in tell */
    sf_store_seq(&seat->last_seq, r->next_seq - 1);
    sf_store_seq(&seat->version, 2);
    memset(r->follow, 0, sizeof r->follow);
    r->gone_seq = r->gone_head = 0;
}

static void
leave(struct reader *r)
{
    while (r->view_count > 0) {
        let_go(r, r->view_count - 1);
    }
    struct sf_totals totals;
    sf_topic_totals(&r->topic, &totals);
    struct seat *seat = r->seat;
    /* Relaxed: this process's own figures. A monitor has no slot that would tell. */
    if (r->mode != SF_MODE_MONITOR && (totals.read != sf_load_relaxed(&seat->read) ||
                                       totals.lost != sf_load_relaxed(&seat->lost) ||
                                       totals.skipped != sf_load_relaxed(&seat->skipped) ||
                                       totals.held_blocks != 0 || totals.held_len != 0)) {
        violate("%s (seat %u): the topic's own count is %llu read, %llu lost, %llu skipped, %llu "
                "held; the reader's is %llu, %llu, %llu, none",
                role_of(r->number), r->number, (unsigned long long)totals.read,
                (unsigned long long)totals.lost, (unsigned long long)totals.skipped,
                (unsigned long long)totals.held_blocks,
                (unsigned long long)sf_load_relaxed(&seat->read), /* as above */
                (unsigned long long)sf_load_relaxed(&seat->lost),
                (unsigned long long)sf_load_relaxed(&seat->skipped));
    }
    leave_topic(&r->topic, seat);
}

static void
choose_ways(struct reader *r)
{
    const char *role = role_of(r->number);
    r->mode = strcmp(role, "monitor") == 0 ? SF_MODE_MONITOR : SF_MODE_R;
    r->newest = strcmp(role, "latest") == 0;
    r->copies = strcmp(role, "copier") == 0 || r->mode == SF_MODE_MONITOR;
    r->lossless = is_lossless(r->number);
    r->member = is_member(r->number);
    r->naps = strcmp(role, "late-comer") == 0 || strcmp(role, "lossless") == 0;
    r->most_views = strcmp(role, "hoarder") == 0 ? HELD : 8;
    r->max_held = strcmp(role, "hoarder") == 0 ? UINT64_C(1) << 40 : 0;
    r->copy = malloc(board->max_message + SF_MAX_PREFIX);
    if (!r->copy) {
        violate("no memory for a reader's copies");
    }
}

void
be_reader(uint32_t number)
{
    static struct reader r;
    r.number = number;
    r.seat = &board->seats[number];
    uint32_t incarnation = sf_load_relaxed(&r.seat->incarnation); /* stored before the fork */
    r.random = mix(board->seed ^ mix((uint64_t)number << 32 | incarnation));
    choose_ways(&r);
    /* Relaxed: stop is looked at again soon. */
    while (sf_load_relaxed(&board->stop) == 0) {
        join(&r);
        uint64_t rounds = draw_len(&r.random, 16, 200000);
        rounds = is_spared(number) ? UINT64_MAX : rounds;
        for (uint64_t round = 0; round < rounds && sf_load_relaxed(&board->stop) == 0; round++) {
            int status = take(&r);
            if (status == SF_EMPTY) {
                (void)sf_wait_message(r.topic.att, r.next_seq, os_now_ns() + 50 * MS, -1, NULL);
            }
            if (r.naps && draw(&r.random) % 512 == 0) {
                nap(draw_between(&r.random, 0, 20 * MS));
            }
            if (r.view_count > 0 && draw(&r.random) % 256 == 0) {
                let_go(&r, (uint32_t)draw_between(&r.random, 0, r.view_count - 1));
            }
        }
        leave(&r);
    }
    _exit(0);
}

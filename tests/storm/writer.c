/* A writer of the storm: small and large writes, loans that are published, kept or dropped.
 *
 * Owns:      what a writer does, until it is killed or told to leave; its seat's figures.
 * Does not:  wait longer than the board's patience for anything: that is a violation.
 *
 * The loops are those of the C interface (core/capi.c) and of Loan (src/python/loan.c). A counter
 * is used up only by a write that succeeded, so that what one writer wrote is without gaps.
 *
 * A crash here leaves: whatever the core leaves at that instruction. That is what this is for.
 */
#include "storm.h"

#include <string.h>
#include <unistd.h>

enum { KEPT = 4, BATCH = 16 };

struct kept {
    struct sf_message m; /* desc, block_off, prefix_len, payload_len */
    bool is_kept;
};

struct writer {
    uint32_t number;
    struct seat *seat;
    struct sf_topic topic;
    uint64_t random;
    uint32_t incarnation, counter;
    struct kept kept[KEPT];
    char *data;
};

/* ---- loans that were published: this writer's own views ---- */

static void
let_go(struct writer *w, uint32_t at)
{
    struct kept *k = &w->kept[at];
    if (!k->is_kept) {
        return;
    }
    struct identity id;
    const char *wrong =
        check_payload(sf_message_payload(w->topic.att, &k->m), k->m.payload_len, &id);
    if (wrong) {
        violate("writer %u's own loan, published as seq %llu, changed while it kept it: %s",
                w->number, (unsigned long long)k->m.seq, wrong);
    }
    sf_store_seq(&w->seat->held[at], 0); /* before the bit goes: watch_compare */
    sf_unpin(w->topic.att, k->m.desc);
    k->is_kept = false;
    count(&w->seat->tally.views, 1);
}

static void
keep(struct writer *w, const struct sf_claim *claim, const struct sf_out *out, uint64_t seq)
{
    uint32_t at = (uint32_t)draw_between(&w->random, 0, KEPT - 1);
    let_go(w, at);
    w->kept[at] = (struct kept){
        .m = {.desc = claim->desc,
              .seq = seq,
              .block_off = claim->off,
              .block_len = claim->len,
              .prefix_len = sf_prefix_len(out->ndim, out->dtype_len, out->meta_len),
              .payload_len = out->payload_len},
        .is_kept = true,
    };
    sf_store_seq(&w->seat->held[at], claim->desc + 1); /* after the bit: watch_compare */
}

static void
leave(struct writer *w)
{
    for (uint32_t at = 0; at < KEPT; at++) {
        let_go(w, at);
    }
    leave_topic(&w->topic, w->seat);
}

/* ---- one write ---- */

static uint64_t
slice_of(uint64_t until_ns)
{
    uint64_t slice = os_now_ns() + SF_SLICE_NS;
    return slice < until_ns ? slice : until_ns;
}

static void
tell_claim(struct writer *w, const struct sf_claim *claim)
{
    /* Set while the claim surely is ours: watch_compare. */
    sf_store_seq(&w->seat->claim, claim ? claim->desc + 1 : 0);
}

static int
write_large(struct writer *w, const struct identity *id, const struct sf_out *out,
            uint64_t until_ns, uint64_t *seq)
{
    struct sf_claim claim;
    int status =
        sf_send_claim(w->topic.att, sf_out_block_len(out), SF_LANE_IN_TURN, until_ns, &claim);
    if (status < 0) {
        return status;
    }
    tell_claim(w, &claim);
    count(&w->seat->tally.in_lane, claim.in_lane);
    fill_payload(sf_send_payload(w->topic.att, out, &claim), id, 0, id->len);
    tell_claim(w, NULL);
    status = sf_send_publish(w->topic.att, out, &claim, until_ns, seq);
    if (status < 0) {
        sf_send_drop(w->topic.att, &claim);
    }
    return status;
}

/* SF_NO_ROOM: a loan does not wait, write it. SF_CLOSED: it was dropped. */
static int
write_loan(struct writer *w, const struct identity *id, const struct sf_out *out, uint64_t until_ns,
           uint64_t *seq)
{
    struct sf_attachment *att = w->topic.att;
    struct sf_claim claim;
    uint64_t block_len = sf_out_block_len(out);
    int status = sf_loan_fits(att, block_len)
                     ? sf_send_claim(att, block_len, SF_LANE_NEVER, until_ns, &claim)
                     : SF_NO_ROOM;
    if (status < 0) {
        return status;
    }
    sf_loan_begin(att, claim.desc);
    tell_claim(w, &claim);
    char *payload = sf_send_payload(att, out, &claim);
    uint64_t half = id->len / 16 * 8;
    fill_payload(payload, id, 0, half);
    if (draw(&w->random) % 4 == 0) {
        nap(draw_between(&w->random, 0, 3 * MS)); /* a camera fills it */
    }
    fill_payload(payload, id, half, id->len);
    if (draw(&w->random) % 4 == 0) {
        struct identity seen;
        const char *wrong = check_payload(payload, id->len, &seen);
        if (wrong || seen.seed != id->seed) {
            violate("writer %u's open loan was written to by another", w->number);
        }
        tell_claim(w, NULL);
        sf_loan_drop(att, claim.desc);
        count(&w->seat->tally.dropped, 1);
        return SF_CLOSED;
    }
    tell_claim(w, NULL);
    sf_loan_keep(att, claim.desc);
    status = sf_send_publish(att, out, &claim, until_ns, seq);
    if (status < 0) {
        sf_loan_drop(att, claim.desc);
        return status;
    }
    keep(w, &claim, out, *seq);
    count(&w->seat->tally.loans, 1);
    return 0;
}

static int
try_write(struct writer *w, const struct identity *id, const struct sf_out *out, bool loan,
          uint64_t until_ns, uint64_t *seq)
{
    int status = SF_NO_ROOM;
    if (loan) {
        status = write_loan(w, id, out, slice_of(until_ns), seq);
    }
    if (status == SF_NO_ROOM) {
        status = sf_out_block_len(out) <= SF_SMALL_LEN
                     ? sf_send_small(w->topic.att, out, slice_of(until_ns), seq)
                     : write_large(w, id, out, slice_of(until_ns), seq);
    }
    return status;
}

static bool
may_come_again(int status)
{
    return status == SF_BUSY || status == SF_NO_ROOM || status == SF_LAGGING ||
           status == SF_INTERRUPTED;
}

/* Frozen for a while, or not scheduled, it may find a time-out later than it fired. */
static void
judge_failure(struct writer *w, int status, uint64_t since_ns, uint64_t timeout_ns, bool is_short)
{
    uint64_t took = os_now_ns() - since_ns;
    if (!may_come_again(status)) {
        violate("writer %u: a write failed with %s", w->number, sf_status_name(status));
    }
    set_max(&board->longest_overshoot_ns, took > timeout_ns ? took - timeout_ns : 0);
    if (took > timeout_ns + LATE_NS) {
        violate("writer %u: a time-out of %llu ms took %llu ms", w->number,
                (unsigned long long)(timeout_ns / MS), (unsigned long long)(took / MS));
    }
    if (!is_short) {
        violate("writer %u got no message out in %llu ms: %s", w->number,
                (unsigned long long)(took / MS), sf_status_name(status));
    }
    sf_leave_queue(w->topic.att);
    count(&w->seat->tally.refused, 1);
}

static void
note_written(struct writer *w, const struct identity *id, uint64_t seq)
{
    w->counter++;
    note_content(w->seat, seq, id, "written");
    sf_store_release(&w->seat->last_written_seq, seq); /* with watch_dead's acquire */
    count(&w->seat->tally.written, 1);
    count(&w->seat->tally.written_len, id->len);
    note_success(w->seat);
}

static void
write_one(struct writer *w, uint64_t len, bool loan)
{
    struct identity id = identify(w->number, w->incarnation, w->counter + 1, len);
    struct text text;
    struct sf_out out;
    describe(&id, &text, &out);
    fill_payload(w->data, &id, 0, len <= SF_SMALL_LEN ? len : 0);
    out.data = w->data;
    bool is_short = draw(&w->random) % (board->freezing ? 2 : 32) == 0;
    uint64_t timeout_ns = is_short ? 50 * MS : board->patience_ns;
    uint64_t since_ns = os_now_ns(), until_ns = since_ns + timeout_ns, seq = 0;
    uint64_t kill_ns = sf_load_relaxed(&board->kill_ns); /* only ever compared */
    int status;
    do {
        status = try_write(w, &id, &out, loan, until_ns, &seq);
    } while (may_come_again(status) && os_now_ns() < until_ns);
    if (status == SF_CLOSED) {
        return;
    }
    if (status < 0) {
        judge_failure(w, status, since_ns, timeout_ns, is_short);
        return;
    }
    uint64_t now = os_now_ns();
    note_written(w, &id, seq);
    if (kill_ns != 0 && sf_cas_relaxed(&board->kill_ns, &kill_ns, 0)) {
        set_max(&board->longest_recovery_ns, now - kill_ns);
    }
    set_max(&board->longest_write_ns, now - since_ns);
}

/* Several small ones at once: what gets through are the first of them, with numbers in a row. */
static void
write_batch(struct writer *w)
{
    static char data[BATCH][256];
    struct identity ids[BATCH];
    struct text texts[BATCH];
    struct sf_out out[BATCH];
    const struct sf_out *outs[BATCH];
    int most = (int)draw_between(&w->random, 1, BATCH);
    for (int i = 0; i < most; i++) {
        uint64_t len = draw_len(&w->random, 8, sizeof data[i]);
        ids[i] = identify(w->number, w->incarnation, w->counter + 1 + (uint32_t)i, len);
        describe(&ids[i], &texts[i], &out[i]);
        fill_payload(data[i], &ids[i], 0, len);
        out[i].data = data[i];
        outs[i] = &out[i];
    }
    uint64_t since_ns = os_now_ns(), until_ns = since_ns + board->patience_ns, seq = 0;
    int sent;
    do {
        sent = sf_send_batch(w->topic.att, outs, most, slice_of(until_ns), &seq);
    } while (may_come_again(sent) && os_now_ns() < until_ns);
    if (sent < 0) {
        judge_failure(w, sent, since_ns, board->patience_ns, false);
    }
    sf_leave_queue(w->topic.att); /* it may have asked for more room than it waited for */
    for (int i = 0; i < sent; i++) {
        note_written(w, &ids[i], seq - (uint64_t)(sent - 1 - i));
    }
}

/* ---- what it does all day ---- */

static bool
must_leave(void)
{
    return sf_load_relaxed(&board->stop) != 0; /* looked at again soon */
}

static void
write_some(struct writer *w)
{
    uint64_t max = board->max_message, mood = draw(&w->random) % 8;
    uint64_t rounds = draw_between(&w->random, 1, mood < 4 ? 400 : 12);
    for (uint64_t round = 0; round < rounds && !must_leave(); round++) {
        if (mood == 0) {
            write_batch(w);
        }
        else if (mood < 2) {
            write_one(w, draw_len(&w->random, 8, 256), false);
        }
        else if (mood < 4) {
            write_one(w, draw_len(&w->random, 8, 8192 < max ? 8192 : max), false);
        }
        else if (mood < 5) {
            write_one(w, draw_len(&w->random, 8, max), false);
        }
        else if (mood < 7) {
            write_one(w, draw_len(&w->random, 64, max), true);
        }
        else {
            write_one(w, draw_len(&w->random, 8, 4096), draw(&w->random) % 4 == 0);
            nap(draw_between(&w->random, 0, MS)); /* so that readers can keep up at times */
        }
    }
    let_go(w, (uint32_t)draw_between(&w->random, 0, KEPT - 1));
}

void
be_writer(uint32_t number)
{
    static char data[SF_SMALL_LEN];
    struct writer w = {.number = number, .seat = &board->seats[number], .data = data};
    w.incarnation = sf_load_relaxed(&w.seat->incarnation); /* stored before the fork */
    w.random = mix(board->seed ^ mix((uint64_t)number << 32 | w.incarnation));
    while (!must_leave()) {
        /* Longest: a quarter of main, or of the least that a participant may hold. */
        join_topic(&w.topic, w.seat, SF_MODE_W, 0);
        uint64_t batches = draw_between(&w.random, 4, 400);
        for (uint64_t batch = 0; batch < batches && !must_leave(); batch++) {
            write_some(&w);
        }
        leave(&w);
    }
    _exit(0);
}

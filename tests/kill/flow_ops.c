/* Operations on messages: writing, loans, room, reading, holding, mending.
 *
 * Owns:      how each is set up and done, by the calls that Python and C make.
 * Does not:  say what must be true if it is cut short (check.c).
 *
 * Invariants
 *   1  An act is the same each time, so that its points can be counted through.
 * A crash here is the purpose.
 */
#include "kill.h"

/* ---- writing ---- */

static int
write_huge(struct scene *s)
{
    return put(s, &s->self, HUGE, long_enough());
}

static int
write_both(struct scene *s)
{
    int status = write_small(s);
    return status < 0 ? status : write_large(s);
}

/* More than half of main: the ring flows around what the reader holds. */
static int
write_around(struct scene *s)
{
    int status = 0;
    for (int i = 0; status == 0 && i < 8; i++) {
        status = i == 4 ? write_huge(s) : write_large(s);
    }
    return status;
}

/* ---- the lane, when all of main is held and a survivor is writing in it ---- */

static void
fill_the_lane(struct scene *s)
{
    s->filler.author = SURVIVOR;
    int status = sf_attach(s->path, SF_AS_WRITER, &s->filler.att);
    MUST(status == 0, "%s", sf_status_text(status));
    s->living++;
    struct sf_attachment *att = s->filler.att;
    status =
        sf_send_claim(att, att->ring.lay.lane_len, SF_LANE_NOW, long_enough(), &s->filler.claim);
    MUST(status == 0 && s->filler.claim.in_lane, "%s", sf_status_text(status));
    s->filler.has_claim = true;
    s->filler.serial = 1000;
    fill_claim(&s->filler, att->arena_rw + s->filler.claim.off, HUGE);
}

static void
free_the_lane(struct scene *s)
{
    uint64_t until_ns = long_enough();
    while (s->filler.has_claim) {
        int status = publish_claim(s, &s->filler, HUGE, os_now_ns() + MS);
        MUST(status == 0 || (status == SF_BUSY && os_now_ns() < until_ns), "%s",
             sf_status_text(status));
    }
}

static void
free_the_lane_for_a_sleeper(struct scene *s)
{
    struct sf_header *h = s->writer.att->ring.header;
    while (!victim_is_gone()) {
        /* Seq_cst: H with the victim's listening. */
        if (sf_load_seq(&h->turn) != 0 && sf_load_seq(&h->room.sleepers) != 0) {
            free_the_lane(s);
            return;
        }
        (void)os_sleep_until(os_now_ns() + MS / 20);
    }
}

static int
give_up_waiting(struct scene *s)
{
    int status = put(s, &s->self, LARGE, os_now_ns() + 2 * MS);
    sf_leave_queue(s->self.att);
    return status == SF_NO_ROOM ? 0 : status == 0 ? SF_BAD_VALUE : status;
}

/* ---- loans ---- */

static int
begin_loan(struct scene *s)
{
    struct party *self = &s->self;
    if (!sf_loan_fits(self->att, LARGE)) {
        return SF_NO_ROOM;
    }
    int status = sf_send_claim(self->att, LARGE, SF_LANE_NEVER, long_enough(), &self->claim);
    if (status == 0) {
        sf_loan_begin(self->att, self->claim.desc);
        self->has_claim = true;
    }
    return status;
}

static int
have_loan(struct scene *s)
{
    int status = attach_self(s, SF_AS_WRITER);
    status = status < 0 ? status : begin_loan(s);
    if (status == 0) {
        fill_claim(&s->self, s->self.att->arena_rw + s->self.claim.off, LARGE);
    }
    return status;
}

static int
publish_loan(struct scene *s)
{
    uint32_t desc = s->self.claim.desc;
    sf_loan_keep(s->self.att, desc);
    int status = publish_claim(s, &s->self, LARGE, long_enough());
    if (status == 0) {
        sf_unpin(s->self.att, desc);
    }
    return status;
}

static int
discard_loan(struct scene *s)
{
    s->self.has_claim = false;
    sf_loan_drop(s->self.att, s->self.claim.desc);
    return 0;
}

static int
loan_and_discard(struct scene *s)
{
    int status = begin_loan(s);
    return status < 0 ? status : discard_loan(s);
}

/* ---- reading ---- */

static int
read_copy(struct scene *s)
{
    int got = take(s, &s->self, false);
    return got == 1 ? 0 : got;
}

static int
read_and_hold(struct scene *s)
{
    int got = take(s, &s->self, true);
    return got < 0 ? got : s->self.held_count == 1 ? 0 : SF_BAD_MESSAGE;
}

static int
hold_one(struct scene *s)
{
    int status = be_reader(s);
    return status < 0 ? status : read_and_hold(s);
}

static int
let_go_of_it(struct scene *s)
{
    check_held(&s->self, "the victim");
    let_go(&s->self);
    return 0;
}

/* As a large copy does it: pinned for as long as it takes. */
static int
copy_under_a_pin(struct scene *s)
{
    struct sf_message m;
    uint64_t from, words[3];
    int status = sf_take_look(s->self.att, false, &from, &m);
    if (status < 0 || sf_pin(s->self.att, &m, true) != SF_PIN_OK) {
        return status < 0 ? status : SF_RACE;
    }
    const uint64_t *data = (const void *)sf_message_payload(s->self.att, &m);
    words[2] = data[2];
    sf_unpin(s->self.att, m.desc);
    return sf_take_commit(s->self.att, from, &m) && words[2] == LARGE ? 0 : SF_RACE;
}

/* ---- mending ---- */

/* Tables are broken while nobody holds the lock: whoever claims finds out. */
static void
break_links(struct scene *s)
{
    struct sf_ring *ring = &s->writer.att->ring;
    /* Relaxed: nobody else is there. */
    uint32_t first = sf_load_relaxed(&ring->header->first[0]);
    sf_store_relaxed(&ring->links[first].next, 0x7ffffff0);
    sf_store_relaxed(&ring->header->cursor[0], 0x7ffffff1);
}

static void
break_tail(struct scene *s)
{
    struct sf_header *h = s->writer.att->ring.header;
    sf_store_relaxed(&h->tail, sf_load_relaxed(&h->head) + 5); /* nobody else is there */
}

/* Between the two stores of a publish that others see. */
static bool
is_half_published(struct scene *s)
{
    struct sf_ring *ring = &s->self.att->ring;
    /* Relaxed: the helper's own stores. */
    uint64_t next = sf_load_relaxed(&ring->header->head) + 1;
    uint32_t desc = sf_load_relaxed(&ring->index[next & (ring->lay.index_len - 1)]);
    return desc < ring->lay.desc_len && sf_load_relaxed(&ring->descs[desc].seq) == next;
}

static void
somebody_dies_publishing(struct scene *s)
{
    helper_dies(s, write_large, is_half_published);
}

static int
write_impatiently(struct scene *s)
{
    uint64_t until_ns = long_enough();
    int status;
    do {
        status = put(s, &s->self, LARGE, os_now_ns() + MS);
    } while (status == SF_BUSY && os_now_ns() < until_ns);
    return status;
}

static bool
has_the_lock(struct scene *s)
{
    struct sf_attachment *att = s->self.att;
    return (sf_load_relaxed(&att->ring.header->lock) & ~SF_WAITERS) == att->owner; /* its own */
}

static void
somebody_dies_with_the_lock(struct scene *s)
{
    helper_dies(s, write_large, has_the_lock);
}

/* A write whose copy is done when it finds that the lock's holder has died. */
static int
have_claim(struct scene *s)
{
    struct party *self = &s->self;
    int status = attach_self(s, SF_AS_WRITER);
    if (status == 0) {
        status = sf_send_claim(self->att, LARGE, SF_LANE_IN_TURN, long_enough(), &self->claim);
    }
    if (status == 0) {
        self->has_claim = true;
        fill_claim(self, self->att->arena_rw + self->claim.off, LARGE);
    }
    return status;
}

static int
publish_impatiently(struct scene *s)
{
    uint64_t until_ns = long_enough();
    int status;
    do {
        status = publish_claim(s, &s->self, LARGE, os_now_ns() + MS);
    } while (status == SF_BUSY && os_now_ns() < until_ns);
    return status;
}

static int
attach_and_write(struct scene *s)
{
    int status = attach_self(s, SF_AS_WRITER);
    return status < 0 ? status : write_impatiently(s);
}

#define CAN_READ_AND_STOP (READS | CAN_STOP)

const struct op flow_ops[] = {
    {"mend broken links", 0, 1, .act = write_small, .stage = break_links},
    {"mend a broken tail", 0, 1, .act = write_small, .stage = break_tail},
    {"steal the lock", 0, 1, .act = write_impatiently, .between = somebody_dies_publishing},
    {"steal the lock to publish", 0, 1, .act = publish_impatiently, .ready = have_claim,
     .between = somebody_dies_with_the_lock},
    {"attach and steal the lock", 0, 1, .act = attach_and_write, .ready = come_alone,
     .stage = somebody_dies_publishing},
    {"write small", CAN_STOP, 1, .act = write_small},
    {"write large", CAN_STOP, 1, .act = write_large},
    {"write huge", CAN_STOP, 1, .act = write_huge},
    {"write at the depth", DEPTH | CAN_STOP, 2, .act = write_both},
    {"write around held frames", CAN_STOP, 8, .act = write_around},
    {"write into the lane", MAIN_HELD | CAN_STOP, 1, .act = write_large},
    {"wait for the lane", MAIN_HELD, 1, .act = write_large, .stage = fill_the_lane,
     .meanwhile = free_the_lane_for_a_sleeper, .afterwards = free_the_lane},
    {"give up waiting for the lane", MAIN_HELD, 1, .act = give_up_waiting, .stage = fill_the_lane,
     .afterwards = free_the_lane},
    {"begin a loan", CAN_STOP, 1, .act = loan_and_discard},
    {"publish a loan", CAN_STOP, 1, .act = publish_loan, .ready = have_loan},
    {"discard a loan", CAN_STOP, 1, .act = discard_loan, .ready = have_loan},
    {"read a copy", CAN_READ_AND_STOP, 0, .act = read_copy, .ready = be_reader},
    {"read and hold", CAN_READ_AND_STOP, 0, .act = read_and_hold, .ready = be_reader},
    {"let go", CAN_READ_AND_STOP, 0, .act = let_go_of_it, .ready = hold_one},
    {"copy under a pin", CAN_READ_AND_STOP, 0, .act = copy_under_a_pin, .ready = be_reader},
    {.name = NULL},
};

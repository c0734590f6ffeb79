/*
 * waking.pml: no due work is slept through.
 *
 * A model of the few variables that decide whether a row that is due is looked at:
 * "armed", "posted", "poked" and the latch (wakeup.c), the positions up to which
 * the worker has read (worker.c, lanes.c), a slot with its mailbox (pool.c,
 * mailbox.c), and what signals and locks do to the latch.  Spin goes through all
 * interleavings; in each state in which nothing can happen any more, nothing may be
 * due, and no signal unheard.
 *
 * Times are numbers: a row's number is when it is due, and who it is.
 *
 *	1	in the worker's own lane.  Looking after it makes row 5 due (a retry)
 *	2	in the lane of a role.  When it is done, it becomes due again, once
 *	3	in the same lane
 *	5	in the worker's own lane, and later than now, which is 4 until the clock ticks
 *
 * Memory: a plain store stays in the buffer of its process for any time, until the
 * process passes a barrier; other processes do not see it until then.
 *
 * Two parts are gone through, each by itself: OWN, rows 1 and 5, with a backend, the
 * clock, signals and memory; and LANE, rows 2 and 3, with executors.  What OWN
 * proves of posting and sleeping, step by step, LANE takes for one step each.
 *
 * Each of these leaves out a step, and then Spin finds a run in which something due
 * is slept through.  run.sh tries them all.
 *
 *	OWN NO_W3	the worker's barrier between taking what was posted and looking
 *	OWN NO_W6	the worker's barrier between arming and reading what was posted
 *	OWN NO_B4	the backend's barrier between posting and reading what is armed
 *	OWN NO_W7	reading what was posted before sleeping
 *	OWN NO_B5	setting the latch
 *	OWN LATE_RESET	the latch is reset before sleeping, not before the look
 *	LANE NO_BACK	going back to what was posted
 *	LANE NO_POKED	only the latch says that an executor has something to tell
 *	OWN NO_RELOAD	a signal is asked for by the latch only
 *	OWN TWICE	the rooms of a turn are gone through twice, and the second time counts
 *	LANE BY_SLOT	that an executor left is seen from its slot, which may be taken again
 *	LANE NO_GIVE_BACK	what was passed by is not given back
 *	LANE LATE_LOOK	what was passed by is forgotten after the commit, not before it
 */

#define INF		9
#define MAX_LEAVES	1

byte now = 4;
bool due[6];				/* committed, and visible to whoever looks from now on */

byte armed = 0;				/* 0: the worker looks */
byte posted = INF;
bool poked;
bool latch;
bool reload;				/* SIGHUP came */

/* store buffers: of the worker's "armed", and of each backend's post */
byte armed_buffer;
bool armed_buffered;
bool post_buffered;			/* of row 1 */

/* one slot */
bool taken;
byte generation;
bool mail2, mail3;
byte hand;					/* 0, or the row */
bool passed_by;
bool given_back;
bool gone;
byte leaves;

bool reopened;

#define MIN(a, b)	((a) < (b) -> (a) : (b))

inline flush_armed() {
	d_step { if :: armed_buffered -> armed = armed_buffer; armed_buffered = false :: else fi }
}
inline store_armed(value) {
	d_step { armed_buffer = value; armed_buffered = true }
}
inline flush_post() {
	d_step { if :: post_buffered -> posted = MIN(posted, 1); post_buffered = false :: else fi }
}

/* The memory makes stores visible when it likes to. */
#ifdef OWN
active proctype memory() {
end:
	do
	:: armed_buffered -> flush_armed()
	:: post_buffered -> flush_post()
	od
}
#endif

/* wakeup.c, the right column; the commit is whoever calls this */
inline post(k) {
#ifdef LANE
	d_step { posted = MIN(posted, k); if :: armed > k -> latch = true :: else fi }
#else
	post_buffered = true;					/* B3 */
#ifndef NO_B4
	flush_post();							/* B4 */
#endif
#ifndef NO_B5
	if										/* B5 */
	:: armed > k -> latch = true
	:: else
	fi
#endif
#endif
}

inline poke() {
#ifndef NO_POKED
	poked = true;
#endif
	latch = true
}

proctype backend(byte k) {
	due[k] = true;							/* B1 */
	post(k)
}

/* Somebody opens again what was done. */
proctype reopener() {
	reopened && !due[2];
	due[2] = true;
	post(2)
}

proctype signal() {
	atomic { reload = true; latch = true }
}

proctype clock() {
	now = 5
}

/*
 * The processes that have the slot, one after the other.  Each may be terminated at
 * any moment; what it had in hand and in its mailbox is still due.
 */
#ifdef LANE
active proctype executor() {
	byte row;
	bool gives;

end:
	do
	:: atomic { taken && hand == 0 && (mail2 || mail3) ->
			if
			:: mail2 -> mail2 = false; hand = 2
			:: !mail2 -> mail3 = false; hand = 3
			fi;
			row = hand }
		passed_by = false;					/* saga_mailbox_look() */
		if
		:: !due[row]
		:: due[row] ->
#ifndef LATE_LOOK
			passed_by = false;
#endif
			if
			:: d_step { due[row] = false; if :: row == 2 -> reopened = true :: else fi }
#ifdef LATE_LOOK
				passed_by = false
#endif
			:: leaves < MAX_LEAVES -> goto leave
			fi
		fi;
		d_step { hand = 0; gives = passed_by; passed_by = false;
#ifndef NO_GIVE_BACK
			given_back = given_back || gives
#endif
		}
		if :: gives -> poke() :: else fi
	:: taken && hand == 0 && leaves < MAX_LEAVES ->
leave:	skip;
		d_step { leaves++; taken = false; hand = 0; mail2 = false; mail3 = false; passed_by = false; gone = true }
		poke()
	od
}
#endif

byte own_position, lane_position;

/* One look of the worker at its own lane. */
inline own_lane(result) {
	result = INF;
	d_step {
		if
		:: due[1] && own_position < 1 -> found = 1
		:: else -> if :: due[5] && own_position < 5 -> found = 5 :: else -> found = 0 fi
		fi
	}
	if
	:: found == 0
	:: found > now -> result = found
	:: found != 0 && found <= now ->
		own_position = found;
		if
		:: found == 1 ->
			d_step { due[1] = false; due[5] = true };
			d_step { posted = MIN(posted, 5) }		/* its own commit's post */
			/* the same look goes on, with its old snapshot */
		:: found == 5 -> due[5] = false
		fi
	fi
}

/* A row of the role's lane, if it was found: is it passed by, or handed out? */
inline hand_out(row, mail) {
	in_hand = hand == row || mail;
	ok = false;
	if
	:: in_hand ->
		d_step { if :: hand == row -> passed_by = true; ok = true :: else -> ok = mail fi }
	:: else
	fi;
	if
	:: ok -> lane_position = row
	:: else ->
#ifndef BY_SLOT
		if :: gone -> lane_next = 0; goto lane_done :: else fi;
#endif
		if
#ifdef BY_SLOT
		:: !taken -> d_step { taken = true; generation++; known = generation }
#else
		:: !taken -> taken = true
#endif
		:: else
		fi;
		d_step { if :: taken -> mail = true; lane_position = row :: else -> lane_next = 0 fi }
	fi
}

active proctype worker() {
	byte old, next, when, room, found, lane_next, known, pauses;
	bool in_hand, ok, found2, found3;

	atomic {
#ifdef OWN
		run backend(1); run signal(); run clock()
#else
		run backend(2); run backend(3); run reopener()
#endif
	}

loop:
	reload = false;							/* handle_interrupts() */

#ifdef LANE
	d_step {
		armed = 0; poked = false; old = posted; posted = INF; latch = false;
#ifndef NO_BACK
		if :: old <= lane_position -> lane_position = old - 1 :: else fi;
#endif
		old = 0
	}
#else
	store_armed(0);							/* W1 */
	poked = false;
#ifndef NO_W3
	d_step { old = posted; posted = INF }	/* W2 */
	flush_armed();							/* W3 */
#else
	old = posted;
#endif
#ifndef LATE_RESET
	latch = false;
#endif
	d_step { if :: old <= own_position -> own_position = old - 1 :: else fi }
#endif

#ifdef LANE
	/* saga_pool_tend() */
	d_step {
#ifdef BY_SLOT
		if
		:: known != 0 && (known != generation || !taken) -> lane_position = 0; known = 0
		:: else
		fi
#else
		if :: gone -> gone = false; lane_position = 0 :: else fi
#endif
	}
#endif

	next = INF;
#ifdef OWN
	own_lane(room);							/* W4 */
#ifdef NO_W3
	posted = INF;
#endif
#ifdef TWICE
	if
	:: next < room
	:: else -> own_lane(room); next = room
	fi;
#else
	next = MIN(next, room);
#endif

#endif
	/* it waits for the lock of NOTIFY */
	if
	:: latch = false
	:: true
	fi;

#ifdef OWN
	/* another room, which has a pause that is over in a moment, or none */
	if
	:: pauses < 1 -> room = 4; pauses++
	:: room = INF
	fi;
#ifdef TWICE
	if
	:: next < room
	:: else -> next = INF					/* the pause is over when it is asked again */
	fi;
#else
	next = MIN(next, room);
#endif
#else
	/* saga_lanes_turn() */
	lane_next = INF;
	d_step { if :: given_back -> given_back = false; lane_position = 0 :: else fi }
	d_step {
		found2 = due[2] && lane_position < 2;
		found3 = due[3] && lane_position < 3
	}
	if :: found2 -> hand_out(2, mail2) :: else fi;
	if :: found3 && lane_next == INF -> hand_out(3, mail3) :: else fi;
lane_done:
	next = MIN(next, lane_next);
#endif
#ifdef LANE
	d_step {
		armed = next;
		if
		:: poked -> when = 0
		:: else -> when = MIN(next, posted); armed = when
		fi
	}
#else
	store_armed(next);						/* W5 */
#ifndef NO_W6
	flush_armed();							/* W6 */
#endif
	if										/* W7 */
	:: poked -> when = 0
	:: else ->
#ifndef NO_W7
		old = posted;
		if
		:: old < next -> store_armed(old); when = old
		:: else -> when = next
		fi
#else
		when = next
#endif
	fi;
#endif
	/* not to be told apart from now on */
	d_step { old = 0; next = 0; room = 0; found = 0; lane_next = 0; in_hand = false; ok = false; found2 = false; found3 = false }
	if
	:: when <= now -> goto loop
	:: else
	fi;
#ifndef NO_RELOAD
	if :: reload -> goto loop :: else fi;
#endif
#ifdef LATE_RESET
	latch = false;
#endif
end:
	if
	:: latch
	:: when <= now
	fi;
	goto loop
}

/* Nothing can happen any more. */
active proctype verdict() {
end:
	timeout ->
	assert(!reload);
	assert(!due[1] && !due[2] && !due[3] && !due[5])
}

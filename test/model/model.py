"""The contract of a saga, to be executed: one saga, its steps, and every call on it.

There is no database here, no clock but `now`, and nothing asynchronous.  Whoever
called something calls work() next, which does all that saga's processes would do
until nothing is due.  Then observe() is what the views must show.

What is said here was written from the contract and the reference, not from the
code; sentences between quotation marks are theirs.  Where both are silent, a
comment begins with “Ours:”, and says what we decided.

Time is a whole number of hours.  A refusal raises Refused with its SQLSTATE.
"""

NOTHING = float("inf")      # a target behind which there is nothing to undo

UNDER_WAY = ("registered", "pending", "dispatched")


class Refused(Exception):
    """A call that does not fit."""

    def __init__(self, sqlstate, why):
        super().__init__(f"{sqlstate}: {why}")
        self.sqlstate = sqlstate


class Policy:
    """“`backoff`: constant, linear (delay·n), exponential (delay·2^(n−1)), capped by max_delay”."""

    def __init__(self, max_attempts=5, delay=1, backoff="constant", max_delay=4, timeout=3):
        self.max_attempts = max_attempts
        self.delay = delay
        self.backoff = backoff
        self.max_delay = max_delay
        self.timeout = timeout      # 0: no limit

    def pause(self, n):
        grown = {"constant": self.delay, "linear": self.delay * n,
                 "exponential": self.delay * 2 ** (n - 1)}[self.backoff]
        return min(grown, self.max_delay)


class Step:
    """One run of a step."""

    def __init__(self, key, run, position, now, undo, review, kind, compensate_on, args, plan, retry,
                 compensation_retry):
        self.key = key
        self.run = run
        self.position = position            # “1, 2, 3 … by start order”
        self.undo = undo                    # 'sql', 'notify', 'announce' (not acknowledged) or None
        self.by_listener = "announce" if undo == "announce" else "notify"
        self.review = review                # words for a person, or None
        self.kind = kind
        self.compensate_on = compensate_on
        self.args = args
        self.plan = plan                    # what its SQL does, attempt by attempt; then it succeeds
        self.retry = retry
        self.compensation_retry = compensation_retry
        # forward
        self.status = "started"
        self.attempt = 1
        self.attempt_in = None              # the transaction that made it
        self.forward = []                   # outcomes of the attempts before the one under way
        self.output = None
        self.error = None
        self.retry_at = None
        # compensation
        self.compensation = "registered" if undo or review else "none"
        self.attempts = []                  # outcomes
        self.charged = self.deferrals = 0   # by which it is given up
        self.next_at = None
        self.next_order = self.lease_order = 0      # when these times were set, among what is of the same hour
        self.released = False               # a person released it
        self.let_go = False                 # somebody's call came to it, and an executor has it
        self.asked = False                  # a person must decide about it ...
        self.late = False                   # ... because its result came too late
        self.announced = False              # it was dispatched at least once
        self.claimed_at = self.lease_until = self.consumer = None
        self.acknowledged = None            # what the listener reported
        self.rolled_back = False            # it “counts no longer”
        self.redacted = False
        self.kept_output = None             # what its hash is of, once it was redacted

    def passed_over(self):
        """“`retriable`: … never undone”; “`completed`: undone only if it completed”."""
        return (self.compensation in UNDER_WAY and
                (self.kind == "retriable" or
                 self.compensate_on == "completed" and self.status != "completed"))


class Saga:
    def __init__(self, now, input=None, timeout=0, on_compensation_failure="halt", subject=None):
        """“`timeout` sets the deadline ('0': none)”."""
        self.now = now
        self.input = input
        self.subject = subject
        self.deadline = now + timeout if timeout else None
        self.orders = self.deadline_order = 0
        self.on_compensation_failure = on_compensation_failure
        self.state = "running"
        self.paused = False
        self.failure_kind = self.reason = self.failed_step = None
        self.result = None
        self.steps = []                     # by start order
        self.target = None                  # what is undone: what started after this position; 0: all
        self.behind_pivot = False           # it failed after its pivot had completed
        self.redacted = False
        self.effects = []                   # of SQL compensations, in order: what a witness saw
        self.events = [("begun", None)]
        self.transaction = 0

    def order(self):
        """Of two times in the same hour, the one that was set first comes first."""
        self.orders += 1
        return self.orders

    # ------------------------------------------------------------ what it has

    def newest(self, key):
        """“`step` is the step's key and means its newest run”."""
        return next((s for s in reversed(self.steps) if s.key == key), None)

    def need(self, key, run=None):
        """“a `forward_key`, if given, must be that run's (else SG002)”."""
        step = self.newest(key)
        if step is None:
            raise Refused("SG004", "no such step")
        if run is not None and run != step.run:
            raise Refused("SG002", "the forward key of another run")
        return step

    def pivot(self):
        return next((s for s in self.steps
                     if s.kind == "pivot" and s.status == "completed" and not s.rolled_back), None)

    def held(self):
        return [s for s in self.steps if s.claimed_at is not None]

    def first_held(self):
        """“Compensations of one saga run one after another”: where a late result opened one again, or a failure
        made a partial undo a full one, while a listener held another, that one is awaited."""
        return min(self.held(), key=lambda s: s.lease_until, default=None)

    def in_range(self, step):
        """Is the step part of the undo?  One run that was rolled back is again, and it alone,
        when its late result is asked about, or a person decided to undo it."""
        if step.rolled_back:
            return step.asked or step.compensation in ("pending", "dispatched")
        return step.position > self.target

    def event(self, what, step=None):
        self.events.append((what, step and step.key))

    # ------------------------------------------------------------ forward

    def begin(self, input, subject=None):
        """“The same key with another `input` is an error (SG003)”, in every state; “the same key with another
        subject is SG003”."""
        if input != self.input:
            raise Refused("SG003", "another input")
        # “The subject is forgotten, and not compared any more.”
        if subject != self.subject and not self.redacted:
            raise Refused("SG003", "another subject")

    def step(self, key, undo=None, review=None, kind="compensatable", compensate_on="started", args=None,
             plan=(), output=None, completed=False, retry=None, compensation_retry=None):
        """“Records that a step starts, before its effect.”"""
        completed = completed or output is not None
        known = self.newest(key)
        if self.state == "completed":
            # “on a completed saga step and complete_step of a known key give the stored answer and
            # a new key is SG002”.  Ours: a run that was rolled back is not known any more.
            if known is None or known.rolled_back:
                raise Refused("SG002", "a completed saga takes no new step")
        elif self.state != "running":
            # “on a failing, compensated or abandoned one SG005”
            raise Refused("SG005", "the undo has begun")
        if known is None or known.rolled_back:
            # “a step key started afresh after it was rolled back is a new run of it”
            step = Step(key, known.run + 1 if known else 1, len(self.steps) + 1, self.now, undo, review, kind,
                        compensate_on, args, plan, retry or Policy(), compensation_retry or Policy())
            step.attempt_in = self.transaction
            self.steps.append(step)
            self.event("step started", step)
            new = True
        else:
            new = False
            step = known
            # “The same key with other args is an error (SG003) … How it is undone … is recorded once and
            # stays in force”
            if args != step.args:
                raise Refused("SG003", "other args")
            # “completed with its output (skip the work, use the output)”
            if step.status == "completed" or self.state == "completed":
                return self.answer(step)
            # “or started/failed with attempt one higher …; within the transaction that made the
            # attempt, the same attempt again”
            # Ours: what failed is over, in that transaction, too: the next attempt is another.
            if step.status == "failed" or step.attempt_in != self.transaction:
                if step.status == "started":
                    step.forward.append("interrupted")
                    self.event("step interrupted", step)
                step.attempt += 1
                step.attempt_in = self.transaction
            step.status = "started"
            step.retry_at = None
        if completed:
            # “recorded as completed in the same write”
            step.status = "completed"
            step.output = output
            self.event("step completed", step)
        return self.answer(step, known=not new)

    @staticmethod
    def answer(step, known=True):
        """“`known` in the answer says that the step was recorded before this call.”"""
        return (step.status, step.attempt, step.output, step.retry_at, known, step.run)

    def complete_step(self, key, output=None, late="error", run=None):
        """“Records that a step completed, with its output.”"""
        begun = self.state not in ("running", "completed")
        if begun and late == "error":
            raise Refused("SG005", "the undo has begun")
        step = self.need(key, run)
        if step.rolled_back and self.state == "running":
            # Ours: of a run that was rolled back the undo has begun, whatever the saga does since.
            begun = True
            if late == "error":
                raise Refused("SG005", "the undo of that run has begun")
        if step.status == "completed":
            # “SG003, it completed with another output”.  Ours: no output agrees with any.
            # “keys keep their hash”, outputs, too
            kept = step.kept_output if step.output is None else step.output
            if output is not None and output != kept:
                raise Refused("SG003", "completed with another output")
            return self.answer(step)
        if self.state == "completed":
            # “SG002, … or the saga is completed”
            raise Refused("SG002", "a completed saga takes no more results")
        if begun:
            return self.take_late(step, output)
        if step.status == "failed":
            # “SG002, the step is failed (call saga.step again first)”
            raise Refused("SG002", "a failed attempt cannot be completed")
        step.status = "completed"
        step.output = output
        self.event("step completed", step)
        return self.answer(step)

    def take_late(self, step, output):
        """“while no attempt of the step's compensation was ever made, the compensation gets the output;
        otherwise, and where the step was already passed by, the saga is parked with both facts”."""
        if step.status == "failed":
            # the attempt that was given up is followed by one that succeeded
            step.attempt += 1
        step.status = "completed"
        step.output = output
        step.retry_at = None
        self.event("step completed", step)
        self.event("late result", step)
        # “A step that has nothing to undo just takes it”, “retriable: … never undone”.
        if step.compensation != "none" and step.kind != "retriable" and (
                step.attempts or step.claimed_at is not None or step.compensation not in UNDER_WAY or
                self.state == "abandoned"):
            step.asked = step.late = True
            # Ours: an abandoned saga stays so.
            if self.state != "abandoned":
                if self.state == "running":
                    # “nothing else is undone, and behind the decision it is running again”
                    self.target = NOTHING
                self.withdraw()
                self.state = "needs_review"
                self.event("parked", step)
        return self.answer(step)

    def fail_step(self, key, error, retryable=True, run=None):
        """“records a failed attempt and answers `retry_at` from the step's forward policy, or NULL there
        once attempts are exhausted or the error is not retryable”."""
        step = self.need(key, run)
        if self.state not in ("running", "completed") or step.rolled_back:
            # “A late fail_step changes nothing and says so.”
            return self.answer(step)
        if step.status == "completed":
            raise Refused("SG002", "a completed step cannot fail")
        if step.status == "started":
            step.status = "failed"
            step.error = error
            step.forward.append("failed")
            if retryable and step.attempt < step.retry.max_attempts:
                step.retry_at = self.now + step.retry.pause(step.attempt)
            self.event("step failed", step)
        # “Of a step that failed already: what was answered then.”
        return self.answer(step)

    def complete(self, result=None, ignore_failed=False):
        """“refuses (SG002) while a step is `started`, or `failed` with a compensation (unless
        `ignore_failed`)”; “complete on a completed one” answers the same."""
        if self.state == "completed":
            return self.state
        if self.state != "running":
            raise Refused("SG002", "not running")
        for step in self.steps:
            if step.rolled_back:
                continue
            if step.status == "started" or \
                    step.status == "failed" and step.compensation != "none" and not ignore_failed:
                raise Refused("SG002", "a step is open")
        self.state = "completed"
        # “What is finished is not paused any more.”
        self.paused = False
        self.result = result
        self.event("completed")
        return self.state

    # ------------------------------------------------------------ failing

    def fail(self, kind="failed", reason=None):
        """“`fail` or `cancel` on a saga already failing in full, or in needs_review or compensated”
        answers the same; “During a partial undo fail, cancel or the deadline turns it into a full one”."""
        if self.state in ("completed", "abandoned"):
            raise Refused("SG002", "a finished saga cannot fail")
        if self.failure_kind is not None:
            return self.state
        self.failure_kind = kind
        self.reason = reason
        # Ours: the step at which it failed is the last that failed, else the last that is open.
        live = [s for s in reversed(self.steps) if not s.rolled_back]
        self.failed_step = next((s for s in live if s.status == "failed"), None) or \
            next((s for s in live if s.status == "started"), None)
        self.event("failing", self.failed_step)
        if self.pivot():
            # “once it completed, a terminal failure parks the saga instead of undoing”
            # Ours: what a person was asked about a late result stays asked.
            self.withdraw()
            self.target = None
            self.behind_pivot = True
            self.state = "needs_review"
            self.event("parked", self.pivot())
            return self.state
        self.target = 0
        # Ours: a person who was asked before still is, unless the undo goes on without that.
        return self.start_undo(goes_on=self.on_compensation_failure == "continue")

    def start_undo(self, goes_on=True):
        if any(self.in_range(s) and self.look(s) not in ("settled", "passed") for s in self.steps):
            self.event("undo started")
        if goes_on or self.state != "needs_review":
            self.advance()
        return self.state

    # ------------------------------------------------------------ the walk

    def look(self, step):
        """What the walk finds at a step."""
        if step.late:
            return "person"
        if step.compensation in ("none", "compensated", "skipped"):
            return "settled"
        if step.compensation == "failed":
            # “'continue' records it and goes on”
            return "settled" if self.on_compensation_failure == "continue" else "person"
        if step.passed_over():
            return "passed"
        if step.review is not None and not step.released:
            return "person"
        return step.undo

    def next_task(self):
        """The reverse walk: “the compensations run in the reverse of the order in which the steps
        started”, each once “every later-started step of the saga is settled” (G3).  Answers what is next,
        and its step."""
        for step in reversed(self.steps):
            if self.in_range(step) and self.look(step) not in ("settled", "passed"):
                held = self.first_held()
                what = self.look(step)
                return ("notify", held) if held and what != "person" else (what, step)
        return None, None

    def advance(self, calling=True):
        """Goes as far as the walk can without doing anything; answers what is next, and its step."""
        what, step = self.next_task()
        for passed in reversed(self.steps):
            if passed is step:
                break
            if self.in_range(passed) and self.look(passed) == "passed":
                passed.compensation = "skipped"
        if what == "person":
            if self.state == "running":
                # Ours: whoever fails a saga sees it compensating, before a person is asked.
                self.state = "compensating"
                return what, step
            if self.state != "needs_review" or not step.asked:
                self.event("parked", step)
            self.state = "needs_review"
            step.asked = True
            return what, step
        if what:
            self.state = "compensating"
            if calling and what == "sql" and not self.paused:
                step.let_go = step.next_at is None or step.next_at <= self.now
            return what, step
        if any(s.compensation == "failed" and self.in_range(s) for s in self.steps):
            # “the saga ends in needs_review with all the others done”
            self.state = "needs_review"
            self.event("parked")
        elif self.failure_kind:
            self.state = "compensated"
            self.paused = False
            self.event("compensated")
        else:
            self.arrive()
        return None, None

    def arrive(self):
        """A partial undo is done: “then the saga is `running` again”."""
        nothing = self.target == NOTHING
        for step in self.steps:
            if step.position <= self.target:
                continue
            # “retriable: … never undone”.  Ours: nor is it to be done again; it stands as before.
            if step.kind != "retriable":
                step.rolled_back = True
            elif step.compensation == "skipped":
                step.compensation = "registered"
        self.target = None
        self.reason = None
        self.state = "running"
        self.event("running again" if nothing else "rolled back")

    def withdraw(self):
        """What waits for a listener and nobody has claimed is taken back."""
        for step in self.steps:
            if step.compensation == "dispatched" and step.claimed_at is None:
                step.compensation = "pending"

    # ------------------------------------------------------------ the processes

    def work(self):
        """All that the worker and the executors do until nothing is due."""
        while self.turn():
            pass

    def turn(self):
        """Does what is due; what came first, first."""
        held = self.first_held()
        lease_over = held and held.lease_until <= self.now
        late = self.due_deadline()
        if lease_over and not (
                late and (self.deadline, self.deadline_order) <= (held.lease_until, held.lease_order)):
            # “ended unacknowledged, the attempt is 'timed out' and charged”
            self.end_attempt(held, "timed out")
            return True
        if self.state == "compensating":
            what, step = self.next_task()
            # Ours: SQL that was let go, or due, before the deadline runs first.
            if not late or what == "sql" and (
                    step.let_go or step.next_at is not None and
                    (step.next_at, step.next_order) < (self.deadline, self.deadline_order)):
                # Ours: a person is asked while it is paused, too.
                self.advance(calling=False)
                if not self.paused and self.undo_step(what, step):
                    return True
        if late:
            self.fail("timed out", "the deadline passed")
        return late

    def undo_step(self, what, step):
        """What the walk came to, if that is for a machine, and due; answers whether there is more to do."""
        if what not in ("sql", "notify", "announce") or step.compensation == "dispatched" or \
                step.next_at is not None and step.next_at > self.now:
            return False
        if what == "sql":
            self.run_sql(step)
            return True
        step.announced = True
        step.next_at = None
        self.event("compensation dispatched", step)
        if what == "notify":
            step.compensation = "dispatched"
        else:
            # “with `acknowledge => false` the committed notification is all”
            self.end_attempt(step, "succeeded")
        return True

    def due_deadline(self):
        """“a saga still running then fails terminally”; “A deadline that passes [while it is paused]
        waits, and has its effect when the saga is resumed”."""
        return (self.deadline is not None and self.deadline <= self.now and not self.paused and
                self.failure_kind is None and self.state in ("running", "compensating"))

    def run_sql(self, step):
        """An executor runs a compensation: “The SQL, the mark and the attempt's outcome commit together”."""
        step.let_go = False
        n = len(step.attempts)
        does = step.plan[n] if n < len(step.plan) else "succeed"
        if does == "succeed":
            self.effects.append((step.key, step.run, n + 1, step.status, step.output, self.reason))
            self.end_attempt(step, "succeeded")
        else:
            self.end_attempt(step, {"fail": "failed", "give up": "failed", "later": "deferred",
                                    "conflict": "failed"}[does], how=does)

    def end_attempt(self, step, outcome, how=None, retry_after=None):
        """What the end of an attempt means for its step, and what follows."""
        step.attempts.append(outcome)
        step.claimed_at = step.lease_until = step.consumer = None
        self.event("compensation " + outcome, step)
        if outcome == "succeeded":
            self.compensated(step)
        elif step.compensation not in ("compensated", "skipped"):
            step.compensation = "pending"
            if how == "give up":
                # SG006, or a listener that says there is no point: “park now, do not try again”
                self.give_up(step)
            elif how == "later":
                # “not charged as an attempt”
                step.deferrals += 1
                step.next_at = self.now + step.compensation_retry.pause(step.deferrals)
            elif how == "conflict":
                # “Serialization failures … are retried on a budget of their own”, soon
                step.next_at = self.now
            else:
                step.charged += 1
                if step.charged >= step.compensation_retry.max_attempts:
                    self.give_up(step)
                else:
                    step.next_at = self.now + (step.compensation_retry.pause(step.charged)
                                               if retry_after is None else retry_after)
        step.next_order = self.order()
        # Ours: where an executor or the worker ended the attempt, a deadline that has passed makes a full undo of it
        # before the walk goes on.
        if not ((step.undo == "sql" or outcome == "timed out") and self.due_deadline()):
            self.go_on()

    def compensated(self, step):
        step.compensation = "compensated"
        step.next_at = None
        if not step.late:
            step.asked = False

    def give_up(self, step):
        step.compensation = "failed"
        step.next_at = None
        step.asked = True

    def go_on(self):
        """Whoever settles a step goes on with the walk, unless a person is asked."""
        if self.state == "compensating":
            self.advance()

    # ------------------------------------------------------------ listeners

    def claim(self, lease, consumer):
        """“An attempt begins when a consumer claims … The lease, never longer than the policy's
        `timeout` in all, is the attempt's limit”.  “nothing is dispatched while paused”."""
        for step in self.steps:
            if step.compensation == "dispatched" and step.claimed_at is None:
                step.claimed_at = self.now
                step.consumer = consumer
                step.lease_until = self.now + self.limit(step, lease)
                step.lease_order = self.order()
                return (step.key, step.run, len(step.attempts) + 1, step.lease_until, step.output)
        return None

    @staticmethod
    def limit(step, lease):
        timeout = step.compensation_retry.timeout
        return min(lease, timeout) if timeout else lease

    def reported(self, key, run):
        step = next((s for s in self.steps if (s.key, s.run) == (key, run)), None)
        if step is None:
            raise Refused("SG004", "no such step")
        return step

    def attempt_under_way(self, step, attempt):
        """“SG002, the step was never dispatched, or no attempt of that number was claimed”."""
        if not step.announced or attempt > len(step.attempts) + (step.claimed_at is not None):
            raise Refused("SG002", "no such attempt")
        return step.claimed_at is not None and attempt == len(step.attempts) + 1

    def extend_claim(self, key, run, attempt, lease):
        """“the new end of the claim: not earlier than before, and not later than the claim's beginning
        and the timeout of the policy”."""
        step = self.reported(key, run)
        if not self.attempt_under_way(step, attempt):
            raise Refused("SG002", "the claim is over")
        wanted = self.limit(step, self.now + lease - step.claimed_at) + step.claimed_at
        # The timeout of the policy ends both at the same time.
        capped = wanted == step.claimed_at + step.compensation_retry.timeout
        if wanted > step.lease_until or wanted == step.lease_until and not capped:
            step.lease_until = wanted
            step.lease_order = self.order()
        return step.lease_until

    def complete_compensation(self, key, run, output=None):
        """“An acknowledgement that comes late is still believed (the effect was done)”."""
        step = self.reported(key, run)
        if not step.announced:
            raise Refused("SG002", "never dispatched")
        if step.claimed_at is not None:
            # “a late acknowledgement while another holds the claim: the open attempt succeeded”
            settled = step.compensation in ("compensated", "skipped")
            if not settled:
                step.acknowledged = output
            self.end_attempt(step, "succeeded")
        elif step.compensation not in ("compensated", "skipped"):
            # “while nobody does: no attempt; event late acknowledgement”
            step.acknowledged = output
            self.event("late acknowledgement", step)
            self.compensated(step)
            if self.state == "running" or self.target == NOTHING and self.state != "abandoned":
                # Ours: a saga that was reopened has had that run undone, then; also beside a late result.
                step.rolled_back = True
            if self.state == "needs_review" and not self.behind_pivot:
                # “a saga that was parked for that alone goes on”
                self.advance()
            else:
                self.go_on()
        return step.compensation

    def fail_compensation(self, key, run, attempt, retryable=True, retry_after=None):
        """“a failure report for an attempt that is over is not [believed] (the answer says so)”."""
        step = self.reported(key, run)
        if not self.attempt_under_way(step, attempt):
            return "stale"
        self.end_attempt(step, "failed", "fail" if retryable else "give up", retry_after)
        return step.compensation

    # ------------------------------------------------------------ people

    @staticmethod
    def note(note):
        if note is None:
            raise Refused("22004", "no note")
        if not note.strip():
            raise Refused("22023", "an empty note")

    def resolve(self, key, resolution, note):
        """“settles the parked step: run the compensation (again), or it was done by hand, or it is not
        needed”."""
        if resolution not in ("retry", "done", "skip"):
            raise Refused("22023", "an unknown resolution")
        self.note(note)
        if self.state != "needs_review":
            raise Refused("SG002", "it waits for no decision")
        if self.behind_pivot:
            raise Refused("SG002", "it failed behind its pivot")
        self.need(key)
        # Ours: of several runs that are asked about, the newest is meant.
        step = next((s for s in reversed(self.steps) if s.key == key and s.asked and self.in_range(s)), None)
        if step is None:
            raise Refused("SG002", "it waits for no decision")
        if resolution == "retry" and (step.undo is None or step.redacted):
            # “or `retry` of a step with nothing to run”.  Ours: nor of one whose args are forgotten.
            raise Refused("SG002", "nothing to run")
        step.asked = step.late = False
        step.next_at = None
        self.event("resolved", step)
        if step.claimed_at is not None:
            # Ours: the decision takes the step from the listener that holds it.
            step.attempts.append("interrupted")
            step.claimed_at = step.lease_until = step.consumer = None
            self.event("compensation interrupted", step)
        if resolution == "retry":
            # “with all its attempts before it; this releases a reviewed one”
            step.compensation = "pending"
            step.released = True
            step.charged = step.deferrals = 0
        else:
            step.compensation = {"done": "compensated", "skip": "skipped"}[resolution]
        self.advance()
        return self.state

    def set_timeout(self, timeout, note=None):
        """“moves (or, with '0', clears) the deadline of a saga that has not failed”."""
        if self.state in ("completed", "compensated", "abandoned") or self.failure_kind:
            raise Refused("SG002", "it has failed, or is finished")
        self.deadline = self.now + timeout if timeout else None
        self.deadline_order = self.order()
        self.event("deadline set")
        if self.state == "compensating":
            self.advance()
        return self.deadline

    def amend(self, key, note, undo=None, compensation_retry=None):
        """“the role that recorded the step replaces how it is undone, as long as it is not compensated or
        under way”."""
        self.note(note)
        if undo is None and compensation_retry is None:
            raise Refused("22023", "nothing to amend")
        step = self.need(key)
        if self.state == "needs_review" and not self.behind_pivot:
            # “the run that saga.resolve would settle, or else the newest”
            step = next((s for s in reversed(self.steps) if s.key == key and s.asked and self.in_range(s)), step)
        self.unfinished()
        if step.claimed_at is not None:
            raise Refused("SG002", "a listener is undoing it")
        if not step.asked:
            # A run that was rolled back and is part of the undo again may be amended.
            if step.rolled_back and not (self.target is not None and self.in_range(step)):
                raise Refused("SG002", "it was rolled back")
            if step.compensation in ("compensated", "skipped"):
                raise Refused("SG002", "it is settled")
            # “While the saga runs, a step with nothing to undo may get something.”
            if step.compensation == "none" and (self.state != "running" or undo is None):
                raise Refused("SG002", "it has nothing to undo")
        if compensation_retry:
            step.compensation_retry = compensation_retry
        if undo:
            # “acknowledge, review, kind and compensate_on stay as they are recorded”
            undo = step.by_listener if undo == "notify" else undo
            if undo != step.undo and step.compensation == "dispatched":
                # “What waits for a listener on the old channel is taken back”
                step.compensation = "pending"
            step.undo = undo
            if step.compensation == "none":
                step.compensation = "registered"
        self.event("amended", step)
        if self.state == "compensating":
            self.advance()

    def abandon(self, note):
        """“Gives up a saga that waits for a decision: nothing more is undone, and it is finished.”"""
        self.note(note)
        if self.state != "needs_review":
            raise Refused("SG002", "it waits for no decision")
        self.state = "abandoned"
        self.paused = False
        self.event("abandoned")
        return self.state

    def reopen(self, note):
        """“after a pivot: running again, deadline cleared”; “without a failure and without a deadline;
        its steps are as they were”."""
        self.note(note)
        if self.state != "needs_review" or not self.behind_pivot:
            raise Refused("SG002", "it did not fail behind a pivot")
        if self.held():
            raise Refused("SG002", "a listener still holds one of its compensations")
        self.failure_kind = self.reason = self.failed_step = self.deadline = None
        self.behind_pivot = False
        self.event("reopened")
        for step in self.steps:
            if step.rolled_back or step.compensation == "none":
                continue
            # “also those that a partial undo before the failure tried to undo in vain”; and, Ours, what it
            # had only passed over
            stays = step.compensation in ("registered", "pending", "dispatched", "failed") or \
                step.kind == "retriable" or step.compensate_on == "completed" and step.status != "completed"
            if step.compensation == "compensated" or step.late or not stays:
                # “What that had undone is to be started afresh.”
                step.rolled_back = True
            elif step.compensation != "registered" or step.asked:
                step.compensation = "registered"
                step.asked = step.released = False
                step.next_at = None
                step.charged = step.deferrals = 0
        # “`needs_review` or `compensating` while a late result of a run that was rolled back before is still
        # to be decided about, or undone”
        self.target = NOTHING
        if any(self.in_range(s) for s in self.steps):
            self.advance()
        else:
            self.target = None
            self.state = "running"
        return self.state

    def pause(self, note):
        """“Nothing more of the saga is undone until it is resumed … Of a paused saga: the same again”."""
        self.note(note)
        self.unfinished()
        if not self.paused:
            self.paused = True
            self.event("paused")
            if self.state == "compensating":
                # Ours: what was dispatched and nobody has is taken back.
                self.withdraw()
                self.advance()
        return self.state

    def resume(self, note=None):
        self.unfinished()
        if self.paused:
            self.paused = False
            self.event("resumed")
            if self.state == "compensating":
                self.advance()
        return self.state

    def unfinished(self):
        if self.state in ("completed", "compensated", "abandoned"):
            raise Refused("SG002", "a finished saga")

    def rollback_to(self, key=None, reason=None):
        """“undoes every step that started after `step` (NULL: all of them), newest first, then the saga is
        `running` again”."""
        savepoint = None
        if key is not None:
            savepoint = self.need(key)
            # “the key of a step that completed and was not undone”
            if savepoint.rolled_back or savepoint.status != "completed":
                raise Refused("SG002", "no savepoint")
        target = savepoint.position if savepoint else 0
        pivot = self.pivot()
        if pivot and pivot.position > target:
            # “SG002, … a pivot that started after it has completed”
            raise Refused("SG002", "to before its pivot")
        if self.state in ("completed", "compensated", "abandoned"):
            raise Refused("SG002", "a finished saga")
        if self.state == "compensating":
            # “From `running`; from a partial undo under way, to go back further; and from `needs_review`”
            if self.failure_kind:
                raise Refused("SG002", "the saga's failure is being undone")
            if target > self.target:
                raise Refused("SG002", "it is being rolled back further than that")
            if target == self.target:
                return self.state
        if self.state == "needs_review":
            if self.redacted:
                # “SG002, … the saga was redacted”
                raise Refused("SG002", "it was redacted")
            # “as long as nothing at or before the savepoint was tried or settled”
            for step in self.steps:
                if step.position <= target and not step.rolled_back:
                    # Ours: what was tried before a saga was reopened does not count.
                    if step.compensation not in ("none", "registered"):
                        raise Refused("SG002", "the undo has gone past that savepoint")
            for step in self.steps:
                if step.position <= target and not step.rolled_back:
                    step.asked = False
            # “A deadline that has passed is cleared.”
            if self.deadline is not None and self.deadline <= self.now:
                self.deadline = None
        self.failure_kind = self.failed_step = None
        self.behind_pivot = False
        self.reason = reason
        self.target = target
        self.event("rolling back", savepoint)
        return self.start_undo()

    def redact(self):
        """“a finished saga forgets input, args, outputs; keys keep their hash”."""
        if self.state not in ("completed", "compensated", "abandoned"):
            raise Refused("SG002", "not finished")
        if self.held():
            raise Refused("SG002", "a listener still holds one of its compensations")
        # “Of a saga that was redacted: the same again.”  Ours: what came too late since is forgotten, too.
        told = [(s.output, s.error, s.acknowledged, s.asked or None) for s in self.steps]
        if not self.redacted or any(thing is not None for things in told for thing in things):
            self.event("redacted")
        self.redacted = True
        self.result = None
        for step in self.steps:
            if step.output is not None:
                step.kept_output = step.output
            step.output = step.error = step.acknowledged = None
            step.asked = False
            step.redacted = True
        return None

    def plan(self):
        """“what a failure now would do, in order, if every compensation succeeds.  It ends where the undo
        would stop for a person.  For a saga that is being undone: what is left to do.”"""
        if self.state in ("completed", "compensated", "abandoned"):
            return []
        pivot = self.pivot()
        if pivot and (self.behind_pivot or not self.failure_kind):
            return [(pivot.key, "person")]
        asked = [(s.key, "person") for s in reversed(self.steps)
                 if s.asked and self.target is not None and self.in_range(s)]
        if self.state == "needs_review" and (self.failure_kind or self.on_compensation_failure == "halt"):
            return asked
        told = []
        before, self.target = self.target, self.target if self.failure_kind else 0
        try:
            for step in reversed(self.steps):
                what = self.look(step) if self.in_range(step) else "settled"
                if what in ("settled", "passed"):
                    continue
                held = self.first_held()
                if held and what != "person":
                    if not told:
                        told.append((held.key, "notify"))
                    if step is held:
                        continue
                told.append((step.key, "notify" if what == "announce" else what))
                if what == "person":
                    return told
            # “and the saga ends in needs_review”: what was given up is asked in the end
            return told + [(s.key, "person") for s in reversed(self.steps)
                           if s.compensation == "failed" and self.in_range(s)]
        finally:
            self.target = before

    # ------------------------------------------------------------ what is seen

    def status_of(self, step):
        """`compensation_status` as saga.steps shows it."""
        if step.compensation not in ("registered", "pending"):
            return step.compensation
        if self.state not in ("compensating", "needs_review") or self.behind_pivot:
            return "registered" if self.state in ("running", "completed") else step.compensation
        # “`pending` (due or waiting its turn)” is what is part of the undo
        return "pending" if step.rolled_back or step.position > self.target else "registered"

    def forward_of(self, step):
        """The outcomes of a step's attempts; the last is null while it is under way."""
        if step.status == "failed":
            return step.forward
        if step.status == "completed":
            return step.forward + ["succeeded"]
        return step.forward + [None if self.state == "running" and not step.rolled_back else "interrupted"]

    def observe(self):
        """All that the views show of it."""
        return {
            "saga": (self.state, self.failure_kind, self.paused, self.reason,
                     self.failed_step and self.failed_step.key, self.deadline, self.result),
            "steps": [(s.key, s.run, s.kind, s.status, s.attempt, s.output, s.error, self.status_of(s),
                       len(s.attempts), s.next_at, s.acknowledged, s.rolled_back) for s in self.steps],
            "attempts": [(s.position, "forward", n, outcome)
                         for s in self.steps for n, outcome in enumerate(self.forward_of(s), 1)] +
                        [(s.position, "compensation", n, outcome) for s in self.steps
                         for n, outcome in enumerate(s.attempts + [None] * (s.claimed_at is not None), 1)],
            "effects": self.effects,
            "plan": self.plan(),
            "review": self.review_queue(),
            "pending": [(s.key, s.run, s.lease_until, s.consumer) for s in self.steps
                        if s.undo in ("notify", "announce") and
                        (s.compensation == "dispatched" or
                         s.compensation == "pending" and self.state == "compensating")],
            "events": self.events,
        }

    def review_queue(self):
        """“one row for each decision. `step` is null where it is about the saga as a whole”."""
        if self.state != "needs_review":
            return []
        if self.behind_pivot:
            return [None]
        return [s.key for s in self.steps if s.asked and self.in_range(s)] or [None]

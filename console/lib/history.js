// What saga.stat has counted while the console is open: a sample every few
// seconds, an hour of them, in memory only.

const EVERY = 5000;
const KEPT = 720;
const COUNTERS = ['begun', 'completed', 'failed', 'canceled', 'timed_out', 'compensated', 'abandoned', 'parked'];

export class History {
	// sample() returns the rows of saga.stat, or null where that is not to be had.
	constructor(sample, every = EVERY) {
		this.sample = sample;
		this.every = every;
		this.last = null;
		this.points = [];
		this.dropped = 0;
		this.timer = null;
		this.stopped = false;
	}

	async run() {
		try {
			const rows = await this.sample();
			if (rows) {
				this.add(Date.now(), rows);
			}
		} catch {
			// No answer: the next difference covers the gap.
		}
		if (!this.stopped) {
			this.timer = setTimeout(() => this.run(), this.every);
			this.timer.unref();
		}
	}

	stop() {
		this.stopped = true;
		clearTimeout(this.timer);
	}

	add(at, rows) {
		const now = {};

		for (const row of rows) {
			for (const counter of COUNTERS) {
				now[counter] = (now[counter] ?? 0) + (row[counter] ?? 0);
			}
			now.since = Math.min(now.since ?? Infinity, row.since);
		}
		if (this.last) {
			const point = { from: this.last.at, at };
			for (const counter of COUNTERS) {
				const before = this.last.now[counter] ?? 0, after = now[counter] ?? 0;
				// The counters may have been reset: then they have begun at zero.
				point[counter] = now.since === this.last.now.since && after >= before ? after - before : after;
			}
			this.points.push(point);
			if (this.points.length > KEPT) {
				this.points.shift();
				this.dropped++;
			}
		}
		this.last = { at, now };
	}

	// At most so many bars of equal time, the newest last: what came to a good end,
	// and what did not.
	bars(count = 60) {
		const per = Math.max(1, Math.ceil(this.points.length / count));
		const bars = new Map();

		this.points.forEach((point, i) => {
			// A point stays in its bar while others are added.
			const n = Math.floor((this.dropped + i) / per);
			const bar = bars.get(n) ?? { from: point.from, begun: 0, completed: 0, failed: 0, compensated: 0, parked: 0 };

			bar.to = point.at;
			bar.begun += point.begun;
			bar.completed += point.completed;
			bar.failed += point.failed + point.canceled + point.timed_out;
			bar.compensated += point.compensated;
			bar.parked += point.parked;
			bars.set(n, bar);
		});
		return [...bars.values()];
	}
}

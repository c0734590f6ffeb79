// Pages that are looked at are looked up again: at intervals, of which a look may take
// a tenth at most, and at a notification, after a pause of four times a look.  All who
// look at the same page share it.

import { createHash } from 'node:crypto';
import { PassThrough } from 'node:stream';

export const version = (model) => createHash('sha256').update(JSON.stringify(model)).digest('base64url').slice(0, 22);

export class Live {
	constructor() {
		this.pages = new Map();
	}

	// A stream of server-sent events: "changed" when the page is not what the
	// reader has, "lost" and "back" when the database does not answer, and does again.
	watch(key, { every, saga, load, seen }) {
		let page = this.pages.get(key);
		const stream = new PassThrough();
		const reader = { stream, seen };

		if (!page) {
			page = { readers: new Set(), every, saga, load, timer: null, busy: false, again: false, version: null, lost: null, rested: 0 };
			this.pages.set(key, page);
		}
		page.readers.add(reader);
		stream.write('retry: 2000\n\n');
		if (page.lost) {
			this.send(reader, 'lost', page.lost);
		}
		stream.on('close', () => {
			page.readers.delete(reader);
			if (page.readers.size === 0) {
				clearTimeout(page.timer);
				this.pages.delete(key);
			}
		});
		this.look(page);
		return stream;
	}

	send(reader, event, data) {
		reader.stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
	}

	async look(page) {
		clearTimeout(page.timer);
		if (page.busy) {
			page.again = true;
			return;
		}
		page.busy = true;
		const begun = performance.now();
		try {
			page.version = version(await page.load().catch((error) => {
				// It answers that there is no such page any more, which the reader will be told.
				if (!error.status) {
					throw error;
				}
				return error.message;
			}));
			for (const reader of page.readers) {
				if (page.lost) {
					this.send(reader, 'back', null);
				}
				if (reader.seen !== page.version) {
					reader.seen = page.version;
					this.send(reader, 'changed', page.version);
				}
			}
			page.lost = null;
		} catch (error) {
			if (!page.lost) {
				page.lost = error.message || 'the database does not answer';
				for (const reader of page.readers) {
					this.send(reader, 'lost', page.lost);
				}
			}
		}
		page.busy = false;
		if (page.readers.size > 0) {
			const cost = performance.now() - begun;

			// Any role may notify, as often as it likes: that brings no more than this.
			page.rested = performance.now() + Math.max(100, 4 * cost);
			page.timer = setTimeout(() => this.look(page),
				page.again ? Math.max(100, 4 * cost) : Math.max(page.every, 10 * cost));
			page.again = false;
		}
	}

	// A notification about a saga, or about anything.
	heard(saga) {
		for (const page of this.pages.values()) {
			if (page.saga && saga && page.saga !== saga) {
				continue;
			}
			const wait = page.rested - performance.now();
			if (page.busy || wait <= 0) {
				this.look(page);
			} else {
				clearTimeout(page.timer);
				page.timer = setTimeout(() => this.look(page), wait);
			}
		}
	}

	stop() {
		for (const page of this.pages.values()) {
			clearTimeout(page.timer);
			for (const reader of page.readers) {
				reader.stream.end();
			}
		}
	}
}

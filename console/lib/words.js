// How the pages say things.

// The same address with other parameters; null takes one away.
export function address(url, change) {
	const next = new URL(url, 'http://console');

	for (const [name, value] of Object.entries(change)) {
		if (value === null || value === undefined || value === '') {
			next.searchParams.delete(name);
		} else {
			next.searchParams.set(name, value);
		}
	}
	return next.pathname + next.search;
}

const two = (n) => String(n).padStart(2, '0');

export function stamp(date) {
	const offset = -date.getTimezoneOffset();
	const zone = offset === 0 ? 'UTC' : `${offset < 0 ? '-' : '+'}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;

	return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
		`${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())} ${zone}`;
}

export const instant = (value) => {
	const date = new Date(value);

	return Number.isNaN(date.getTime()) ? null : date;
};

export function duration(from, to) {
	const ms = instant(to) - instant(from);

	if (from === null || to === null || Number.isNaN(ms)) {
		return '';
	}
	if (ms < 1000) {
		return `${Math.max(0, ms)} ms`;
	}
	if (ms < 60000) {
		return `${(ms / 1000).toFixed(1)} s`;
	}
	const s = Math.round(ms / 1000);
	const parts = [[Math.floor(s / 86400), 'd'], [Math.floor(s / 3600) % 24, 'h'], [Math.floor(s / 60) % 60, 'min'], [s % 60, 's']];
	const first = parts.findIndex(([n]) => n > 0);

	return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(' ');
}

export const many = (n) => Number(n).toLocaleString('en-US');

// A word and a sign, so that nothing is told by color alone.
const SIGNS = {
	running: '▶', completed: '✓', compensating: '↶', compensated: '↩', needs_review: '!', abandoned: '✕', paused: '‖',
	waiting: '…', started: '▶', failed: '✕', skipped: '⤼', pending: '…', dispatched: '➤', registered: '○', none: '–',
	error: '✕', warning: '!', notice: 'i', succeeded: '✓', interrupted: '⚡', 'timed out': '⏱', deferred: '…', 'under way': '▶',
};
const TONES = {
	running: 'go', started: 'go', 'under way': 'go', completed: 'good', succeeded: 'good', compensated: 'back', compensating: 'undo', dispatched: 'undo',
	needs_review: 'bad', failed: 'bad', error: 'bad', 'timed out': 'bad', warning: 'undo', paused: 'undo',
};

export const sign = (word) => SIGNS[word] ?? '·';
export const tone = (word) => TONES[word] ?? 'calm';
export const plain = (word) => word.replace('_', ' ');

// Of a long text the beginning; the queries cut it, too.
const LONG = 20000;

export const whole = (text) => text !== null && text.length <= LONG;
export const cut = (text) => (text.length > LONG ? `${text.slice(0, LONG)}…` : text);
export const short = (text, n = 120) => (text.length > n ? `${text.slice(0, n - 1)}…` : text);

// What an event has to tell, as [name, value] pairs.
export function details(text) {
	let detail;

	try {
		detail = JSON.parse(text ?? '{}');
	} catch {
		return [['', text]];
	}
	if (typeof detail !== 'object' || detail === null || Array.isArray(detail)) {
		return [['', text]];
	}
	return Object.entries(detail).map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]);
}

// Bars above and below a line, as coordinates of a drawing of that size.
export function chart(bars, width, height) {
	const most = Math.max(1, ...bars.map((bar) => Math.max(bar.completed, bar.failed)));
	const step = width / Math.max(bars.length, 30);
	const line = height * 0.66;
	const up = (line - 12) / most, down = (height - line - 4) / most;

	return {
		most, line,
		bars: bars.map((bar, i) => ({
			...bar, x: (width - (bars.length - i) * step + 1).toFixed(1), w: Math.max(1, step - 2).toFixed(1),
			up: (bar.completed * up).toFixed(1), y: (line - bar.completed * up).toFixed(1), down: (bar.failed * down).toFixed(1),
		})),
	};
}

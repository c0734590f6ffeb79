// What needs a script: pages that stay current, and times in words.  Everything
// else works without.

import { Idiomorph } from '/assets/idiomorph.js';

const main = document.getElementById('main');
const news = document.getElementById('news');
const trouble = document.getElementById('trouble');
const pulse = document.getElementById('pulse');

// ------------------------------------------------------------ times in words

function ago(date) {
	const s = Math.round((Date.now() - date) / 1000), future = s < 0, n = Math.abs(s);
	const [count, unit] = n < 60 ? [n, 's'] : n < 3600 ? [Math.floor(n / 60), 'min'] : n < 86400 ? [Math.floor(n / 3600), 'h'] : [Math.floor(n / 86400), 'd'];

	if (n < 2) {
		return 'now';
	}
	return future ? `in ${count} ${unit}` : `${count} ${unit} ago`;
}

function ages() {
	for (const time of main.querySelectorAll('time')) {
		if (!time.title) {
			time.title = time.textContent;
		}
		const text = ago(new Date(time.dateTime));
		if (time.textContent !== text) {
			time.textContent = text;
		}
	}
}

// ------------------------------------------------------------ forms

// What a person has begun to fill in is theirs: no update touches it.
main.addEventListener('input', (event) => {
	const form = event.target.closest('form[method=post]');

	if (event.target.matches('[data-all]')) {
		for (const box of form.querySelectorAll('[name=item]')) {
			box.checked = event.target.checked;
		}
	}
	if (form) {
		form.dataset.dirty = 'yes';
	}
	if (event.target.name === 'decision') {
		for (const name of ['amend', 'done']) {
			const more = form.querySelector(`.only-${name}`);
			if (more) {
				more.open = event.target.value === name;
			}
		}
	}
});

function prepare() {
	for (const all of main.querySelectorAll('.all[hidden]')) {
		all.hidden = false;
	}
}

// ------------------------------------------------------------ live

let source, fetching = false, again = false;

async function refresh() {
	if (fetching) {
		again = true;
		return;
	}
	fetching = true;
	let response, text;
	try {
		response = await fetch(location.href, { headers: { 'x-refresh': 'yes' } });
		text = await response.text();
	} catch {
		// The stream reports that the console is gone.
		response = null;
	}
	const page = response && new DOMParser().parseFromString(text, 'text/html');
	const next = page?.getElementById('main');

	if (response?.status === 401) {
		lost('This browser is not let in any more: open the link that the console has printed.');
		source?.close();
	} else if (response?.status === 404) {
		lost('This saga is not there any more.');
	} else if (response?.ok && next) {
		morph(next, page);
	}
	fetching = false;
	if (again) {
		again = false;
		refresh();
	}
}

function morph(next, page) {
	const said = main.querySelector('[data-announce]')?.textContent;
	const badge = main.querySelector('h1 .badge')?.textContent;

	Idiomorph.morph(main, next.innerHTML, {
		morphStyle: 'innerHTML',
		ignoreActiveValue: true,
		callbacks: {
			beforeNodeMorphed: (old) => !(old.nodeName === 'FORM' && old.dataset.dirty),
			// What somebody is deciding about stays in view, and the server says so.
			beforeNodeRemoved(old) {
				if (old.nodeType === 1 && (old.matches('.flash') || old.querySelector('form[data-dirty]'))) {
					if (!old.matches('.flash')) {
						old.classList.add('gone');
						lostForm(old);
					}
					return false;
				}
				return true;
			},
			beforeAttributeUpdated: (name, node) => !(name === 'open' && node.nodeName === 'DETAILS'),
			afterNodeAdded(node) {
				if (node.nodeType === 1 && node.id) {
					node.classList.add('fresh');
				}
			},
		},
	});
	document.title = page.title;
	const bar = document.querySelector('#top nav'), newBar = page.querySelector('#top nav');
	if (newBar && bar.innerHTML !== newBar.innerHTML) {
		Idiomorph.morph(bar, newBar.innerHTML, { morphStyle: 'innerHTML' });
	}
	prepare();
	ages();
	const now = main.querySelector('[data-announce]')?.textContent, state = main.querySelector('h1 .badge')?.textContent;
	if (state !== badge || now !== said) {
		news.textContent = [state, now].filter(Boolean).join(': ');
	}
}

function lostForm(section) {
	if (!section.querySelector('.decided')) {
		const text = document.createElement('p');
		text.className = 'decided error';
		text.setAttribute('role', 'status');
		text.textContent = 'It does not wait any more, or waits anew: somebody has decided meanwhile.';
		section.prepend(text);
	}
}

function lost(text) {
	trouble.textContent = text;
	trouble.hidden = false;
	pulse.classList.add('off');
	pulse.textContent = 'not live';
}

function found() {
	trouble.hidden = true;
	pulse.classList.remove('off');
	pulse.textContent = 'live';
	pulse.hidden = false;
}

const clock = () => new Date().toLocaleTimeString();

function connect() {
	source?.close();
	if (!main.dataset.live || document.hidden) {
		return;
	}
	source = new EventSource(main.dataset.live);
	source.addEventListener('open', found);
	source.addEventListener('changed', refresh);
	source.addEventListener('back', () => { found(); refresh(); });
	source.addEventListener('lost', (event) => lost(`The database does not answer (${JSON.parse(event.data)}). You see how it was; since ${clock()}.`));
	source.addEventListener('error', () => {
		if (trouble.hidden) {
			lost(`The console does not answer. You see how it was; since ${clock()}.`);
		}
		if (source.readyState === EventSource.CLOSED) {
			setTimeout(connect, 3000);
		}
	});
}

document.addEventListener('visibilitychange', () => {
	if (!document.hidden) {
		refresh();
	}
	connect();
});
prepare();
ages();
setInterval(ages, 1000);
connect();

#!/usr/bin/env node
// Starts the console and prints the address by which one browser gets in.

import { parseArgs } from 'node:util';
import { start } from '../lib/app.js';

const usage = `usage: saga-console [options]

Shows the sagas of the database that PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD
or PGPASSFILE name, as far as that role may see them.

  --decide           people may decide, pause and resume; without it, nothing is written
  --port N           port (8484; 0: any free one)
  --host ADDRESS     address to listen on (127.0.0.1); any other needs --origin
  --origin URL       address at which a proxy that speaks HTTPS serves the console
  --listen CHANNEL   a channel on which sagas are announced; may be repeated
  --statement-timeout MS   longest statement (5000)
  --help
`;

let options;
try {
	options = parseArgs({
		options: {
			decide: { type: 'boolean', default: false },
			port: { type: 'string', default: '8484' },
			host: { type: 'string', default: '127.0.0.1' },
			origin: { type: 'string' },
			listen: { type: 'string', multiple: true, default: [] },
			'statement-timeout': { type: 'string', default: '5000' },
			help: { type: 'boolean', default: false },
		},
	}).values;
} catch (error) {
	process.stderr.write(`saga-console: ${error.message}\n\n${usage}`);
	process.exit(2);
}
if (options.help) {
	process.stdout.write(usage);
	process.exit(0);
}
if (options.origin && !/^https:\/\/[^/]+$/.test(options.origin)) {
	process.stderr.write('saga-console: --origin takes an address of the kind https://sagas.example.org\n');
	process.exit(2);
}
for (const name of ['port', 'statement-timeout']) {
	if (!/^\d{1,7}$/.test(options[name])) {
		process.stderr.write(`saga-console: --${name} takes a number\n`);
		process.exit(2);
	}
	options[name] = Number(options[name]);
}

try {
	const console_ = await start({
		...options,
		statementTimeout: options['statement-timeout'],
		// One link opens one browser; the next is printed once it was used.
		onLink: (link) => process.stdout.write(`open in a browser: ${link}\n`),
	});
	for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
		process.once(signal, () => console_.stop().then(() => process.exit(0)));
	}
} catch (error) {
	process.stderr.write(`saga-console: ${error.message}\n`);
	process.exit(1);
}

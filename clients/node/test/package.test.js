// The package: what it installs, its types, and the code in its README.
'use strict';

const assert = require('node:assert/strict');
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { test, after } = require('node:test');
const { scratch, sql, close } = require('./helpers');

const root = path.join(__dirname, '..');
after(close);

/** A folder where the package is installed, as whoever installs it from the checkout has it. */
function folder(name) {
  const at = path.join(scratch, name);
  fs.mkdirSync(path.join(at, 'node_modules'), { recursive: true });
  fs.symlinkSync(root, path.join(at, 'node_modules', 'pg-saga'));
  return at;
}

test('npm pack, and installing that', (t) => {
  if (spawnSync('npm', ['--version']).status !== 0) return t.skip('no npm');
  const at = path.join(scratch, 'installed');
  fs.mkdirSync(at);
  const env = { ...process.env, HOME: scratch, npm_config_cache: path.join(scratch, 'npm') };
  const npm = (...args) => execFileSync('npm', ['--offline', '--no-audit', '--no-fund', '--legacy-peer-deps', ...args], { cwd: at, env, encoding: 'utf8', stdio: 'pipe' });
  const [packed] = JSON.parse(npm('pack', '--json', root));
  assert.deepEqual(packed.files.map((f) => f.path).sort(), ['LICENSE', 'README.md', 'index.d.ts', 'index.js', 'lib/database.js', 'lib/errors.js', 'lib/run.js', 'lib/serve.js', 'package.json']);
  npm('install', `./${packed.filename}`);
  const say = (...args) => execFileSync(process.execPath, args, { cwd: at, env, encoding: 'utf8' }).trim();
  assert.equal(say('-e', "const { Saga } = require('pg-saga'); console.log(typeof Saga, require.resolve('pg-saga').includes('installed'))"), 'function true');
  assert.equal(say('--input-type=module', '-e', "import { Saga, SagaFailing } from 'pg-saga'; console.log(typeof Saga, SagaFailing.name)"), 'function SagaFailing');
});

test('the types', (t) => {
  const tsc = [root, ...(process.env.NODE_PATH ?? '').split(':')].map((at) => path.join(at, at === root ? 'node_modules' : '', 'typescript/bin/tsc')).find(fs.existsSync);
  if (!tsc) return t.skip('no typescript: npm install in clients/node, or NODE_PATH');
  const at = folder('types');
  for (const name of ['right', 'wrong']) fs.copyFileSync(path.join(__dirname, `types/${name}.ts`), path.join(at, `${name}.ts`));
  const compile = (module) => {
    fs.writeFileSync(path.join(at, 'tsconfig.json'), JSON.stringify({ files: ['right.ts', 'wrong.ts'], compilerOptions: { strict: true, noEmit: true,
      target: 'es2022', lib: ['es2022', 'dom'], types: [], module, moduleResolution: module === 'commonjs' ? 'node10' : module } }));
    return spawnSync(process.execPath, [tsc, '-p', at], { encoding: 'utf8' });
  };
  const end = compile('node16');
  assert.equal(end.stdout, '');
  assert.equal(end.status, 0);
  // And each of the wrong ones is an error by itself, in the other system of modules, too; nothing else is.
  const wrong = fs.readFileSync(path.join(at, 'wrong.ts'), 'utf8');
  fs.writeFileSync(path.join(at, 'wrong.ts'), wrong.replaceAll('@ts-expect-error', ''));
  const { stdout } = compile('commonjs');
  const lines = new Set([...stdout.matchAll(/wrong\.ts\((\d+),/g)].map((m) => m[1]));
  assert.doesNotMatch(stdout, /right\.ts/);
  assert.equal(lines.size, wrong.match(/@ts-expect-error/g).length);
});

test('the code of the README', async () => {
  const blocks = [...fs.readFileSync(path.join(root, 'README.md'), 'utf8').matchAll(/^```(\w+) ?(\w*)\n(.*?)^```$/gms)].map(([, language, info, text]) => ({ language, info, text }));
  assert.deepEqual([...new Set(blocks.map((b) => b.language))].sort(), ['js', 'sh', 'text']);
  await sql(`DROP TABLE IF EXISTS stock, shipment; CREATE TABLE stock (item text, on_hand int); INSERT INTO stock VALUES ('bicycle', 10);
    CREATE TABLE shipment (key text PRIMARY KEY, called_off boolean NOT NULL DEFAULT false)`);
  const at = folder('readme');
  const all = blocks.filter((b) => b.language === 'js').map((b) => (b.info === 'setup' ? b.text : `{\n${b.text}}\n`));
  fs.writeFileSync(path.join(at, 'readme.js'), `const { Interrupted } = require('pg-saga');
    let charges = 0;
    const bank = { refund: async () => ({ refund: 're_1' }),
      charge: async ({ card }) => { if (card === 'stolen') throw new Error('the card is refused'); return { charge: \`ch_\${++charges}\` }; } };
    ${all[0]}
    (async () => { ${all.slice(1).join('')} await saga.close(); })();`);
  const end = spawnSync(process.execPath, ['readme.js'], { cwd: at, encoding: 'utf8', timeout: 60_000 });
  assert.equal(end.status, 0, end.stderr);
  assert.equal(end.stdout, blocks.filter((b) => b.language === 'text').map((b) => b.text).join(''));
});

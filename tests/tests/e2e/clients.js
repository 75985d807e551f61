// The round trip of `webhdfs` from npm, unchanged. Usage: clients.js HOST:PORT USER
'use strict';
const assert = require('assert');
const { Readable } = require('stream');
const WebHDFS = require('webhdfs');

const [address, user] = process.argv.slice(2);
const [host, port] = address.split(':');
const client = WebHDFS.createClient({ user, host, port: Number(port), path: '/webhdfs/v1' });
const call = (name, ...rest) =>
  new Promise((done, failed) => client[name](...rest, (error, value) => (error ? failed(error) : done(value))));

function upload(path, pieces, append) {
  return new Promise((done, failed) => {
    const stream = client.createWriteStream(path, append);
    stream.on('error', failed);
    stream.on('finish', done);
    Readable.from(pieces).pipe(stream);
  });
}

function download(path) {
  return new Promise((done, failed) => {
    const stream = client.createReadStream(path);
    const pieces = [];
    stream.on('error', failed);
    stream.on('data', (piece) => pieces.push(piece));
    stream.on('finish', () => done(Buffer.concat(pieces)));
  });
}

async function roundTrip() {
  const top = '/clients/webhdfs';
  await call('mkdir', top);
  await assert.rejects(call('stat', top + '/none'), /does not exist/);
  const pieces = Array.from({ length: 64 }, (_, index) => Buffer.alloc(64 << 10, index));
  await upload(top + '/file', pieces);
  assert.ok((await download(top + '/file')).equals(Buffer.concat(pieces)), 'all bytes');
  await call('writeFile', top + '/small', 'one ');
  await call('appendFile', top + '/small', 'two');
  assert.equal(String(await call('readFile', top + '/small')), 'one two');
  const stat = await call('stat', top + '/small');
  assert.deepEqual([stat.type, stat.length], ['FILE', 7]);
  const names = (await call('readdir', top)).map((entry) => entry.pathSuffix).sort();
  assert.deepEqual(names, ['file', 'small']);
  await call('chmod', top + '/small', '0600');
  assert.equal((await call('stat', top + '/small')).permission, '600');
  await call('rename', top + '/small', top + '/other');
  await assert.rejects(call('stat', top + '/small'), /does not exist/);
  await call('unlink', top + '/other');
  await call('rmdir', top, true);
  await assert.rejects(call('stat', top), /does not exist/);
}

roundTrip().then(
  () => console.log('webhdfs: round trip done'),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

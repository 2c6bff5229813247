// Debian's Chromium as a visitor of one host of an edge, driven over the pipe of its debugging protocol.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { connect } from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';

// `want` has `host`, the endpoint's name; `port`, where the edge listens; `ca`, the authority that signs for it; `dir`, a folder.
// The process ends by itself after 90 s at most.
export async function open(want) {
  // The browser trusts the key of this one certificate, once it was verified by the authority.
  const spki = await new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port: want.port, servername: want.host, ca: want.ca }, () => {
      const der = socket.getPeerX509Certificate().publicKey.export({ type: 'spki', format: 'der' });
      socket.end();
      resolve(createHash('sha256').update(der).digest('base64'));
    });
    socket.on('error', reject);
  });

  const flags = [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-extensions',
    '--remote-debugging-pipe', `--user-data-dir=${want.dir}`, `--ignore-certificate-errors-spki-list=${spki}`,
    `--host-resolver-rules=MAP ${want.host}:443 127.0.0.1:${want.port}`, 'about:blank',
  ];
  const browser = spawn('/usr/lib/chromium/chromium', flags, {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    env: { HOME: want.dir, PATH: process.env.PATH },
  });
  const end = (code) => {
    browser.kill('SIGKILL');
    process.exit(code);
  };
  setTimeout(() => {
    console.error('the browser took more than 90 s');
    end(1);
  }, 90_000).unref();
  browser.on('error', (error) => {
    console.error(String(error));
    process.exit(1);
  });

  // Messages are JSON, each with a NUL behind it.
  const waiting = new Map();
  let number = 0;
  let rest = Buffer.alloc(0);
  browser.stdio[4].on('data', (bytes) => {
    rest = Buffer.concat([rest, bytes]);
    for (let at = rest.indexOf(0); at >= 0; at = rest.indexOf(0)) {
      const message = JSON.parse(rest.subarray(0, at).toString());
      rest = rest.subarray(at + 1);
      waiting.get(message.id)?.(message);
      waiting.delete(message.id);
    }
  });
  function call(method, params = {}, sessionId = undefined) {
    const id = ++number;
    browser.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + '\0');
    return new Promise((resolve, reject) => {
      waiting.set(id, (message) => (message.error ? reject(new Error(`${method}: ${message.error.message}`)) : resolve(message.result)));
    });
  }

  const { targetId } = await call('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await call('Target.attachToTarget', { targetId, flatten: true });
  // A page that goes away under an expression is looked at again.
  const look = async (expression) => {
    try {
      const { result } = await call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true }, sessionId);
      return result.value;
    } catch {
      return undefined;
    }
  };
  const until = async (expression) => {
    for (;;) {
      const value = await look(expression);
      if (value) return value;
      await sleep(50);
    }
  };
  const go = (path) => call('Page.navigate', { url: `https://${want.host}${path}` }, sessionId);
  return { call: (method, params) => call(method, params, sessionId), look, until, go, end };
}

// Whether a page has all it loads, as an expression.
export const whole = "document.readyState === 'complete'";

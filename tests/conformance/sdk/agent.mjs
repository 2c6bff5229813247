// The guide's clinic, served by the unmodified Node SDK. One argument: JSON, see ../README.md.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

// Packages are below the current directory, not beside this file.
const ngrok = createRequire(process.cwd() + '/')('@ngrok/ngrok');

const want = JSON.parse(process.argv[2]);
const session = await new ngrok.SessionBuilder()
  .authtoken(want.authtoken)
  .serverAddr(want.server)
  .caCert(readFileSync(want.ca))
  .connect();
let refused = '';
try {
  await session.httpEndpoint().domain(want.foreign).listen();
} catch (error) {
  refused = `${error.message} ${error.errorCode ?? ''}`;
}
const [http, tcp] = [`http://127.0.0.1:${want.http}`, `tcp://127.0.0.1:${want.tcp}`];
const listeners = [
  await session.httpEndpoint().domain(want.https_host).listenAndForward(http),
  await session.tlsEndpoint().domain(want.tls_host).listenAndForward(tcp),
  await session.tcpEndpoint().remoteAddr(want.tcp_addr).listenAndForward(tcp),
];
console.log(JSON.stringify({ refused, urls: listeners.map((listener) => listener.url()) }));
setInterval(() => {}, 1 << 30);

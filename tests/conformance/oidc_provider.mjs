// npm `oidc-provider` on a free port of loopback, with its own pages for sign-in and consent. Keys are in memory.
// One argument: JSON {client_id, client_secret, redirect_uri}. Prints {"issuer"} when it listens. SIGHUP: other keys, of another
// algorithm; then it prints {"keys"}. Anybody signs in with any password; the address is LOGIN@example.com, unverified for "carl".
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

// Packages are below the current directory, not beside this file.
const { Provider } = await import(pathToFileURL(process.cwd() + '/node_modules/oidc-provider/lib/index.js'));

const want = JSON.parse(process.argv[2]);
const kinds = { RS256: ['rsa', { modulusLength: 2048 }], ES256: ['ec', { namedCurve: 'P-256' }] };

function key(alg) {
  const { privateKey } = generateKeyPairSync(...kinds[alg]);
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg, use: 'sig' };
}

const cookieKeys = [randomUUID()];
let issuer;
function provider(alg) {
  return new Provider(issuer, {
    clients: [
      {
        client_id: want.client_id,
        client_secret: want.client_secret,
        redirect_uris: [want.redirect_uri],
        response_types: ['code'],
        grant_types: ['authorization_code'],
        id_token_signed_response_alg: alg,
      },
    ],
    jwks: { keys: [key(alg)] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'] },
    pkce: { required: () => true },
    cookies: { keys: cookieKeys },
    findAccount: (_, login) => ({
      accountId: login,
      claims: () => ({ sub: login, email: `${login}@example.com`, email_verified: login !== 'carl' }),
    }),
  }).callback();
}

let serve;
const server = createServer((request, response) => serve(request, response));
server.listen(0, '127.0.0.1', () => {
  issuer = `http://127.0.0.1:${server.address().port}`;
  serve = provider('RS256');
  process.on('SIGHUP', () => {
    serve = provider('ES256');
    console.log(JSON.stringify({ keys: 'ES256' }));
  });
  console.log(JSON.stringify({ issuer }));
});

// npm `oidc-provider` on a free port of loopback, with its own pages for sign-in and consent. Keys are in memory.
// One argument: JSON {client_id, client_secret, redirect_uri}; with access_secs, access tokens live so long and refresh tokens
// are given and rotated, with auth_method the client authenticates so; each {"grant"} that succeeds and each {"refused"} is printed. Prints {"issuer"} when it listens. SIGHUP: other keys, of another
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
  const made = new Provider(issuer, {
    ...(want.access_secs && {
      ttl: { AccessToken: want.access_secs },
      issueRefreshToken: () => true,
      rotateRefreshToken: true,
    }),
    clients: [
      {
        client_id: want.client_id,
        client_secret: want.client_secret,
        redirect_uris: [want.redirect_uri],
        response_types: ['code'],
        grant_types: want.access_secs ? ['authorization_code', 'refresh_token'] : ['authorization_code'],
        ...(want.auth_method && { token_endpoint_auth_method: want.auth_method }),
        id_token_signed_response_alg: alg,
      },
    ],
    jwks: { keys: [key(alg)] },
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    pkce: { required: () => true },
    cookies: { keys: cookieKeys },
    findAccount: (_, login) => ({
      accountId: login,
      claims: () => ({ sub: login, name: login, email: `${login}@example.com`, email_verified: login !== 'carl' }),
    }),
  });
  if (want.access_secs) {
    made.on('grant.success', (ctx) => console.log(JSON.stringify({ grant: ctx.oidc.params.grant_type })));
    made.on('grant.error', (ctx, error) => console.log(JSON.stringify({ refused: error.message })));
  }
  return made.callback();
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

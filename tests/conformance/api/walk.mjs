// The guide's API calls by the unmodified TypeScript API client. One argument: JSON {base_url, api_key}.
// This client has no endpoints.create; the guide's endpoints are the Python client's part.
import assert from 'node:assert';
import { createRequire } from 'node:module';

const { Ngrok } = createRequire(process.cwd() + '/')('@ngrok/ngrok-api');

const want = JSON.parse(process.argv[2]);
const client = new Ngrok({ apiToken: want.api_key, baseUrl: want.base_url });

const user = await client.botUsers.create({ name: 'Service User for clinic 1' });
const credential = await client.credentials.create({
  description: 'Authtoken for Clinic 1',
  ownerId: user.id,
  acl: ['bind:*.clinic1.internal'],
});
assert.ok(credential.token);
assert.equal((await client.credentials.get(credential.id)).token, null, 'a token is shown once');
const domain = await client.reservedDomains.create({ domain: '*.clinic-network.com', region: 'us' });
assert.equal(domain.domain, '*.clinic-network.com');
const addr = await client.reservedAddrs.create({ description: 'Operations DB TCP Addr for Clinic 1', region: 'us' });
assert.match(addr.addr, /:\d+$/);
assert.deepEqual(await client.endpoints.list(), []);
const ingress = await client.agentIngresses.create({ description: 'Custom connect URL', domain: 'connect.example.com' });
assert.equal((await client.agentIngresses.list())[0].id, ingress.id);

// More than one page, sorted by id downwards; this client spells the cursor `beforeId`.
const made = [user.id];
for (let n = 0; n < 7; n++) made.push((await client.botUsers.create({ name: `user ${n}` })).id);
const paged = (await client.botUsers.list(undefined, '3')).map((one) => one.id);
assert.deepEqual(paged, made.sort().reverse());

const changed = await client.botUsers.update({ id: user.id, name: 'renamed' });
assert.equal(changed.name, 'renamed');
await client.reservedAddrs.delete(addr.id);
await assert.rejects(client.reservedAddrs.get(addr.id), (error) => error.statusCode === 404 && error.details.size > 0);
console.log('walked');

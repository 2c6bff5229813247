// Every resource of the API by the unmodified TypeScript client: each method it has.
// Arguments: base URL, API key. Needs an account of its own (it counts what it lists). Run where `@ngrok/ngrok-api` is
// installed; exit code 0: all as it should be. `api/walk.mjs` is the guide's walk; this is breadth: a service of the client
// that is neither served nor refused here, and a method of a served one that is not called here, are failures.
import assert from 'node:assert';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const { Ngrok } = createRequire(process.cwd() + '/')('@ngrok/ngrok-api');
const [baseUrl, apiToken] = process.argv.slice(2);
const client = new Ngrok({ apiToken, baseUrl });

const SERVED = `agentIngresses apiKeys applicationSessions applicationUsers botUsers certificateAuthorities credentials endpoints
  eventDestinations eventSources eventSubscriptions ipPolicies ipPolicyRules ipRestrictions reservedAddrs reservedDomains tlsCertificates tunnelSessions tunnels`.split(/\s+/);
// Every method is answered 404 without a code.
const REFUSED = `abuseReports
  sshCertificateAuthorities sshCredentials sshHostCertificates sshUserCertificates backends.failoverBackends
  backends.httpResponseBackends backends.staticBackends backends.tunnelGroupBackends backends.weightedBackends
  edges.edgesHttpsRoutes edges.edgesHttps edges.edgesTcp edges.edgesTls edgeModules.httpsEdgeMutualTlsModule
  edgeModules.httpsEdgeTlsTerminationModule edgeModules.edgeRouteBackendModule
  edgeModules.edgeRouteIpRestrictionModule edgeModules.edgeRouteRequestHeadersModule
  edgeModules.edgeRouteResponseHeadersModule edgeModules.edgeRouteCompressionModule
  edgeModules.edgeRouteCircuitBreakerModule edgeModules.edgeRouteWebhookVerificationModule
  edgeModules.edgeRouteOAuthModule edgeModules.edgeRouteSamlModule edgeModules.edgeRouteOidcModule
  edgeModules.edgeRouteWebsocketTcpConverterModule edgeModules.edgeRouteUserAgentFilterModule
  edgeModules.tcpEdgeBackendModule edgeModules.tcpEdgeIpRestrictionModule edgeModules.tlsEdgeBackendModule
  edgeModules.tlsEdgeIpRestrictionModule edgeModules.tlsEdgeMutualTlsModule
  edgeModules.tlsEdgeTlsTerminationModule`.split(/\s+/);

/** Every service of a client by its path. */
function services(of, path = '') {
  return Object.entries(of).flatMap(([name, value]) => {
    if (value === null || typeof value !== 'object' || name === 'httpClient') return [];
    const at = path + name;
    return value.constructor === Object ? services(value, at + '.') : [[at, value]];
  });
}

const methods = (service) =>
  Object.getOwnPropertyNames(Object.getPrototypeOf(service)).filter(
    (name) => name !== 'constructor' && !name.startsWith('_') && typeof service[name] === 'function',
  );
const known = new Map(services(client));
assert.deepEqual([...known.keys()].sort(), [...SERVED, ...REFUSED].sort(), 'neither served nor refused');
const uncalled = new Set();
for (const name of SERVED) {
  const service = known.get(name);
  for (const method of methods(service)) {
    const call = service[method];
    uncalled.add(`${name}.${method}`);
    service[method] = (...args) => {
      uncalled.delete(`${name}.${method}`);
      return call.apply(service, args);
    };
  }
}

const refused = (code, promise) =>
  assert.rejects(promise, (error) => {
    assert.equal(error.errorCode, code === undefined ? undefined : `ERR_NGROK_${code}`);
    assert.match(error.details.get('operationId'), /^op_/);
    return true;
  });

/** Create, get, list by pages of one, update, delete. */
async function life(name, create, update) {
  const service = client[name];
  assert.ok(service, name);
  const before = (await service.list()).length;
  const made = await service.create(create);
  const read = await service.get(made.id);
  assert.equal(read.id, made.id);
  if ('token' in made) assert.equal(read.token, null, 'a token is shown once');
  const listed = await service.list(undefined, '1');
  assert.equal(listed.length, before + 1, name);
  assert.ok(listed.some((one) => one.id === made.id));
  const changed = await service.update({ id: made.id, ...update });
  for (const [field, value] of Object.entries(update)) assert.deepEqual(changed[field], value, `${name} ${field}`);
  await service.delete(made.id);
  await refused(undefined, service.get(made.id));
}

/** A self-signed certificate by openssl, as an operator would make one. */
function pair(name) {
  const directory = mkdtempSync(join(tmpdir(), 'pair-'));
  const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')];
  const flags = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`];
  execFileSync('openssl', ['req', ...flags, ...subject, '-keyout', key, '-out', cert], { stdio: 'pipe' });
  const read = [readFileSync(cert, 'utf8'), readFileSync(key, 'utf8')];
  rmSync(directory, { recursive: true });
  return read;
}

const texts = { description: 'changed', metadata: '{}' };
await life('apiKeys', { description: 'd' }, texts);
await life('credentials', { acl: ['bind:*.clinic1.internal'] }, { acl: ['bind:*.clinic2.internal'], ...texts });
await life('botUsers', { name: 'clinic 1' }, { name: 'clinic one', active: false });
await life('reservedDomains', { domain: '*.node.example.com', region: 'us' }, texts);
await life('reservedAddrs', { region: 'us' }, texts);
await life('agentIngresses', { domain: 'connect.node.example.com' }, texts);
await life('ipPolicies', {}, texts);
const policy = await client.ipPolicies.create({ description: 'clinics' });
const rule = { cidr: '203.0.113.0/24', ipPolicyId: policy.id, action: 'allow' };
await life('ipPolicyRules', rule, { cidr: '2001:db8::/32', ...texts });
const restriction = { type: 'endpoints', enforced: false, ipPolicyIds: [policy.id] };
await life('ipRestrictions', restriction, { enforced: true, ...texts });
const restricted = await client.ipRestrictions.create(restriction);
assert.deepEqual(restricted.ipPolicies.map((one) => one.id), [policy.id]);
await refused(1802, client.ipRestrictions.create(restriction));
await refused(1420, client.ipPolicies.delete(policy.id));
await client.ipRestrictions.delete(restricted.id);
const [certificatePem, privateKeyPem] = pair('app.node.example.com');
await life('tlsCertificates', { certificatePem, privateKeyPem }, texts);
await life('certificateAuthorities', { caPem: certificatePem }, texts);

const uploaded = await client.tlsCertificates.create({ certificatePem, privateKeyPem });
const domain = await client.reservedDomains.create({ domain: 'app.node.example.com', certificateId: uploaded.id });
assert.equal(domain.certificate.id, uploaded.id);
await client.reservedDomains.deleteCertificate(domain.id);
assert.equal((await client.reservedDomains.get(domain.id)).certificate, null);
const certificateManagementPolicy = { authority: 'letsencrypt', privateKeyType: 'rsa' };
await client.reservedDomains.update({ id: domain.id, certificateManagementPolicy });
await client.reservedDomains.deleteCertificateManagementPolicy(domain.id);
assert.equal((await client.reservedDomains.get(domain.id)).certificateManagementPolicy, null);

const target = { file: { directory: 'clinic' } };
await life('eventDestinations', { format: 'json', target }, texts);
const destination = await client.eventDestinations.create({ format: 'json', target });
const sources = [{ type: 'agent_session_start.v0' }];
await life('eventSubscriptions', { sources, destinationIds: [destination.id] }, texts);
const subscription = await client.eventSubscriptions.create({ sources, destinationIds: [destination.id] });
const at = { subscriptionId: subscription.id, type: 'agent_session_stop.v0' };
await client.eventSources.create(at);
assert.equal((await client.eventSources.get(at)).type, at.type);
assert.equal((await client.eventSources.list(at)).sources.length, 2);
await refused(215, client.eventSources.update(at)); // It knows none of the fields.
await client.eventSources.delete(at);
await client.eventSubscriptions.delete(subscription.id);
await client.eventDestinations.delete(destination.id);

await refused(413, client.reservedDomains.create({ domain: 'app.node.example.com' }));
await refused(600, client.credentials.create({ acl: ['clinic1.internal'] }));
await refused(1409, client.ipPolicyRules.create({ ...rule, cidr: '203.0.113.9/24' }));
await refused(227, client.reservedDomains.get(policy.id));
assert.deepEqual(await client.endpoints.list(), []);
assert.deepEqual(await client.tunnelSessions.list(), []);
await refused(undefined, client.tunnelSessions.stop('ts_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8'));
await refused(undefined, client.tunnelSessions.update({ id: 'ts_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8' }));
await client.reservedDomains.delete(domain.id);
await client.tlsCertificates.delete(uploaded.id);
await client.ipPolicies.delete(policy.id);
assert.deepEqual(await client.tunnels.list(), []);
// Nobody has signed in at an endpoint.
for (const [name, id] of [['applicationSessions', 'as_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8'], ['applicationUsers', 'au_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8']]) {
  assert.deepEqual(await client[name].list(), []);
  await refused(undefined, client[name].get(id));
  await refused(undefined, client[name].delete(id));
}
await refused(undefined, client.tunnels.get('tn_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8'));
await refused(undefined, client.tunnelSessions.get('ts_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8'));
await refused(undefined, client.tunnelSessions.restart('ts_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8'));
await refused(undefined, client.endpoints.get('ep_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8'));
for (const name of REFUSED) {
  const service = known.get(name);
  for (const method of methods(service)) {
    const arg = service[method].length && /^(update|create|replace)/.test(method) ? { id: 'x' } : 'x';
    await refused(undefined, service[method](arg));
  }
}
assert.deepEqual([...uncalled], [], 'never called');
console.log('every method answered');

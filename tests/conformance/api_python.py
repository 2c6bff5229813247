"""Every resource of the API by the unmodified Python client: each method, and each property of each answer.

Arguments: base URL, API key. Needs an account of its own (it counts what it lists). Exit code 0: all as it should be.
`api/walk.py` is the guide's walk; this is breadth: a class of the client that is neither served nor refused here, and a
method of a served class that is not called here, are failures.
"""

import inspect
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import ngrok

base_url, key = sys.argv[1:3]
client = ngrok.Client(key, base_url)

# Client classes whose resources are there.
SERVED = """AgentIngresses APIKeys ApplicationSessions ApplicationUsers BotUsers CertificateAuthorities Credentials Endpoints
    EventDestinations EventSources EventSubscriptions IPPolicies IPPolicyRules IPRestrictions ReservedAddrs ReservedDomains Secrets ServiceUsers TLSCertificates TunnelSessions Tunnels Vaults"""
# Those whose resources are not: every method is answered 404 without a code, which the client raises as NotFoundError.
REFUSED = """AbuseReports EdgeRouteBackendModule EdgeRouteCircuitBreakerModule
    EdgeRouteCompressionModule EdgeRouteIPRestrictionModule EdgeRouteOAuthModule EdgeRouteOIDCModule
    EdgeRouteRequestHeadersModule EdgeRouteResponseHeadersModule EdgeRouteSAMLModule EdgeRouteTrafficPolicyModule
    EdgeRouteUserAgentFilterModule EdgeRouteWebhookVerificationModule EdgeRouteWebsocketTCPConverterModule EdgesHTTPS
    EdgesHTTPSRoutes EdgesTCP EdgesTLS FailoverBackends
    HTTPResponseBackends HTTPSEdgeMutualTLSModule HTTPSEdgeTLSTerminationModule SSHCertificateAuthorities
    SSHCredentials SSHHostCertificates SSHUserCertificates StaticBackends TCPEdgeBackendModule
    TCPEdgeIPRestrictionModule TCPEdgeTrafficPolicyModule TLSEdgeBackendModule TLSEdgeIPRestrictionModule
    TLSEdgeMutualTLSModule TLSEdgeTLSTerminationModule TLSEdgeTrafficPolicyModule TunnelGroupBackends
    WeightedBackends"""


def classes(names):
    return {name + "Client" for name in names.split()}


def methods(kind):
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


known = {name: kind for name, kind in vars(ngrok.services).items() if name.endswith("Client") and name != "HTTPClient"}
served, refused_classes = classes(SERVED), classes(REFUSED)
assert not served & refused_classes
assert set(known) == served | refused_classes, f"neither served nor refused: {set(known) ^ (served | refused_classes)}"
called = set()


def recording(kind, name):
    method = getattr(kind, name)

    def call(*args, **kwargs):
        called.add((kind.__name__, name))
        return method(*args, **kwargs)

    setattr(kind, name, call)


uncalled = {(name, method) for name in served for method in methods(known[name])}
for name, method in uncalled:
    recording(known[name], method)


def check(obj):
    """Reads every property: the client raises KeyError for a field the server left out."""
    for name, kind in vars(type(obj)).items():
        if isinstance(kind, property):
            getattr(obj, name)
    return obj


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ngrok.Error as error:
        assert str(error.error_code).endswith(f"_{code}"), f"expected {code}, got {error}"
        assert error.details["operation_id"].startswith("op_"), error.details
        return
    raise AssertionError(f"{code} expected, but the call succeeded")


def gone(service, id):
    try:
        service.get(id)
    except ngrok.NotFoundError as error:
        assert error.http_status_code == 404 and error.error_code is None, error
        return
    raise AssertionError(f"{id} is still there")


def unserved(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ngrok.NotFoundError as error:
        assert error.error_code is None and "there is no" in error.args[1], error
        return
    raise AssertionError(f"{call} was answered")


def life(service, create, update):
    """Create, get, list, update, delete."""
    before = len(list(service.list()))
    made = check(service.create(**create))
    assert check(service.get(made.id)).id == made.id
    listed = [check(one).id for one in service.list(limit="1")]
    assert made.id in listed and len(listed) == before + 1, listed
    changed = service.update(made.id, **update)
    for name, value in update.items():
        assert getattr(changed, name) == value, (name, getattr(changed, name))
    service.delete(made.id)
    gone(service, made.id)


def pem_pair(directory, name):
    """A self-signed certificate by openssl, as an operator would make one."""
    cert, secret = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}/O=Clinic", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command, "-keyout", secret, "-out", cert], check=True, capture_output=True)
    return cert.read_text(), secret.read_text()


texts = {"description": "changed", "metadata": "{}"}
life(client.api_keys, {"description": "d"}, texts)
life(client.credentials, {"acl": ["bind:*.clinic1.internal"]}, {"acl": ["bind:*.clinic2.internal"], **texts})
life(client.bot_users, {"name": "clinic 1"}, {"name": "clinic one", "active": False})
life(client.service_users, {"name": "clinic 2"}, {"name": "clinic two", "active": False})
life(client.reserved_domains, {"domain": "*.breadth.example.com", "region": "us", "resolves_to": []}, texts)
life(client.reserved_addrs, {"region": "us"}, texts)
life(client.agent_ingresses, {"domain": "connect.breadth.example.com"}, texts)
life(client.ip_policies, {}, texts)
policy = client.ip_policies.create(description="clinics")
rule = {"cidr": "203.0.113.0/24", "ip_policy_id": policy.id, "action": "allow"}
life(client.ip_policy_rules, rule, {"cidr": "2001:db8::/32", **texts})
restriction = {"type": "endpoints", "enforced": False, "ip_policy_ids": [policy.id]}
life(client.ip_restrictions, restriction, {"enforced": True, **texts})
restricted = check(client.ip_restrictions.create(**restriction))
assert [one.id for one in restricted.ip_policies] == [policy.id], restricted
refused(1802, client.ip_restrictions.create, **restriction)
refused(1804, client.ip_restrictions.create, type="agent", enforced=False, ip_policy_ids=[])
assert [one.id for one in client.ip_restrictions.update(restricted.id, description="x").ip_policies] == [policy.id]
refused(1420, client.ip_policies.delete, policy.id)
deny = '{"on_http_request": [{"actions": [{"type": "deny"}]}]}'
internal = {"url": "https://rest-api.breadth.internal", "type": "cloud", "traffic_policy": deny}
life(client.endpoints, internal, {"traffic_policy": deny + "\n", "pooling_enabled": True, **texts})
with tempfile.TemporaryDirectory() as directory:
    certificate, secret = pem_pair(Path(directory), "app.breadth.example.com")
life(client.tls_certificates, {"certificate_pem": certificate, "private_key_pem": secret}, texts)
life(client.certificate_authorities, {"ca_pem": certificate}, texts)

uploaded = client.tls_certificates.create(certificate_pem=certificate, private_key_pem=secret)
assert uploaded.subject_common_name == "app.breadth.example.com", uploaded
assert uploaded.subject_alternative_names.dns_names == ["app.breadth.example.com"], uploaded
domain = check(client.reserved_domains.create(domain="app.breadth.example.com", certificate_id=uploaded.id))
assert domain.certificate.id == uploaded.id, domain
client.reserved_domains.delete_certificate(domain.id)
assert client.reserved_domains.get(domain.id).certificate is None
letsencrypt = ngrok.datatypes.ReservedDomainCertPolicy(client, {"authority": "letsencrypt", "private_key_type": "rsa"})
client.reserved_domains.update(domain.id, certificate_management_policy=letsencrypt)
assert check(client.reserved_domains.get(domain.id)).certificate_management_policy.private_key_type == "rsa"
client.reserved_domains.delete_certificate_management_policy(domain.id)

endpoint = client.endpoints.create(url="https://app.breadth.example.com", type="cloud", traffic_policy="")
assert endpoint.domain.id == domain.id and endpoint.traffic_policy == "", endpoint
moved = client.endpoints.update(endpoint.id, traffic_policy=deny, description="now with a policy")
assert moved.traffic_policy == deny and moved.url == endpoint.url, moved
assert [one.id for one in client.endpoints.list(id=[endpoint.id])] == [endpoint.id]
assert [one.id for one in client.endpoints.list(url=[endpoint.url])] == [endpoint.id]
refused(446, client.reserved_domains.delete, domain.id)
refused(18009, client.endpoints.create, url=endpoint.url, type="cloud", traffic_policy=deny)
refused(18006, client.endpoints.create, url="https://nobody.example.org", type="cloud", traffic_policy=deny)
refused(2201, client.endpoints.update, endpoint.id, traffic_policy=deny.replace("deny", "denny"))
refused(600, client.credentials.create, acl=["clinic1.internal"])
refused(1409, client.ip_policy_rules.create, **{**rule, "cidr": "203.0.113.9/24"})
refused(227, client.reserved_domains.get, policy.id)
assert [one.id for one in client.endpoints.list(filter=f'obj.url == "{endpoint.url}"')] == [endpoint.id]
refused(250, client.endpoints.list, filter="obj.url +")
assert list(client.tunnel_sessions.list()) == [] and list(client.tunnels.list()) == []
ksuid = policy.id.removeprefix("ipp_")
gone(client.tunnels, f"tn_{ksuid}")
gone(client.tunnel_sessions, f"ts_{ksuid}")
for action in [client.tunnel_sessions.restart, client.tunnel_sessions.stop, client.tunnel_sessions.update]:
    try:
        action(f"ts_{ksuid}")
        raise AssertionError(action)
    except ngrok.NotFoundError:
        pass

target = ngrok.datatypes.EventTarget(client, {"file": {"directory": "clinic"}})
life(client.event_destinations, {"format": "json", "target": target}, texts)
destination = client.event_destinations.create(target=target)
source = ngrok.datatypes.EventSourceReplace(client, {"type": "agent_session_start.v0"})
life(client.event_subscriptions, {"sources": [source], "destination_ids": [destination.id]}, texts)
subscription = check(client.event_subscriptions.create(sources=[source], destination_ids=[destination.id]))
assert [one.type for one in subscription.sources] == ["agent_session_start.v0"], subscription
at = {"subscription_id": subscription.id, "type": "agent_session_stop.v0"}
check(client.event_sources.create(**at))
assert check(client.event_sources.get(**at)).type == at["type"]
assert len(client.event_sources.list(subscription.id).sources) == 2
refused(216, client.event_sources.update, **at)  # The client sends no body: it knows none of the fields.
client.event_sources.delete(**at)
client.event_subscriptions.delete(subscription.id)
client.event_destinations.delete(destination.id)

life(client.vaults, {"name": "clinic", "description": "d", "metadata": "m"}, {"name": "clinics", **texts})
vault = check(client.vaults.create(name="clinic"))
assert isinstance(vault.created_by, str) and vault.last_updated_by == vault.created_by, vault
in_vault = {"name": "db", "value": "correct-horse", "vault_id": vault.id}
life(client.secrets, in_vault, {"name": "database", **texts})
secret = check(client.secrets.create(name="db", value="correct-horse", vault_name="clinic"))
assert secret.created_by.id == vault.created_by and secret.vault.id == vault.id, secret
assert secret.vault_name == "clinic" and "correct-horse" not in str(secret), secret
assert [one.id for one in client.vaults.get_secrets_by_vault(vault.id)] == [secret.id]
assert "another" not in str(check(client.secrets.update(secret.id, value="another")))
refused(23000, client.vaults.create, name="not a name")
refused(23003, client.vaults.delete, vault.id)
refused(24005, client.secrets.create, **in_vault)
named = {"body": "${secrets.get('clinic', 'db')}"}
named = f'{{"on_http_request": [{{"actions": [{{"type": "custom-response", "config": {{"body": "{named["body"]}"}}}}]}}]}}'
assert client.endpoints.update(endpoint.id, traffic_policy=named).traffic_policy == named
refused(2238, client.endpoints.update, endpoint.id, traffic_policy=named.replace("'db'", "'password'"))
client.endpoints.update(endpoint.id, traffic_policy=deny)
client.secrets.delete(secret.id)
client.vaults.delete(vault.id)
for service, id in [
    (client.endpoints, endpoint.id),
    (client.reserved_domains, domain.id),
    (client.tls_certificates, uploaded.id),
    (client.ip_restrictions, restricted.id),
    (client.ip_policies, policy.id),
]:
    service.delete(id)
    gone(service, id)
# Nobody has signed in at an endpoint.
for service, id in [
    (client.application_sessions, "as_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8"),
    (client.application_users, "au_2nQ4fJ8b9c0d1e2f3g4h5i6j7k8"),
]:
    assert list(service.list()) == []
    gone(service, id)
    try:
        service.delete(id)
    except ngrok.NotFoundError as error:
        assert error.error_code is None, error
    else:
        raise AssertionError(f"{id} was there")
for name in sorted(refused_classes):
    for method in methods(known[name]):
        call = getattr(known[name](client), method)
        # A time by default is one that the client itself cannot send.
        parameters = inspect.signature(call).parameters.values()
        wanted = [p for p in parameters if p.default is p.empty or isinstance(p.default, datetime)]
        unserved(call, **{parameter.name: "x" for parameter in wanted})
left = uncalled - called
assert not left, f"never called: {sorted(left)}"
print("every method answered")

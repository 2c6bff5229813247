"""The guide's API calls by the unmodified Python API client. One argument: JSON {base_url, api_key}."""

import json
import sys

import ngrok

want = json.loads(sys.argv[1])
client = ngrok.Client(want["api_key"], want["base_url"])

user = client.bot_users.create(name="Service User for clinic 1")
credential = client.credentials.create(
    description="Authtoken for Clinic 1", owner_id=user.id, acl=["bind:*.clinic1.internal"]
)
assert credential.token and credential.acl == ["bind:*.clinic1.internal"], credential
assert client.credentials.get(credential.id).token is None, "a token is shown once"
domain = client.reserved_domains.create(domain="*.clinic-network.com", region="us")
assert domain.domain == "*.clinic-network.com"
addr = client.reserved_addrs.create(description="Operations DB TCP Addr for Clinic 1", region="us")

forward = {"type": "forward-internal", "config": {"url": "tls://patient-db.clinic1.internal:443"}}
policy = json.dumps({"on_tcp_connect": [{"actions": [forward]}]})
endpoint = client.endpoints.create(
    url="tls://patientdb-clinic1.clinic-network.com", type="cloud", traffic_policy=policy, bindings=["public"]
)
assert endpoint.type == "cloud" and endpoint.proto == "tls", endpoint
assert json.loads(endpoint.traffic_policy) == json.loads(policy)
changed = client.endpoints.update(endpoint.id, description="changed")
assert changed.description == "changed" and changed.url == endpoint.url
forward["config"]["url"] = "tcp://operations-database.clinic1.internal:433"
client.endpoints.create(
    url=f"tcp://{addr.addr}", type="cloud", traffic_policy=json.dumps({"on_tcp_connect": [{"actions": [forward]}]})
)
assert len(list(client.endpoints.list())) == 2
assert len(list(client.endpoints.list(url=[endpoint.url]))) == 1

# More than one page, sorted by id downwards (ids order by second of creation).
made = [client.bot_users.create(name=f"user {n}").id for n in range(7)]
paged = [one.id for one in client.bot_users.list(limit="3")]
assert paged == sorted([user.id, *made], reverse=True), paged

ingress = client.agent_ingresses.create(domain="connect.example.com", description="Custom connect URL")
assert [one.domain for one in client.agent_ingresses.list()] == ["connect.example.com"], ingress
assert list(client.tunnel_sessions.list()) == []

client.endpoints.delete(endpoint.id)
try:
    client.endpoints.get(endpoint.id)
    raise AssertionError("a deleted endpoint is still there")
except ngrok.NotFoundError as error:
    assert error.operation_id.startswith("op_"), error.details
try:
    client.endpoints.create(url="tls://elsewhere.example.org", type="cloud", traffic_policy=policy)
    raise AssertionError("a name that is not reserved was taken")
except ngrok.Error as error:
    assert "18006" in str(error.error_code), error.error_code
print("walked")

"""Signed webhooks of every provider, as JSON: made with Python's own hmac and with openssl, by tables of their own.

Usage: webhooks.py BASE_URL NOW_UNIX_SECONDS. The signature of path /NAME is that of the provider NAME. Each entry has the provider's
secret, the method, the path, the headers and the body, and the same request as of two hours ago where the time is signed.
"""
import base64
import datetime
import hashlib
import hmac
import json
import subprocess
import sys
import tempfile
import urllib.parse

BASE, NOW = sys.argv[1], int(sys.argv[2])
SECRET = "a secret of the clinic's"
BODY = b'{"event": "visit.created", "patient": 7, "note": "\xc3\xa4"}'


def mac(hash_name, text, key=SECRET.encode()):
    return hmac.new(key, text, getattr(hashlib, hash_name))


def b64(data):
    return base64.b64encode(data).decode()


def rfc3339(at):
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# Providers that sign the body alone: header, hash, hex or base64, what stands before the signature.
OF_BODY = {
    "aftership": ("Aftership-Hmac-Sha256", "sha256", "base64", ""),
    "alchemy": ("X-Alchemy-Signature", "sha256", "hex", ""),
    "autodesk": ("x-adsk-signature", "sha1", "hex", "sha1hash="),
    "bitbucket": ("X-Hub-Signature", "sha256", "hex", "sha256="),
    "bolt": ("X-Bolt-Hmac-Sha256", "sha256", "base64", ""),
    "castle": ("X-Castle-Signature", "sha256", "base64", ""),
    "chargify": ("X-Chargify-Webhook-Signature-Hmac-Sha-256", "sha256", "hex", ""),
    "circleci": ("circleci-signature", "sha256", "hex", "v1="),
    "clearbit": ("X-Request-Signature", "sha1", "hex", "sha1="),
    "coinbase": ("X-CC-Webhook-Signature", "sha256", "hex", ""),
    "docusign": ("X-DocuSign-Signature-1", "sha256", "base64", ""),
    "dropbox": ("X-Dropbox-Signature", "sha256", "hex", ""),
    "facebook_graph_api": ("X-Hub-Signature-256", "sha256", "hex", "sha256="),
    "facebook_messenger": ("X-Hub-Signature-256", "sha256", "hex", "sha256="),
    "github": ("X-Hub-Signature-256", "sha256", "hex", "sha256="),
    "heroku": ("Heroku-Webhook-Hmac-SHA256", "sha256", "base64", ""),
    "instagram": ("X-Hub-Signature-256", "sha256", "hex", "sha256="),
    "intercom": ("X-Hub-Signature", "sha1", "hex", "sha1="),
    "jira": ("X-Hub-Signature", "sha256", "hex", "sha256="),
    "launch_darkly": ("X-LD-Signature", "sha256", "hex", ""),
    "linear": ("Linear-Signature", "sha256", "hex", ""),
    "modern_treasury": ("X-Signature", "sha256", "hex", ""),
    "mongodb": ("X-MMS-Signature", "sha1", "base64", ""),
    "pagerduty": ("X-PagerDuty-Signature", "sha256", "hex", "v1="),
    "pusher": ("X-Pusher-Signature", "sha256", "hex", ""),
    "sentry": ("Sentry-Hook-Signature", "sha256", "hex", ""),
    "shopify": ("X-Shopify-Hmac-SHA256", "sha256", "base64", ""),
    "signal_sciences": ("X-SigSci-Signature", "sha256", "hex", ""),
    "sonatype": ("X-Nexus-Webhook-Signature", "sha1", "hex", ""),
    "terraform": ("X-TFE-Notification-Signature", "sha512", "hex", ""),
    "twitter": ("x-twitter-webhooks-signature", "sha256", "base64", "sha256="),
    "trendmicro_conformity": ("X-Conformity-Signature", "sha256", "hex", ""),
    "typeform": ("Typeform-Signature", "sha256", "base64", "sha256="),
    "webex": ("X-Spark-Signature", "sha1", "hex", ""),
    "whatsapp": ("X-Hub-Signature-256", "sha256", "hex", "sha256="),
    "worldline": ("X-GCS-Signature", "sha256", "base64", ""),
    "xero": ("x-xero-signature", "sha256", "base64", ""),
}


def of_body(name):
    header, hash_name, form, before = OF_BODY[name]
    tag = mac(hash_name, BODY)
    return {header: before + (tag.hexdigest() if form == "hex" else b64(tag.digest()))}


def stamped(name, at):
    """Headers of providers that sign a time; None for others."""
    t = str(at)
    if name == "airship":
        return {"X-UA-Timestamp": t, "X-UA-Signature": mac("sha256", t.encode() + b":" + BODY).hexdigest()}
    if name == "box":
        t = rfc3339(at)
        tag = b64(mac("sha256", BODY + t.encode()).digest())
        return {"Box-Delivery-Timestamp": t, "Box-Signature-Primary": tag, "Box-Signature-Version": "1"}
    if name in ("svix", "clerk", "brex"):
        prefix = "webhook" if name == "brex" else "svix"
        key = base64.b64decode(SECRETS[name].removeprefix("whsec_"))
        tag = b64(mac("sha256", f"msg_1.{t}.".encode() + BODY, key).digest())
        old = b64(mac("sha256", b"of the key before", key).digest())
        return {f"{prefix}-id": "msg_1", f"{prefix}-timestamp": t, f"{prefix}-signature": f"v1,{old} v1,{tag} v2,x"}
    pairs = {
        "buildkite": ("X-Buildkite-Signature", "timestamp", "signature"),
        "calendly": ("Calendly-Webhook-Signature", "t", "v1"),
        "go1": ("Go1-Signature", "t", "v1"),
        "mux": ("Mux-Signature", "t", "v1"),
        "stripe": ("Stripe-Signature", "t", "v1"),
        "tiktok": ("TikTok-Signature", "t", "s"),
    }
    if name in pairs:
        header, time, signature = pairs[name]
        tag = mac("sha256", t.encode() + b"." + BODY).hexdigest()
        return {header: f"{time}={t},{signature}={tag}"}
    colons = {
        "frameio": ("X-Frameio-Signature", "X-Frameio-Request-Timestamp"),
        "slack": ("X-Slack-Signature", "X-Slack-Request-Timestamp"),
        "zoom": ("x-zm-signature", "x-zm-request-timestamp"),
    }
    if name in colons:
        signature, time = colons[name]
        return {time: t, signature: "v0=" + mac("sha256", b"v0:" + t.encode() + b":" + BODY).hexdigest()}
    if name == "pinwheel":
        tag = mac("sha256", b"v2:" + t.encode() + b":" + BODY).hexdigest()
        return {"X-Timestamp": t, "X-Pinwheel-Signature": "v2=" + tag}
    if name == "orb":
        t = rfc3339(at).removesuffix("Z") + ".551"
        tag = mac("sha256", b"v1:" + t.encode() + b":" + BODY).hexdigest()
        return {"X-Orb-Timestamp": t, "X-Orb-Signature": "v1=" + tag}
    if name == "graphcms":
        t = at * 1000
        told = {"Body": BODY.decode(), "EnvironmentName": "master", "TimeStamp": t}
        text = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
        return {"gcms-signature": f"sign={b64(mac('sha256', text.encode()).digest())}, env=master, t={t}"}
    if name == "contentful":
        names = "x-contentful-signed-headers,x-contentful-timestamp,x-contentful-topic"
        headers = {
            "x-contentful-signed-headers": names,
            "x-contentful-timestamp": str(at * 1000),
            "x-contentful-topic": "ContentManagement.Entry.publish",
        }
        lines = ["POST", "/contentful", ";".join(f"{name}:{headers[name]}" for name in names.split(","))]
        tag = mac("sha256", "\n".join(lines).encode() + b"\n" + BODY).hexdigest()
        return {**headers, "x-contentful-signature": tag}
    if name == "hubspot":
        t = str(at * 1000)
        tag = mac("sha256", b"POST" + (BASE + "/hubspot").encode() + BODY + t.encode())
        return {"X-HubSpot-Request-Timestamp": t, "X-HubSpot-Signature-V3": b64(tag.digest())}
    if name == "zendesk":
        t = rfc3339(at)
        tag = b64(mac("sha256", t.encode() + BODY).digest())
        return {"X-Zendesk-Webhook-Signature": tag, "X-Zendesk-Webhook-Signature-Timestamp": t}
    if name == "sendgrid":
        with tempfile.NamedTemporaryFile() as text:
            text.write(t.encode() + BODY)
            text.flush()
            sign = ["openssl", "dgst", "-sha256", "-sign", KEY.name, text.name]
            tag = subprocess.run(sign, capture_output=True, check=True).stdout
        return {
            "X-Twilio-Email-Event-Webhook-Signature": b64(tag),
            "X-Twilio-Email-Event-Webhook-Timestamp": t,
        }
    return None


KEY = tempfile.NamedTemporaryFile()
subprocess.run(
    ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", KEY.name], check=True
)
PUBLIC = subprocess.run(
    ["openssl", "ec", "-in", KEY.name, "-pubout", "-outform", "DER"], capture_output=True, check=True
).stdout
SECRETS = {
    "svix": "whsec_" + b64(b"twenty-four bytes of key"),
    "clerk": "whsec_" + b64(b"twenty-four other bytes!"),
    "brex": b64(b"a key without its prefix"),
    "microsoft_teams": b64(b"a key of a team"),
    "sendgrid": b64(PUBLIC),
}
STAMPED = (
    "airship box brex buildkite calendly clerk contentful frameio go1 graphcms hubspot mux orb pinwheel sendgrid slack"
    " stripe svix tiktok zendesk zoom"
)
FORM = [("To", "+18005551212"), ("From", "+12349013030"), ("Digits", "1234"), ("Name", "Ä ö"), ("Digits", "1234")]


def entry(name, headers, stale=None, body=BODY, path=None):
    return {
        "provider": name,
        "secret": SECRETS.get(name, SECRET),
        "path": path or "/" + name,
        "headers": headers,
        "stale": stale,
        "body": b64(body),
    }


def mailgun(at):
    tag = mac("sha256", f"{at}token".encode()).hexdigest()
    signature = {"timestamp": str(at), "token": "token", "signature": tag}
    return json.dumps({"signature": signature, "event-data": {"event": "opened"}}).encode()


def form(name, header):
    path = f"/{name}?of=clinic"
    fields = "".join(key + value for key, value in sorted(set(FORM)))
    tag = b64(mac("sha1", (BASE + path + fields).encode()).digest())
    headers = {header: tag, "Content-Type": "application/x-www-form-urlencoded"}
    return entry(name, headers, body=urllib.parse.urlencode(FORM).encode(), path=path)


def plivo():
    path = "/plivo?of=clinic&b=2%201&a="
    fields = "".join(key + value for key, value in sorted(FORM))
    text = f"{BASE}/plivo?a=&b=2 1&of=clinic.{fields}.n0nce"
    headers = {"X-Plivo-Signature-V3": b64(mac("sha256", text.encode()).digest()), "X-Plivo-Signature-V3-Nonce": "n0nce"}
    return entry("plivo", headers, body=urllib.parse.urlencode(FORM).encode(), path=path)


def hashed():
    """A body that is no form: its hash is part of the signed URL."""
    path = "/twilio?bodySHA256=" + hashlib.sha256(BODY).hexdigest()
    return entry("twilio", {"X-Twilio-Signature": b64(mac("sha1", (BASE + path).encode()).digest())}, path=path)


team = mac("sha256", BODY, base64.b64decode(SECRETS["microsoft_teams"])).digest()
entries = [entry(name, of_body(name)) for name in OF_BODY]
entries += [entry(name, stamped(name, NOW), stamped(name, NOW - 7200)) for name in STAMPED.split()]
entries += [
    entry("gitlab", {"X-Gitlab-Token": SECRET}),
    entry("microsoft_teams", {"Authorization": "HMAC " + b64(team)}),
    entry("mailgun", {"Content-Type": "application/json"}, body=mailgun(NOW)),
    entry("square", {"X-Square-HmacSha256-Signature": b64(mac("sha256", (BASE + "/square").encode() + BODY).digest())}),
    form("twilio", "X-Twilio-Signature"),
    hashed(),
    plivo(),
    form("mailchimp", "X-Mandrill-Signature"),
]
print(json.dumps(entries))

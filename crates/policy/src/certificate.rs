//! Handshake and certificate facts as expressions see them: `conn.tls.*` and `actions.ngrok.terminate_tls.*`.

use serde_json::{Map, Value, json};
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

use crate::facts::TlsFacts;
use crate::hex::hex;

/// Everything about a handshake.
pub(crate) fn tls_json(tls: &TlsFacts) -> Value {
    let mut json = json!({
        "version": tls.version,
        "cipher_suite": tls.cipher_suite,
        "sni": tls.sni,
        "negotiated_alpn": tls.alpn,
        "session_resumed": tls.resumed,
        "ja4_fingerprint": tls.ja4,
        "client": tls.client_chain.first().map_or_else(|| Value::Object(Map::new()), |der| certificate_json(der)),
        "server": certificate_json(&tls.server_leaf),
    });
    if let (Some(der), Some(client)) = (tls.client_chain.first(), json.get_mut("client")) {
        client["pem"] = pem(der).into();
    }
    json
}

/// A certificate's fields; an unreadable or absent one gives an empty map.
pub(crate) fn certificate_json(der: &[u8]) -> Value {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Value::Object(Map::new());
    };
    json!({
        "serial_number": certificate.raw_serial_as_string().replace(':', ""),
        "signature_algorithm": certificate.signature_algorithm.algorithm.to_id_string(),
        "subject": name_json(certificate.subject()),
        "issuer": name_json(certificate.issuer()),
        "san": san_json(&certificate),
        "extensions": extensions_json(&certificate),
        "validity": {
            "not_before": rfc3339(certificate.validity().not_before.timestamp()),
            "not_after": rfc3339(certificate.validity().not_after.timestamp()),
        },
    })
}

/// Common name of a certificate's subject and its serial number in hexadecimal; "" where there is none.
pub fn name_and_serial(der: &[u8]) -> (String, String) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Default::default() };
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    (name.unwrap_or_default().to_owned(), certificate.raw_serial_as_string().replace(':', ""))
}

/// Whether a certificate may be a client's at a time, as far as it says so itself: its dates (RFC 5280 section 4.1.2.5)
/// and its extended key usage (section 4.2.1.12). For a certificate that is itself a trust anchor: it has no path to
/// validate (section 6.1). Unreadable certificates may not.
pub fn may_be_a_client(der: &[u8], now_unix_s: u64) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(now) = i64::try_from(now_unix_s) else { return false };
    let validity = certificate.validity();
    let valid = validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp();
    let usable = match certificate.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.client_auth || usage.value.any,
        Err(_) => false,
    };
    valid && usable
}

fn name_json(name: &X509Name) -> Value {
    let first = |attribute: Option<&x509_parser::x509::AttributeTypeAndValue>| {
        attribute.and_then(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned()
    };
    let by_oid = |oid: &x509_parser::der_parser::oid::Oid| first(name.iter_by_oid(oid).next());
    json!({
        "@text": name.to_string(),
        "common_name": first(name.iter_common_name().next()),
        "country": first(name.iter_country().next()),
        "locality": first(name.iter_locality().next()),
        "organization": first(name.iter_organization().next()),
        "organizational_unit": first(name.iter_organizational_unit().next()),
        "postal_code": by_oid(&oid::OID_X509_POSTAL_CODE),
        "province": first(name.iter_state_or_province().next()),
        "street_address": by_oid(&oid::OID_X509_STREET_ADDRESS),
    })
}

fn san_json(certificate: &X509Certificate) -> Value {
    let (mut dns, mut mail, mut ips, mut uris) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let names = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| extension.value.general_names.as_slice());
    for name in names.unwrap_or_default() {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => mail.push((*name).to_owned()),
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => ips.extend(ip_text(bytes)),
            _ => {}
        }
    }
    let text = dns.iter().chain(&mail).chain(&ips).chain(&uris).cloned().collect::<Vec<_>>().join(",");
    json!({ "@text": text, "dns_names": dns, "email_addresses": mail, "ip_addresses": ips, "uris": uris })
}

fn ip_text(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}

fn extensions_json(certificate: &X509Certificate) -> Value {
    let one = |extension: &x509_parser::extensions::X509Extension| {
        let unreadable = matches!(extension.parsed_extension(), ParsedExtension::ParseError { .. });
        (!unreadable).then(|| {
            json!({ "id": extension.oid.to_id_string(), "critical": extension.critical, "value": hex(extension.value) })
        })
    };
    certificate.extensions().iter().filter_map(one).collect::<Vec<_>>().into()
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// Unix seconds as RFC 3339 in UTC; times outside its years give an empty text.
pub(crate) fn rfc3339(unix_secs: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_secs)
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

//! Amazon SNS: an RSA signature of members of the JSON body, by the key of a certificate that Amazon serves.
//!
//! Anybody with an account there can have a message signed: a policy that trusts one sender looks at `x-amz-sns-topic-arn`
//! behind the action, which is the topic that was signed, or absent.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::provider::Unit;
use super::signed::{Defect, Signed, check_time};
use crate::identity::{Exchange, Exchanged, Purpose, Share};

const TOPIC: &str = "x-amz-sns-topic-arn";
/// Deliveries are tried for an hour at most, with the time of the first; then five minutes between clocks.
pub(super) const TOLERANCE_SECS: u32 = 3_600 + 300;
/// Seconds that a certificate is kept, and that a failure is remembered.
const KEPT_SECS: u64 = 3_600;
const FAILED_SECS: u64 = 15;
/// Longest name of a region, and of a certificate's file, in bytes.
const REGION_BYTES_MAX: usize = 32;
const FILE_BYTES_MAX: usize = 64;

/// A message with what is told of it; what is not named here is not signed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    r#type: String,
    message_id: String,
    topic_arn: String,
    subject: Option<String>,
    message: String,
    timestamp: String,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
}

/// Whether the request is Amazon's. `answer`: what came of the request for its certificate; the request that is to be made where
/// there is none yet.
pub(super) fn verify(
    request: &Signed,
    answer: Option<&Result<Exchanged, String>>,
) -> Result<Option<Exchange>, Defect> {
    let message: Envelope = serde_json::from_slice(request.body).map_err(|_| Defect::Body)?;
    let algorithm = match message.signature_version.as_str() {
        "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        "2" => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(Defect::Body),
    };
    let text = message.signed().ok_or(Defect::Body)?;
    let signature = STANDARD.decode(&message.signature).map_err(|_| Defect::Body)?;
    check_time(Unit::Rfc3339, TOLERANCE_SECS, &message.timestamp, request.now_unix_ms)?;
    let mut topics = request.headers.get_all(TOPIC).iter();
    if topics.next().is_some_and(|topic| topic != message.topic_arn.as_str()) || topics.next().is_some() {
        return Err(Defect::Header(TOPIC));
    }
    if !is_amazons(&message.signing_cert_url) {
        return Err(Defect::Place);
    }
    let Some(answer) = answer else { return Ok(Some(question(message.signing_cert_url))) };
    let answer = answer.as_ref().map_err(|error| Defect::Away(error.clone()))?;
    if answer.status != 200 {
        return Err(Defect::Away(format!("the answer is {}", answer.status)));
    }
    let key = key(&answer.body, request.now_unix_ms).ok_or(Defect::Certificate)?;
    UnparsedPublicKey::new(algorithm, key).verify(text.as_bytes(), &signature).map_err(|_| Defect::Wrong)?;
    Ok(None)
}

impl Envelope {
    /// Names and values, a line each, in the published order.
    fn signed(&self) -> Option<String> {
        let mut lines = vec![("Message", &self.message), ("MessageId", &self.message_id)];
        match self.r#type.as_str() {
            "Notification" => {
                lines.extend(self.subject.as_ref().map(|subject| ("Subject", subject)));
                lines.push(("Timestamp", &self.timestamp));
            }
            "SubscriptionConfirmation" | "UnsubscribeConfirmation" => {
                lines.push(("SubscribeURL", self.subscribe_url.as_ref()?));
                lines.extend([("Timestamp", &self.timestamp), ("Token", self.token.as_ref()?)]);
            }
            _ => return None,
        }
        lines.extend([("TopicArn", &self.topic_arn), ("Type", &self.r#type)]);
        Some(lines.iter().flat_map(|(name, value)| [*name, "\n", value.as_str(), "\n"]).collect())
    }
}

/// `https://sns.REGION.amazonaws.com/SimpleNotificationService-ID.pem`, also of China. Nothing else is fetched.
fn is_amazons(url: &str) -> bool {
    let is_plain = |text: &str, bytes_max: usize| {
        (1..=bytes_max).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let parts = || {
        let (host, file) = url.strip_prefix("https://sns.")?.split_once('/')?;
        let region = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
        let id = file.strip_prefix("SimpleNotificationService-")?.strip_suffix(".pem")?;
        Some((region, id))
    };
    parts().is_some_and(|(region, id)| is_plain(region, REGION_BYTES_MAX) && is_plain(id, FILE_BYTES_MAX))
}

fn question(url: String) -> Exchange {
    let share = Share { key: format!("sns {url}"), answered_secs: KEPT_SECS, failed_secs: FAILED_SECS };
    Exchange { purpose: Purpose::Certificate, url, authorization: None, form: None, share }
}

/// The key of a certificate that is valid now. That it is Amazon's is known by the TLS host it came from.
fn key(pem: &[u8], now_unix_ms: i64) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    let validity = certificate.validity();
    let valid = validity.not_before.timestamp()..=validity.not_after.timestamp();
    let key = &certificate.public_key().subject_public_key.data;
    valid.contains(&now_unix_ms.div_euclid(1_000)).then(|| key.to_vec())
}

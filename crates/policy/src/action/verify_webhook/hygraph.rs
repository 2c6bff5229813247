//! Hygraph, formerly `GraphCMS`: an HMAC-SHA256 of a JSON document that holds the body as text, beside environment and time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::provider::{TOLERANCE_SECS, Unit};
use super::signed::{Defect, Signed, check_time, header_text, is_tag};

const SIGNATURE: &str = "gcms-signature";

pub(super) fn verify(secret: &str, request: &Signed) -> Result<(), Defect> {
    let form = Defect::Form(SIGNATURE);
    // `sign=BASE64, env=NAME, t=MILLISECONDS`
    let header = header_text(request.headers, SIGNATURE)?.strip_prefix("sign=");
    let (tag, rest) = header.and_then(|header| header.split_once(", env=")).ok_or(form.clone())?;
    let (environment, time) = rest.rsplit_once(", t=").ok_or(form.clone())?;
    let tag = STANDARD.decode(tag).map_err(|_| form.clone())?;
    check_time(Unit::Millis, TOLERANCE_SECS, time, request.now_unix_ms)?;
    // Signed as a number: without zeros before it.
    let time: i64 = time.parse().map_err(|_| form)?;
    let body = std::str::from_utf8(request.body).map_err(|_| Defect::Body)?;
    let quoted = |text: &str| serde_json::to_string(text).map_err(|_| Defect::Body);
    let (body, environment) = (quoted(body)?, quoted(environment)?);
    let text = format!(r#"{{"Body":{body},"EnvironmentName":{environment},"TimeStamp":{time}}}"#);
    is_tag(secret, text.as_bytes(), [tag])
}

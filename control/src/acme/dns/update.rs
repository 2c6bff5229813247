//! TXT records by updates of a zone (RFC 2136) over TCP, signed by TSIG (RFC 8945). The answer's signature is checked too.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ebbgate_model::Host;
use hickory_net::proto::op::update_message::{append, delete_by_rdata};
use hickory_net::proto::op::{Message, ResponseCode};
use hickory_net::proto::rr::rdata::TXT;
use hickory_net::proto::rr::{Name, RData, Record, TSigner, rdata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::change::Change;
use crate::acme::name::Placed;
use crate::acme::settings::TsigAlgorithm;

/// Seconds for one update.
const UPDATE_SECS_MAX: u64 = 20;
/// Seconds that resolvers may keep the record.
const TTL_SECS: u32 = 60;
/// Seconds that the two clocks may differ (RFC 8945 section 10).
const FUDGE_SECS: u16 = 300;

/// Adds a record to those of its name, or removes it from them.
pub(super) async fn update(
    server: SocketAddr,
    zone: &Host,
    key_name: &str,
    algorithm: TsigAlgorithm,
    key: Vec<u8>,
    change: Change,
    placed: &Placed,
) -> Result<(), String> {
    let signer = signer(key_name, algorithm, key)?;
    let message = message(zone, change, placed)?;
    let asked = ask(server, message, &signer);
    let answered = timeout(Duration::from_secs(UPDATE_SECS_MAX), asked).await;
    let code = answered
        .map_err(|_| format!("the name server {server} did not answer within {UPDATE_SECS_MAX} s"))??;
    match code {
        ResponseCode::NoError => Ok(()),
        code => Err(format!("the name server {server} refused the update of the zone {zone}: {code}")),
    }
}

fn signer(key_name: &str, algorithm: TsigAlgorithm, key: Vec<u8>) -> Result<TSigner, String> {
    let algorithm = match algorithm {
        TsigAlgorithm::HmacSha256 => rdata::tsig::TsigAlgorithm::HmacSha256,
        TsigAlgorithm::HmacSha384 => rdata::tsig::TsigAlgorithm::HmacSha384,
        TsigAlgorithm::HmacSha512 => rdata::tsig::TsigAlgorithm::HmacSha512,
    };
    let name = Name::from_ascii(key_name).map_err(|error| format!("the DNS key's name: {error}"))?;
    TSigner::new(key, algorithm, name, FUDGE_SECS).map_err(|error| format!("the DNS key: {error}"))
}

fn message(zone: &Host, change: Change, placed: &Placed) -> Result<Message, String> {
    let absolute = |text: &str| {
        let mut name = Name::from_ascii(text).map_err(|error| format!("`{text}` is no name: {error}"))?;
        name.set_fqdn(true);
        Ok::<_, String>(name)
    };
    let (zone, name) = (absolute(zone.as_str())?, absolute(&placed.name)?);
    if !zone.zone_of(&name) {
        return Err(format!("{} lies outside of the zone {zone}", placed.name));
    }
    let record = Record::from_rdata(name, TTL_SECS, RData::TXT(TXT::new(vec![placed.value.clone()])));
    Ok(match change {
        Change::Add => append(record.into(), zone, false, false),
        Change::Remove => delete_by_rdata(record.into(), zone, false),
    })
}

async fn ask(server: SocketAddr, mut message: Message, signer: &TSigner) -> Result<ResponseCode, String> {
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| "the clock is before 1970".to_owned())?;
    let verifier = message.finalize(signer, now.as_secs()).map_err(|error| format!("signing: {error}"))?;
    let mut verifier = verifier.ok_or("the update was not signed")?;
    let bytes = message.to_vec().map_err(|error| error.to_string())?;
    let length = u16::try_from(bytes.len()).map_err(|_| "the update is too long")?;
    let failed = |error: std::io::Error| format!("the name server {server} cannot be reached: {error}");
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    let unsigned = Message::from_vec(&answer).map_err(|error| format!("{server} answers no DNS: {error}"))?;
    if unsigned.id != message.id {
        return Err(format!("the name server {server} answers another question"));
    }
    // A refusal of the key itself is not signed (RFC 8945 section 5.3.2).
    if unsigned.signature().is_none() && unsigned.response_code != ResponseCode::NoError {
        return Ok(unsigned.response_code);
    }
    let answer = verifier
        .verify(&answer)
        .map_err(|error| format!("the answer of {server} is not signed well: {error}"))?;
    Ok(answer.response_code)
}

//! `/reserved_addrs`: TCP addresses. Host and port are the installation's to give, never chosen by the client.

use std::collections::BTreeSet;

use ebbgate_model::AddressId;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes, TextsUpdate};
use super::failure::ApiError;
use super::given::body;
use super::region;
use super::resource::{Draft, Resource};
use crate::record::{self, Endpoint, Installation, ReservedAddress, Stored, index};
use crate::store::{Range, Txn};

const TEXTS: TextCodes = TextCodes { description: 504, metadata: 505 };
/// What `region` is when the client names none.
const REGION_DEFAULT: &str = "us";

/// A reserved TCP address.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReservedAddr)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// `host:port`, without a scheme.
    addr: String,
    region: String,
    /// Legacy; always null.
    endpoint_configuration: Option<String>,
}

body! {
    /// Body of `POST /reserved_addrs`.
    Create as "ReservedAddrCreate" {
        description: String,
        metadata: String,
        region: String,
    }
}

pub(super) struct ReservedAddrs;

impl Resource for ReservedAddrs {
    const PATH: &'static str = "reserved_addrs";
    const NOUN: &'static str = "reserved address";
    const ID_PREFIXES: &'static [&'static str] = &[AddressId::PREFIX];
    const OWNED_MAX: usize = 200;
    const EMPTY_UPDATE: u32 = 506;
    const EXAMPLE: &'static str = r#"{"description": "database of clinic 1"}"#;
    type Id = AddressId;
    type Record = ReservedAddress;
    type View = View;
    type Create = Create;
    type Update = TextsUpdate;

    fn view(call: &Call, record: &ReservedAddress) -> View {
        View {
            head: Head::of::<Self>(call, record),
            addr: format!("{}:{}", record.host, record.port),
            region: record.region.clone(),
            endpoint_configuration: None,
        }
    }

    async fn create(call: &Call, body: &Create) -> Result<Draft<ReservedAddress>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let region = body.region.or_default();
        region::check(&region, 500)?;
        let taken = taken_ports(call).await?;
        let mut start = [0; 2];
        call.app.entropy.fill(&mut start);
        let port = free_port(&call.app.installation, &taken, u16::from_be_bytes(start));
        let port = port.ok_or_else(|| no_port(&call.app.installation))?;
        let id = AddressId::new(call.app.ksuid());
        let txn = record::take(Txn::new(), index::port(port), call.account, id);
        let warnings = region::ignored(&region, &call.app.installation).into_iter().collect();
        let record = ReservedAddress {
            id,
            account: call.account,
            host: call.app.installation.tcp_host.clone(),
            port,
            region: if region.is_empty() { REGION_DEFAULT.to_owned() } else { region },
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            created_at: call.app.now(),
        };
        Ok(Draft { txn, warnings, ..Draft::new(record) })
    }

    async fn update(
        _: &Call,
        stored: &Stored<ReservedAddress>,
        body: &TextsUpdate,
    ) -> Result<Draft<ReservedAddress>, ApiError> {
        TEXTS.change(stored, &body.description, &body.metadata)
    }

    async fn delete(call: &Call, stored: &Stored<ReservedAddress>) -> Result<Txn, ApiError> {
        let address = &stored.record;
        let name = format!("{}:{}", address.host, address.port);
        Ok(unused(call, address.id, &name).await?.delete(index::port(address.port)))
    }

    async fn delete_damaged(call: &Call, id: AddressId) -> Result<Txn, ApiError> {
        unused(call, id, &id.to_string()).await
    }
}

/// Refuses while a cloud endpoint listens on the address; else the compare that keeps it so.
async fn unused(call: &Call, address: AddressId, name: &str) -> Result<Txn, ApiError> {
    let endpoints = record::list::<Endpoint>(&*call.app.store, call.account, None, None).await?;
    if let Some(user) = endpoints.items.iter().find(|e| e.record.address == Some(address)) {
        let id = user.record.id;
        let message = format!("`{name}` is in use by the cloud endpoint {id}; delete that first");
        return Err(ApiError::in_use(message));
    }
    record::none_damaged(&endpoints.damaged, "endpoint", name).map_err(ApiError::in_use)?;
    Ok(Txn::new().if_none_newer(record::prefix::<Endpoint>(call.account), endpoints.revision))
}

async fn taken_ports(call: &Call) -> Result<BTreeSet<u16>, ApiError> {
    let page = call.app.store.range(Range::all(index::PORTS_PREFIX)).await?;
    let ports = page.items.iter().filter_map(|item| item.key.strip_prefix(index::PORTS_PREFIX)?.parse().ok());
    Ok(ports.collect())
}

/// A free port of the installation's range. The search begins at a random place, so that a port given back is not the
/// next one given out: its old visitors would reach a stranger's service.
fn free_port(installation: &Installation, taken: &BTreeSet<u16>, start: u16) -> Option<u16> {
    let (first, last) = (installation.tcp_port_first, installation.tcp_port_last);
    let count = u32::from(last.checked_sub(first)?) + 1;
    let at = |step: u32| u16::try_from(u32::from(first) + (u32::from(start) + step) % count).ok();
    (0..count).filter_map(at).find(|port| !taken.contains(port))
}

fn no_port(installation: &Installation) -> ApiError {
    let (first, last) = (installation.tcp_port_first, installation.tcp_port_last);
    let message = format!(
        "every port from {first} to {last} is reserved; delete an address, or have the operator widen the range"
    );
    ApiError::new(StatusCode::CONFLICT, 503, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_free_port_is_found_and_no_other() {
        let installation = Installation {
            region: "local".into(),
            connect_host: "connect.example".parse().unwrap(),
            tcp_host: "tcp.example".parse().unwrap(),
            tcp_port_first: 65_530,
            tcp_port_last: 65_535,
            random_port_first: 1,
            random_port_last: 1,
            default_domain: None,
        };
        for start in [0, 1, 7, u16::MAX] {
            let mut taken = BTreeSet::new();
            while let Some(port) = free_port(&installation, &taken, start) {
                assert!((65_530..=65_535).contains(&port) && taken.insert(port), "{port}");
            }
            assert_eq!(taken.len(), 6, "{start}");
        }
    }
}

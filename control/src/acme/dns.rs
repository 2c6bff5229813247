//! TXT records for DNS-01: which name, and how it is written. A name and its wildcard share one: only our own value is removed.

mod change;
mod hook;
mod update;

use std::time::Duration;

use ebbgate_model::Host;
use tokio::time::sleep;

use self::change::Change;
use super::name::Placed;
use super::settings::{AcmeSettings, DnsSettings};
use super::trouble::Trouble;
use crate::secret::Vault;

/// The record that proves a name. Outside of the zone that is updated, the name is expected to be a CNAME to one in it.
pub(super) fn record(dns: &DnsSettings, host: &Host, value: String) -> Placed {
    let name = dns.target(host).unwrap_or_else(|| challenge_name(host));
    Placed { name, value }
}

fn challenge_name(host: &Host) -> String {
    format!("_acme-challenge.{}", host.wildcard_suffix().unwrap_or(host.as_str()))
}

/// Writes a record, and waits as long as the operator says that name servers take.
pub(super) async fn add(settings: &AcmeSettings, vault: &Vault, placed: &Placed) -> Result<(), Trouble> {
    change(settings, vault, Change::Add, placed).await?;
    sleep(Duration::from_secs(settings.dns_wait_secs.into())).await;
    Ok(())
}

/// Takes a record away, and no other of its name.
pub(super) async fn remove(settings: &AcmeSettings, vault: &Vault, placed: &Placed) -> Result<(), Trouble> {
    change(settings, vault, Change::Remove, placed).await
}

async fn change(
    settings: &AcmeSettings,
    vault: &Vault,
    change: Change,
    placed: &Placed,
) -> Result<(), Trouble> {
    let done = match &settings.dns {
        None => Err("nobody here writes TXT records any more".to_owned()),
        Some(DnsSettings::Hook { program }) => hook::run(program, change, placed).await,
        Some(DnsSettings::Update { server, zone, key_name, algorithm, key }) => {
            match AcmeSettings::tsig_key(vault, key) {
                Ok(key) => update::update(*server, zone, key_name, *algorithm, key, change, placed).await,
                Err(error) => Err(error.0),
            }
        }
    };
    done.map_err(|message| {
        Trouble::soon(format!("the TXT record {} was not changed: {message}", placed.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::TsigAlgorithm;
    use crate::secret::Sealed;

    #[test]
    fn a_name_and_its_wildcard_share_a_record_and_others_are_delegated() {
        let dns = DnsSettings::Update {
            server: "127.0.0.1:53".parse().unwrap(),
            zone: "example.com".parse().unwrap(),
            key_name: "k".into(),
            algorithm: TsigAlgorithm::HmacSha256,
            key: Sealed::from_text(""),
        };
        let hook = DnsSettings::Hook { program: "/bin/true".into() };
        for (host, expect, delegated) in [
            ("a.example.com", "_acme-challenge.a.example.com", None),
            ("*.a.example.com", "_acme-challenge.a.example.com", None),
            ("*.example.com", "_acme-challenge.example.com", None),
            ("*.notexample.com", "notexample.com.example.com", Some("notexample.com.example.com")),
            ("clinic.org", "clinic.org.example.com", Some("clinic.org.example.com")),
        ] {
            let host: Host = host.parse().unwrap();
            assert_eq!(record(&dns, &host, "v".into()).name, expect);
            assert_eq!(dns.target(&host).as_deref(), delegated);
            assert_eq!(hook.target(&host), None);
            assert!(record(&hook, &host, "v".into()).name.starts_with("_acme-challenge."));
        }
    }
}

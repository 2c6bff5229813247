//! Reads an endpoint's record without reading its policy, where one of the same text is known already: among a million
//! endpoints there are few policies.

use std::borrow::Cow;
use std::sync::Arc;

use ebbgate_model::{
    AccountId, AddressId, Binding, CloudEndpointSpec, DomainId, EndpointId, EndpointUrl, Object, PolicyHash,
    SecretId, TrafficPolicy,
};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;

use crate::clock::UnixSecs;
use crate::record::{Endpoint, key};
use crate::store::Item;

/// An [`Endpoint`] with its policy as text. All other fields are read as they are there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what edges are not told is read to see that it can be")]
struct Unread<'a> {
    id: EndpointId,
    account: AccountId,
    url: EndpointUrl,
    binding: Binding,
    #[serde(borrow)]
    description: Cow<'a, str>,
    #[serde(borrow)]
    metadata: Cow<'a, str>,
    pooling_enabled: bool,
    #[serde(borrow)]
    traffic_policy: Cow<'a, str>,
    #[serde(borrow)]
    policy: Option<&'a RawValue>,
    domain: Option<DomainId>,
    address: Option<AddressId>,
    #[serde(borrow)]
    principal: Cow<'a, str>,
    updated_at: UnixSecs,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    secrets: Vec<SecretId>,
    created_at: UnixSecs,
}

/// What edges are told of an endpoint.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    pub(super) account: AccountId,
    pub(super) url: EndpointUrl,
    pub(super) binding: Binding,
    pub(super) pooling_enabled: bool,
    pub(super) policy: Option<Policy>,
    /// Secrets that the policy names.
    pub(super) secrets: Vec<SecretId>,
}

/// A policy that is known, or a new one.
#[derive(Debug, PartialEq)]
pub(super) enum Policy {
    Known(PolicyHash),
    New(TrafficPolicy),
}

/// Reads what edges are told; `is_known` says of which policies the content is at hand.
pub(super) fn read(item: &Item, is_known: impl Fn(&PolicyHash) -> bool) -> Result<Told, serde_json::Error> {
    if item.damaged {
        return Err(serde_json::Error::custom("its checksum does not fit what is stored"));
    }
    let unread: Unread<'_> = serde_json::from_slice(&item.value)?;
    let own = key::<Endpoint>(unread.account, unread.id);
    if own != item.key {
        return Err(serde_json::Error::custom(format_args!("it holds the record of {own}")));
    }
    let policy = |text: &RawValue| {
        // What was written by us has the hash of its text.
        let hash = PolicyHash::of_text(text.get());
        if is_known(&hash) {
            Ok(Policy::Known(hash))
        } else {
            serde_json::from_str(text.get()).map(Policy::New)
        }
    };
    Ok(Told {
        account: unread.account,
        url: unread.url,
        binding: unread.binding,
        pooling_enabled: unread.pooling_enabled,
        policy: unread.policy.map(policy).transpose()?,
        secrets: unread.secrets,
    })
}

/// Bytes of an endpoint besides its policy: ids, words and the URL.
pub(super) fn standing_bytes(spec: &CloudEndpointSpec) -> usize {
    const FIXED_BYTES: usize = 220;
    FIXED_BYTES + spec.url.host().as_str().len()
}

pub(super) fn policy_bytes(policy: &TrafficPolicy) -> usize {
    Object::Policy(Arc::new(policy.clone())).bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, encode, parse_record};
    use ebbgate_model::{Ksuid, Rule};

    fn endpoint() -> Endpoint {
        let rule = Rule { name: Some("n".into()), expressions: Vec::new(), actions: Vec::new() };
        let ksuid = Ksuid::new(1_700_000_000, [1; 16]);
        Endpoint {
            id: EndpointId::new(ksuid),
            account: AccountId::new(ksuid),
            url: "https://a.example.com".parse().unwrap(),
            binding: Binding::Public,
            description: "a \"b\"".into(),
            metadata: String::new(),
            pooling_enabled: true,
            traffic_policy: "on_http_request: []\n".into(),
            policy: Some(TrafficPolicy { on_http_request: vec![rule], ..TrafficPolicy::default() }),
            domain: Some(DomainId::new(ksuid)),
            address: None,
            principal: "ak_1".into(),
            updated_at: 1,
            warnings: vec!["w".into()],
            secrets: vec![SecretId::new(ksuid)],
            created_at: 2,
        }
    }

    fn item(key: String, value: impl Into<Vec<u8>>) -> Item {
        Item { key, value: value.into().into(), created: 1, modified: 1, lease: None, damaged: false }
    }

    #[test]
    fn a_policy_is_read_when_it_is_new() {
        let record = endpoint();
        let item = item(record.key(), encode(&record));
        let policy = record.policy.clone().unwrap();
        assert_eq!(read(&item, |_| false).unwrap().policy, Some(Policy::New(policy.clone())));
        let known = read(&item, |hash| *hash == policy.hash()).unwrap();
        assert_eq!(known.policy, Some(Policy::Known(policy.hash())));
    }

    /// Every record is damaged for both readers or for none.
    #[test]
    fn what_is_damaged_is_damaged_here_too() {
        let record = endpoint();
        let whole = serde_json::to_value(&record).unwrap();
        let mut variants = vec![whole.clone()];
        for field in whole.as_object().unwrap().keys() {
            for value in [serde_json::Value::Null, 7.into(), "x".into()] {
                let mut changed = whole.clone();
                changed[field] = value;
                variants.push(changed);
            }
            let mut less = whole.clone();
            less.as_object_mut().unwrap().remove(field);
            variants.push(less);
        }
        let mut more = whole.clone();
        more["newer"] = true.into();
        variants.push(more);
        for variant in variants {
            let item = item(record.key(), variant.to_string());
            assert_eq!(read(&item, |_| false).is_ok(), parse_record::<Endpoint>(&item).is_ok(), "{variant}");
        }
        let damaged = Item { damaged: true, ..item(record.key(), encode(&record)) };
        assert!(read(&damaged, |_| false).is_err());
    }
}

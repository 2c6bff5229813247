//! Identifiers: `<prefix>_<27-character base62 KSUID>`, time-ordered, one Rust type per kind of object.
//!
//! Knows the text form only. Who may see an object is decided elsewhere.

use std::fmt;
use std::str::FromStr;

/// Seconds between the Unix epoch and the KSUID epoch (2014-05-13T16:53:20Z).
const KSUID_EPOCH_UNIX_SECS: u64 = 1_400_000_000;
/// Length of a KSUID in base62 characters.
pub const KSUID_CHARS: usize = 27;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What each character is worth; 62 and above: it is no digit.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut digit = 0;
    while digit < BASE62.len() {
        #[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "there are 62 of 256")]
        {
            values[BASE62[digit] as usize] = digit as u8;
        }
        digit += 1;
    }
    values
};

/// Digits that one division gives.
const GROUP_DIGITS: usize = 5;
/// 62 to the power of [`GROUP_DIGITS`]; below 2^32.
const GROUP: u64 = 62 * 62 * 62 * 62 * 62;

/// A K-sortable unique identifier: 32 bits of time in seconds, 128 bits of randomness.
///
/// Its text form sorts like its value, so lists ordered by id are ordered by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ksuid([u8; 20]);

impl Ksuid {
    /// Builds an identifier from Unix time in seconds and 16 random bytes.
    ///
    /// Times outside the 136 years that 32 bits cover saturate.
    pub fn new(unix_secs: u64, entropy: [u8; 16]) -> Self {
        let secs = u32::try_from(unix_secs.saturating_sub(KSUID_EPOCH_UNIX_SECS)).unwrap_or(u32::MAX);
        let mut bytes = [0; 20];
        let (time, random) = bytes.split_at_mut(4);
        time.copy_from_slice(&secs.to_be_bytes());
        random.copy_from_slice(&entropy);
        Self(bytes)
    }

    /// Its bytes: four of the time, sixteen random ones.
    pub fn bytes(&self) -> [u8; 20] {
        self.0
    }

    /// Unix time in seconds at which it was made.
    pub fn unix_secs(&self) -> u64 {
        let [a, b, c, d, ..] = self.0;
        KSUID_EPOCH_UNIX_SECS.saturating_add(u64::from(u32::from_be_bytes([a, b, c, d])))
    }
}

impl Ksuid {
    /// Its text form, in ASCII. A request's log line and event are made of these, so it has to be quick.
    fn digits(&self) -> [u8; KSUID_CHARS] {
        let mut words = [0; 5];
        for (word, bytes) in words.iter_mut().zip(self.0.as_chunks().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        let mut text = [b'0'; KSUID_CHARS];
        for digits in text.rchunks_mut(GROUP_DIGITS) {
            let mut group = 0u64;
            // The quotient becomes shorter by about a word for each group.
            let used_up = words.iter().take_while(|word| **word == 0).count();
            for word in words.iter_mut().skip(used_up) {
                let value = (group << 32) | u64::from(*word);
                *word = u32::try_from(value / GROUP)
                    .expect("a remainder below GROUP keeps the quotient in a word");
                group = value % GROUP;
            }
            let mut group = u32::try_from(group).expect("a remainder below GROUP is a word");
            for digit in digits.iter_mut().rev() {
                let at = usize::try_from(group % 62).expect("a remainder below 62 is an index");
                *digit = *BASE62.get(at).expect("a remainder is below 62");
                group /= 62;
            }
        }
        text
    }
}

impl fmt::Display for Ksuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.digits()).expect("base62 is ASCII"))
    }
}

impl fmt::Debug for Ksuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ksuid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != KSUID_CHARS {
            return Err(IdError::Ksuid);
        }
        let mut words = [0u32; 5];
        // From the front, so that the first group is the short one: all others are whole.
        let (first, rest) = text.as_bytes().split_at(KSUID_CHARS % GROUP_DIGITS);
        for digits in std::iter::once(first).chain(rest.chunks(GROUP_DIGITS)) {
            let mut group = 0;
            for c in digits {
                let digit = VALUES.get(usize::from(*c)).filter(|digit| **digit < 62).ok_or(IdError::Ksuid)?;
                group = group * 62 + u64::from(*digit);
            }
            let mut carry = group;
            for word in words.iter_mut().rev() {
                let value = u64::from(*word) * GROUP + carry;
                *word = u32::try_from(value & u64::from(u32::MAX)).expect("half of a word of 64 bits");
                carry = value >> 32;
            }
            if carry != 0 {
                return Err(IdError::Ksuid);
            }
        }
        let mut bytes = [0u8; 20];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        Ok(Self(bytes))
    }
}

/// Why a text is not an identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The prefix before the underscore is missing or belongs to another kind of object.
    #[error("the id must start with `{expected}_`")]
    Prefix {
        /// The prefix this kind of object has.
        expected: &'static str,
    },
    /// What follows the prefix is not a KSUID.
    #[error("an id ends in 27 characters of 0-9, A-Z and a-z")]
    Ksuid,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal $(| $alias:literal)*;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ksuid);

        impl $name {
            /// The prefix this kind of object has in the API.
            pub const PREFIX: &'static str = $prefix;

            /// Names the object with this KSUID.
            pub fn new(ksuid: Ksuid) -> Self {
                Self(ksuid)
            }

            /// The part after the prefix; for tokens it is also the token's public half.
            pub fn ksuid(self) -> Ksuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let rest = [$prefix $(, $alias)*]
                    .iter()
                    .find_map(|prefix| text.strip_prefix(prefix)?.strip_prefix('_'))
                    .ok_or(IdError::Prefix { expected: $prefix })?;
                rest.parse().map(Self)
            }
        }

        as_text!($name);
    )*};
}

ids! {
    /// An account: the tenant that owns every other object and one `.internal` namespace.
    AccountId = "ac";
    /// A service user (`bot_users`, `service_users`): an owner of credentials that is not a person.
    ServiceUserId = "bot" | "service";
    /// A user: a person who signs in.
    UserId = "usr";
    /// An invitation of a person into an account.
    InvitationId = "inv";
    /// A session of a person who is signed in.
    UserSessionId = "us";
    /// A credential: an authtoken that agents present.
    CredentialId = "cr";
    /// A key of the REST API.
    ApiKeyId = "ak";
    /// A reserved domain.
    DomainId = "rd";
    /// A reserved TCP address.
    AddressId = "ra";
    /// An endpoint, cloud or agent.
    EndpointId = "ep";
    /// A custom connect URL.
    IngressId = "agin";
    /// A session of an agent at an edge.
    TunnelSessionId = "ts";
    /// An uploaded or issued TLS certificate with its key.
    CertificateId = "cert";
    /// A certificate authority that client certificates are checked against.
    AuthorityId = "ca";
    /// A named list of IP rules.
    IpPolicyId = "ipp";
    /// One rule of an IP policy.
    IpPolicyRuleId = "ipr";
    /// An account-wide rule about the addresses its visitors, agents or API calls may come from.
    IpRestrictionId = "ipx";
    /// A vault: a named group of secrets.
    VaultId = "vault";
    /// A secret in a vault.
    SecretId = "secret";
    /// The registration of a Kubernetes operator.
    KubernetesOperatorId = "k8sop";
    /// One API call, for finding it in the logs.
    OperationId = "op";
    /// Where events of an account go.
    EventDestinationId = "ed";
    /// Which events of an account go where.
    EventSubscriptionId = "esb";
    /// Something that happened, as an event tells it.
    EventId = "ev";
    /// An edge process.
    EdgeId = "edge";
    /// A visitor of endpoints, as an identity provider knows the person.
    AppUserId = "au";
    /// A session of a visitor who signed in at an endpoint.
    AppSessionId = "as";
}

/// Who owns a credential or an API key, where it is not the account itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerId {
    /// A service user.
    ServiceUser(ServiceUserId),
    /// A person.
    User(UserId),
}

impl From<ServiceUserId> for OwnerId {
    fn from(id: ServiceUserId) -> Self {
        Self::ServiceUser(id)
    }
}

impl From<UserId> for OwnerId {
    fn from(id: UserId) -> Self {
        Self::User(id)
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceUser(id) => id.fmt(f),
            Self::User(id) => id.fmt(f),
        }
    }
}

impl FromStr for OwnerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.parse::<UserId>() {
            Err(IdError::Prefix { .. }) => text.parse().map(Self::ServiceUser),
            parsed => parsed.map(Self::User),
        }
    }
}

as_text!(OwnerId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form_is_fixed() {
        let zero = Ksuid::new(KSUID_EPOCH_UNIX_SECS, [0; 16]);
        assert_eq!(zero.to_string(), "000000000000000000000000000");
        let max = Ksuid::new(u64::MAX, [0xff; 16]);
        assert_eq!(max.to_string(), "aWgEPTl1tmebfsQzFP4bxwgy80V");
    }

    #[test]
    fn refuses_other_kinds_and_damage() {
        let id = EndpointId::new(Ksuid::new(1_700_000_000, [7; 16])).to_string();
        assert_eq!(id.parse::<DomainId>(), Err(IdError::Prefix { expected: "rd" }));
        for damaged in [
            "ep_",
            "ep_!",
            "ep",
            "",
            &id[..id.len() - 1],
            &format!("{id}0"),
            "ep_zzzzzzzzzzzzzzzzzzzzzzzzzzz",
        ] {
            assert!(damaged.parse::<EndpointId>().is_err(), "{damaged}");
        }
    }

    #[test]
    fn a_service_user_answers_to_both_prefixes() {
        let id = ServiceUserId::new(Ksuid::new(1_700_000_000, [9; 16]));
        assert_eq!(format!("service_{}", id.ksuid()).parse(), Ok(id));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_owner_is_a_person_or_a_service_user() {
        let ksuid = Ksuid::new(1_700_000_000, [9; 16]);
        let (person, service) = (UserId::new(ksuid), ServiceUserId::new(ksuid));
        assert_eq!(format!("usr_{ksuid}").parse(), Ok(OwnerId::User(person)));
        assert_eq!(format!("bot_{ksuid}").parse(), Ok(OwnerId::ServiceUser(service)));
        for owner in [OwnerId::from(person), OwnerId::from(service)] {
            assert_eq!(owner.to_string().parse(), Ok(owner));
        }
        for bad in ["usr_x", "ak_x", ""] {
            assert!(bad.parse::<OwnerId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips_and_sorts(a in any::<u32>(), b in any::<u32>(), x in any::<[u8; 16]>(), y in any::<[u8; 16]>()) {
            let one = Ksuid::new(KSUID_EPOCH_UNIX_SECS + u64::from(a), x);
            let two = Ksuid::new(KSUID_EPOCH_UNIX_SECS + u64::from(b), y);
            prop_assert_eq!(one.to_string().parse::<Ksuid>(), Ok(one));
            prop_assert_eq!(one.cmp(&two), one.to_string().cmp(&two.to_string()));
        }
    }
}

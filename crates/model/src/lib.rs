//! The nouns of Ebbgate: identifiers, endpoint URLs, access rules, prefixes, policy documents as data, the `Program`
//! that control sends to an edge, and the events an edge reports.
//!
//! Nothing here opens a socket, reads a clock, draws a random number or looks at the environment: all of these are
//! arguments. What a policy *means* is `ebbgate-policy`'s business; here it is a document.

#[macro_use]
mod as_text;

mod acl;
mod code;
mod digest;
mod duration;
pub mod event;
pub mod feed;
mod host;
pub mod id;
mod join;
mod policy;
mod prefix;
mod program;
mod spec;
mod token;
mod url;

pub use acl::{ACL_RULES_MAX, Acl, AclError, AclRule};
pub use code::ErrorCode;
pub use digest::{BUCKETS, Digests, ProgramDigest};
pub use duration::parse_duration;
pub use host::{HOST_BYTES_MAX, Host, HostError, LABEL_BYTES_MAX};
pub use id::{
    AccountId, AddressId, ApiKeyId, AppSessionId, AppUserId, AuthorityId, CertificateId, CredentialId,
    DomainId, EdgeId, EndpointId, EventDestinationId, EventId, EventSubscriptionId, IdError, IngressId,
    InvitationId, IpPolicyId, IpPolicyRuleId, IpRestrictionId, Ksuid, KubernetesOperatorId, OperationId,
    OwnerId, SecretId, ServiceUserId, TunnelSessionId, UserId, UserSessionId, VaultId,
};
pub use join::{EdgeJoinString, JOIN_AUTHORITIES_MAX, JOIN_BYTES_MAX, JoinError, JoinString};
pub use policy::{Action, PolicyHash, PolicyHashError, Rule, TrafficPolicy};
pub use prefix::{Prefix, PrefixError, canonical_ip};
pub use program::{Changes, Object, ObjectKey, ObjectKeyError, Program, Shared, TableChanges};
pub use spec::{
    AddressSpec, AuthoritySpec, CertificateSpec, ChallengeSpec, CloudEndpointSpec, CredentialSpec,
    DomainSpec, EndedSessionSpec, IngressSpec, IpPolicyRule, IpPolicySpec, IpRestrictionKind,
    IpRestrictionSpec, IpRuleAction, SecretSpec, SessionKeySpec, Settings,
};
pub use token::{TOKEN_SECRET_CHARS, Token, TokenError, TokenHash};
pub use url::{Binding, EndpointUrl, INTERNAL_LABELS_MAX, Scheme, UrlError};

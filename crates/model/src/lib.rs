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
pub mod event;
pub mod feed;
mod host;
pub mod id;
mod join;
mod policy;
mod prefix;
mod program;
mod token;
mod url;

pub use acl::{ACL_RULES_MAX, Acl, AclError, AclRule};
pub use code::ErrorCode;
pub use digest::ProgramDigest;
pub use host::{HOST_BYTES_MAX, Host, HostError, LABEL_BYTES_MAX};
pub use id::{
    AccountId, AddressId, ApiKeyId, AuthorityId, CertificateId, CredentialId, DomainId, EdgeId, EndpointId,
    IdError, IngressId, InvitationId, IpPolicyId, IpPolicyRuleId, IpRestrictionId, Ksuid, OperationId,
    OwnerId, ServiceUserId, TunnelSessionId, UserId, UserSessionId,
};
pub use join::{JOIN_AUTHORITIES_MAX, JOIN_BYTES_MAX, JoinError, JoinString};
pub use policy::{Action, Rule, TrafficPolicy};
pub use prefix::{Prefix, PrefixError, canonical_ip};
pub use program::{
    AddressSpec, AuthoritySpec, CertificateSpec, CloudEndpointSpec, CredentialSpec, DiffError, DomainSpec,
    IngressSpec, IpPolicyRule, IpPolicySpec, IpRestrictionKind, IpRestrictionSpec, IpRuleAction, Program,
    ProgramDiff, Settings, TableDiff,
};
pub use token::{TOKEN_SECRET_CHARS, Token, TokenError, TokenHash};
pub use url::{Binding, EndpointUrl, INTERNAL_LABELS_MAX, Scheme, UrlError};

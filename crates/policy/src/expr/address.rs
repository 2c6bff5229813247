//! Addresses and networks as values of CEL.

use std::any::Any;
use std::net::IpAddr;

use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};
use ipnet::IpNet;

/// The type of `ip('...')`.
pub(super) static IP: Type = Type::new_unspecified_type("net.IP");

/// The type of `cidr('...')`.
pub(super) static CIDR: Type = Type::new_unspecified_type("net.CIDR");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ip(pub(super) IpAddr);

/// A network as written: its address may have host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr(pub(super) IpNet);

macro_rules! value_type {
    ($name:ident, $t:ident) => {
        impl Val for $name {
            fn get_type(&self) -> &Type {
                &$t
            }

            fn cel_type() -> &'static Type {
                &$t
            }

            fn equals(&self, other: &dyn Val) -> bool {
                other.downcast_ref::<Self>() == Some(self)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
                Box::new(*self)
            }

            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }

        impl StaticVal for $name {}
    };
}

value_type!(Ip, IP);
value_type!(Cidr, CIDR);

/// The text of an address or network value.
pub(super) fn text_of(value: &(dyn Val + '_)) -> Option<String> {
    let ip = value.downcast_ref::<Ip>().map(|ip| ip.0.to_string());
    ip.or_else(|| value.downcast_ref::<Cidr>().map(|cidr| cidr.0.to_string()))
}

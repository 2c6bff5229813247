//! Sources and destinations, in the form in which tables are looked into.

use aya_ebpf::maps::lpm_trie::Key;
use ebbgate_ebpf as shared;
use shared::{Family, PrefixKeyV4, PrefixKeyV6};

use crate::maps::{PREFIXES_V4, PREFIXES_V6};

/// A source or destination, in the form in which tables are looked into.
pub(crate) trait Address: Copy {
    const FAMILY: Family;
    /// The bit of `Config::guarding` that stands for every destination of the family.
    const GUARDING: u32;
    const VERSION: u8;

    /// The verdict of the longest prefix that covers it, or 0.
    fn verdict(self, policy: u32) -> u32;
    /// As user space writes it.
    fn sixteen(self) -> [u8; 16];
    /// What a rate is counted for.
    fn bucket(self) -> [u8; 16];
}

/// A key on the stack, where the verifier wants every store aligned, and the compiler stores eight bytes at a time.
#[repr(C, align(8))]
pub(crate) struct Aligned<T>(pub(crate) T);

#[derive(Clone, Copy)]
pub(crate) struct V4(pub(crate) u32);

impl Address for V4 {
    const FAMILY: Family = Family::V4;
    const GUARDING: u32 = shared::GUARDING_V4;
    const VERSION: u8 = 4;

    #[inline(always)]
    fn verdict(self, policy: u32) -> u32 {
        let key = PrefixKeyV4 { policy, address: self.0.to_ne_bytes() };
        let key = Aligned(Key::new(shared::PREFIX_BITS_V4, key));
        PREFIXES_V4.get(&key.0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn sixteen(self) -> [u8; 16] {
        sixteen([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), self.0])
    }

    #[inline(always)]
    fn bucket(self) -> [u8; 16] {
        self.sixteen()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct V6(pub(crate) [u32; 4]);

impl Address for V6 {
    const FAMILY: Family = Family::V6;
    const GUARDING: u32 = shared::GUARDING_V6;
    const VERSION: u8 = 6;

    #[inline(always)]
    fn verdict(self, policy: u32) -> u32 {
        let key = PrefixKeyV6 { policy, address: self.sixteen() };
        let key = Aligned(Key::new(shared::PREFIX_BITS_V6, key));
        PREFIXES_V6.get(&key.0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn sixteen(self) -> [u8; 16] {
        sixteen(self.0)
    }

    /// The /64: one host has as many addresses in it as it likes.
    #[inline(always)]
    fn bucket(self) -> [u8; 16] {
        sixteen([self.0[0], self.0[1], 0, 0])
    }
}

#[inline(always)]
pub(crate) fn sixteen(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are sixteen bytes without padding, and any bytes make either.
    unsafe { core::mem::transmute(words) }
}

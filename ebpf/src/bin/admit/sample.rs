//! Sampled drops, for a log.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::XdpContext;
use ebbgate_ebpf::Drop;

use crate::address::{Address, V4, V6};
use crate::headers::Packet;
use crate::maps::DROPS;

/// Where a packet's source address stands, in seven bits, and in the lowest whether it is IPv6. 0: nowhere.
#[derive(Clone, Copy)]
pub(crate) struct Origin(pub(crate) u32);

impl Origin {
    #[inline(always)]
    pub(crate) fn v4(offset: usize) -> Self {
        Self((offset as u32) << 1)
    }

    #[inline(always)]
    pub(crate) fn v6(offset: usize) -> Self {
        Self((offset as u32) << 1 | 1)
    }

    /// The family's number and the address.
    #[inline(always)]
    fn read(self, packet: Packet) -> Option<(u8, [u8; 16])> {
        let offset = (self.0 >> 1 & 0x7f) as usize;
        if self.0 == 0 {
            None
        } else if self.0 & 1 == 0 {
            Some((V4::VERSION, V4(packet.at(offset)?).sixteen()))
        } else {
            Some((V6::VERSION, V6(packet.at(offset)?).sixteen()))
        }
    }
}

/// Puts one drop in so many into the ring, if it has room. `what`: [`Origin`], protocol, port, from the top.
///
/// A global function like [`walk_extensions`], so that it is verified once and not for every way to a drop.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sample_drop(
    ctx: *mut xdp_md,
    one_in: u32,
    policy: u32,
    reason: u32,
    what: u32,
) -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    let random = unsafe { bpf_get_prandom_u32() };
    if random.checked_rem(one_in) != Some(0) {
        return 0;
    }
    let ctx = XdpContext::new(ctx);
    let packet = Packet { start: ctx.data(), end: ctx.data_end() };
    let (family, source) = Origin(what >> 24).read(packet).unwrap_or_default();
    let Some(mut entry) = DROPS.reserve::<Drop>(0) else { return 0 };
    entry.write(Drop { source, policy, reason, port: what as u16, family, protocol: (what >> 16) as u8 });
    entry.submit(0);
    1
}

//! The maps of the program.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use ebbgate_ebpf as shared;
use shared::{Bucket, Config, GuardKey, PrefixKeyV4, PrefixKeyV6};

#[map]
pub(crate) static PORTS: Array<u32> = Array::with_max_entries(shared::PORTS_ENTRIES, 0);
#[map]
pub(crate) static GUARDS: HashMap<GuardKey, u32> = HashMap::with_max_entries(shared::GUARDS_MAX, 0);
#[map]
pub(crate) static PREFIXES_V4: LpmTrie<PrefixKeyV4, u32> =
    LpmTrie::with_max_entries(shared::PREFIXES_ENTRIES, 0);
#[map]
pub(crate) static PREFIXES_V6: LpmTrie<PrefixKeyV6, u32> =
    LpmTrie::with_max_entries(shared::PREFIXES_ENTRIES, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(shared::COUNTERS_ENTRIES, 0);
#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static BUCKETS: LruHashMap<[u8; 16], Bucket> =
    LruHashMap::with_max_entries(shared::BUCKETS_MAX, 0);
#[map]
pub(crate) static DROPS: RingBuf = RingBuf::with_byte_size(shared::DROPS_BYTES, 0);

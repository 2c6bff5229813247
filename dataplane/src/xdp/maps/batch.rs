//! System calls that the library does not have: many entries of a map in one (`BPF_MAP_UPDATE_BATCH` and its kin), and waiting
//! for programs that run.
#![expect(unsafe_code, reason = "the kernel reads and writes buffers by their addresses")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Entries that one system call writes or reads.
pub(super) const BATCH_ENTRIES_MAX: usize = 65_536;

/// `enum bpf_cmd` of the kernel.
const LOOKUP_BATCH: libc::c_int = 24;
const UPDATE_BATCH: libc::c_int = 26;
const DELETE_BATCH: libc::c_int = 27;

/// `struct { ... } batch` of `union bpf_attr`.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// How far a batch came.
pub(super) struct Batch<E> {
    /// Entries done, in order.
    pub(super) done: usize,
    /// Whether that was all.
    pub(super) result: Result<(), E>,
}

impl<E> Batch<E> {
    /// Nothing to do.
    pub(super) fn none() -> Self {
        Self { done: 0, result: Ok(()) }
    }
}

/// Sets entries, in order.
pub(super) fn update_batch<const KEY: usize>(
    map: BorrowedFd<'_>,
    keys: &[[u8; KEY]],
    values: &[u32],
) -> Batch<io::Error> {
    let count = keys.len().min(values.len());
    let mut attributes = Attributes::new(map, count);
    attributes.keys = keys.as_ptr() as u64;
    attributes.values = values.as_ptr() as u64;
    // SAFETY: keys and values live until the call returns and hold at least `count` entries of the sizes the map was
    // made with (checked when it was loaded or adopted).
    let result = unsafe { call(UPDATE_BATCH, &mut attributes) };
    Batch { done: if result.is_ok() { count } else { attributes.count as usize }, result }
}

/// Removes entries, in order. One that is not there counts as removed.
pub(super) fn delete_batch<const KEY: usize>(map: BorrowedFd<'_>, keys: &[[u8; KEY]]) -> Batch<io::Error> {
    let mut done = 0;
    while let Some(left) = keys.get(done..).filter(|left| !left.is_empty()) {
        let mut attributes = Attributes::new(map, left.len());
        attributes.keys = left.as_ptr() as u64;
        // SAFETY: the keys live until the call returns and are of the size the map was made with.
        let result = unsafe { call(DELETE_BATCH, &mut attributes) };
        match result {
            Ok(()) => done = keys.len(),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => done += attributes.count as usize + 1,
            Err(error) => return Batch { done: done + attributes.count as usize, result: Err(error) },
        }
    }
    Batch { done: keys.len(), result: Ok(()) }
}

/// Every entry of a map. Only this process may write the map meanwhile.
pub(super) fn read_all<const KEY: usize>(map: BorrowedFd<'_>) -> io::Result<Vec<([u8; KEY], u32)>> {
    let mut entries = Vec::new();
    let mut keys = vec![[0; KEY]; BATCH_ENTRIES_MAX];
    let mut values = vec![0; BATCH_ENTRIES_MAX];
    let (mut last, mut next) = ([0; KEY], [0; KEY]);
    let mut is_first = true;
    loop {
        let mut attributes = Attributes::new(map, BATCH_ENTRIES_MAX);
        attributes.in_batch = if is_first { 0 } else { last.as_ptr() as u64 };
        attributes.out_batch = next.as_mut_ptr() as u64;
        attributes.keys = keys.as_mut_ptr() as u64;
        attributes.values = values.as_mut_ptr() as u64;
        // SAFETY: all four buffers live until the call returns; keys and values have room for `count` entries of the
        // sizes the map was made with, and the place to go on from is a key.
        let result = unsafe { call(LOOKUP_BATCH, &mut attributes) };
        let found = keys.iter().copied().zip(values.iter().copied());
        match result {
            Ok(()) => entries.extend(found.take(attributes.count as usize)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                entries.extend(found.take(attributes.count as usize));
                return Ok(entries);
            }
            Err(error) => return Err(error),
        }
        (last, is_first) = (next, false);
    }
}

/// Waits until every run of a program that had begun has ended: this command of the kernel is its RCU grace period, some
/// milliseconds, and programs run within one.
pub(super) fn wait_grace_period() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Attributes {
    fn new(map: BorrowedFd<'_>, count: usize) -> Self {
        Self {
            in_batch: 0,
            out_batch: 0,
            keys: 0,
            values: 0,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        }
    }
}

/// The system call. Afterwards `count` says how many entries were done.
///
/// # Safety
///
/// Every address in `attributes` must be good for what the command reads and writes there.
unsafe fn call(command: libc::c_int, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the attributes are a valid, zero-padded prefix of the kernel's union, and what they point at is the
    // caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<Attributes>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

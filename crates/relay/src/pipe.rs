//! Pipes that spliced bytes wait in, pooled by thread.
//!
//! A relay holds one only while bytes are in it. There are at most [`PIPES_MAX`] in the process; who gets none copies.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// Bytes a pipe is asked to hold; the kernel's bound for processes without privilege (`fs.pipe-max-size`).
pub const PIPE_BYTES: usize = 1 << 20;
/// Pipes of the process, two descriptors each.
pub const PIPES_MAX: usize = 512;
/// Empty pipes a thread keeps for the next relay that needs one.
pub const PIPES_KEPT_MAX: usize = 32;
/// Bytes a pipe must hold to be worth the calls. Past `fs.pipe-user-pages-soft` the kernel gives pipes of two pages.
const PIPE_BYTES_MIN: usize = 64 << 10;

static OPEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static KEPT: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Pipes open in this process, those kept included.
pub fn open_pipes() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// A pipe with its capacity; both ends never block.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    bytes_max: usize,
    /// Gives the place among [`PIPES_MAX`] back.
    _place: Place,
}

impl Pipe {
    /// The end that bytes come out of.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The end that bytes go into.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Bytes it can hold; fewer when they come in many small pieces.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn open() -> io::Result<Self> {
        let place = Place::take()?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused past `fs.pipe-user-pages-soft`: then it holds what a pipe holds by default, or less.
        let bytes_max = match fcntl_setpipe_size(&write, PIPE_BYTES) {
            Ok(bytes) => bytes,
            Err(_) => fcntl_getpipe_size(&write)?,
        };
        if bytes_max < PIPE_BYTES_MIN {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Self { read, write, bytes_max, _place: place })
    }
}

#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> io::Result<Self> {
        let take = |open: usize| (open < PIPES_MAX).then_some(open + 1);
        let taken = OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(|_| Self).map_err(|_| io::ErrorKind::QuotaExceeded.into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A pipe on loan and the bytes in it. Dropped empty, the pipe goes back to the thread's pool; dropped with bytes in it,
/// it is closed, since they belong to nobody else.
#[derive(Debug)]
pub(crate) struct Loan {
    pipe: Option<Pipe>,
    held: usize,
}

impl Loan {
    /// An empty pipe; an error where none is to be had.
    pub(crate) fn take() -> io::Result<Self> {
        let kept = KEPT.with_borrow_mut(Vec::pop);
        let pipe = kept.map_or_else(Pipe::open, Ok)?;
        Ok(Self { pipe: Some(pipe), held: 0 })
    }

    /// The pipe.
    pub(crate) fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("a loan has its pipe until it is dropped")
    }

    /// Bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// `n` bytes went in.
    pub(crate) fn filled(&mut self, n: usize) {
        self.held += n;
    }

    /// `n` bytes came out.
    pub(crate) fn drained(&mut self, n: usize) {
        self.held = self.held.saturating_sub(n);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take().filter(|_| self.held == 0) else { return };
        // At a thread's end its pool is gone, and the pipe with it.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < PIPES_KEPT_MAX {
                kept.push(pipe);
            }
        });
    }
}

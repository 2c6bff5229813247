//! Starts a shard's runtime: `tokio_uring` where the kernel allows it, on which the readiness of spliced connections comes by
//! operations of the ring, or a current-thread tokio runtime on epoll. Also adopts descriptors passed by
//! the service manager.
//!
//! The only module that names `tokio_uring`. docs/performance.md says what either form costs.

mod accept;
mod poll;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, RawFd};

use tokio::task::LocalSet;

pub use accept::accept;
pub use poll::Polled;

/// Submission entries of a shard's ring.
const RING_ENTRIES: u32 = 256;
/// Answers the ring keeps until they are looked at: many idle connections may wake at once.
const RING_ANSWERS: u32 = 16 << 10;

/// How a shard learns that a socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By epoll.
    Epoll,
    /// By `io_uring`; by epoll where the kernel forbids it.
    Ring,
}

/// Runs `future` to its end on this thread; tasks it spawns locally run beside it.
///
/// `index` names the shard in the one log line that says which runtime it got. [`in_ring`] tells the future.
pub fn run<F: Future>(index: usize, form: Form, future: F) -> io::Result<F::Output> {
    if form == Form::Ring {
        match ring() {
            Ok(runtime) => {
                tracing::info!(shard = index, runtime = "io_uring", "shard started");
                IN_RING.set(true);
                let output = runtime.block_on(future);
                IN_RING.set(false);
                return Ok(output);
            }
            Err(error) => tracing::warn!(shard = index, %error, "no io_uring here; the shard runs on epoll"),
        }
    }
    tracing::info!(shard = index, runtime = "epoll", "shard started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, future))
}

thread_local! {
    static IN_RING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread's runtime is a ring, so that [`Polled`] and [`accept()`] work.
pub fn in_ring() -> bool {
    IN_RING.get()
}

/// Fails where the kernel has no `io_uring` or forbids it (`kernel.io_uring_disabled`, seccomp).
fn ring() -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(RING_ANSWERS);
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&ring);
    tokio_uring::Runtime::new(&builder)
}

/// Takes over a listening socket that the service manager passed.
///
/// The descriptor must come from `sd_notify::listen_fds` and be adopted once.
pub fn adopt_listener(fd: RawFd) -> TcpListener {
    #[expect(unsafe_code, reason = "the only way to own a descriptor known by number")]
    // SAFETY: the service manager opened the descriptor for this process and names it in LISTEN_FDS; `listen` calls
    // this once per number at start, before anything else could have closed or claimed it.
    unsafe {
        TcpListener::from_raw_fd(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{self, IdleLimits};
    use ebbgate_lab::program::skip;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const FORBIDDEN: &str = "the kernel forbids io_uring";

    #[test]
    fn timers_sockets_and_local_tasks_work_in_either_form() {
        timers_sockets_and_local_tasks(Form::Epoll);
        timers_sockets_and_local_tasks(Form::Ring);
    }

    fn timers_sockets_and_local_tasks(form: Form) {
        let got = run(0, form, async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::task::spawn_local(async move {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.write_all(b"hello").await.unwrap();
            });
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut got = String::new();
            client.read_to_string(&mut got).await.unwrap();
            server.await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            got
        });
        assert_eq!(got.unwrap(), "hello");
    }

    const IDLE: IdleLimits = IdleLimits { open_ms: 60_000, half_closed_ms: 60_000 };

    async fn pair() -> (tokio::net::TcpStream, Polled) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, Polled::new(listener.accept().await.unwrap().0.into_std().unwrap()))
    }

    /// Visitor, upstream, and the relay between them on sockets whose readiness the ring reports.
    async fn chain() -> (tokio::net::TcpStream, tokio::net::TcpStream, tokio::task::JoinHandle<relay::Ended>)
    {
        let ((visitor, client), (upstream, agent)) = (pair().await, pair().await);
        let join = async move { relay::splice(&client, &agent, relay::First::default(), IDLE).await };
        (visitor, upstream, tokio::task::spawn_local(join))
    }

    #[test]
    fn a_relay_by_the_ring_carries_bulk_and_half_close() {
        run(0, Form::Ring, async {
            const BYTES: usize = 3 << 20;
            if !in_ring() {
                return skip("a_relay_by_the_ring_carries_bulk_and_half_close", FORBIDDEN);
            }
            let (mut visitor, mut upstream, relay) = chain().await;
            let bytes: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
            let ask = async {
                visitor.write_all(&bytes).await.unwrap();
                visitor.shutdown().await.unwrap();
                let mut answer = Vec::new();
                visitor.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let reply = async {
                let mut question = Vec::new();
                upstream.read_to_end(&mut question).await.unwrap();
                upstream.write_all(&question).await.unwrap();
                drop(upstream);
                question
            };
            let (answer, question) = tokio::join!(ask, reply);
            assert!(question == bytes && answer == bytes);
            let ended = relay.await.unwrap();
            assert_eq!((ended.end, ended.bytes_up), (relay::End::Finished, BYTES as u64));
        })
        .unwrap();
    }

    #[test]
    fn idle_relays_by_the_ring_hold_no_kernel_workers_and_no_pipes_and_end_when_dropped() {
        const RELAYS: usize = 1000;
        const KERNEL_WORKERS_MAX: usize = 4;
        run(0, Form::Ring, async {
            if !in_ring() {
                return skip(
                    "idle_relays_by_the_ring_hold_no_kernel_workers_and_no_pipes_and_end_when_dropped",
                    FORBIDDEN,
                );
            }
            let mut open = Vec::new();
            for _ in 0..RELAYS {
                let (mut visitor, mut upstream, relay) = chain().await;
                visitor.write_all(b"hello").await.unwrap();
                upstream.read_exact(&mut [0; 5]).await.unwrap();
                open.push((visitor, upstream, relay));
            }
            let workers = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let workers = workers.filter(|task| {
                // A thread may end while it is looked at.
                std::fs::read_to_string(task.path().join("comm"))
                    .is_ok_and(|name| name.starts_with("iou-wrk"))
            });
            assert!(workers.count() <= KERNEL_WORKERS_MAX);
            assert_eq!(relay::open_pipes(), 0);
            // A relay that is dropped closes its sockets although polls are in flight.
            for (mut visitor, upstream, relay) in open {
                relay.abort();
                assert_eq!(visitor.read(&mut [0]).await.unwrap(), 0);
                drop(upstream);
            }
        })
        .unwrap();
    }

    #[test]
    fn the_ring_accepts() {
        run(0, Form::Ring, async {
            if !in_ring() {
                return skip("the_ring_accepts", FORBIDDEN);
            }
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (sender, mut accepted) = tokio::sync::mpsc::unbounded_channel();
            let accepting =
                tokio::task::spawn_local(accept(listener, move |stream| sender.send(stream).unwrap()));
            for _ in 0..40 {
                let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
                let server = tokio::net::TcpStream::from_std(accepted.recv().await.unwrap()).unwrap();
                drop(server);
                assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            }
            accepting.abort();
        })
        .unwrap();
    }
}

//! Starts a shard's runtime: `tokio_uring` where the kernel allows `io_uring`, a plain current-thread tokio runtime
//! elsewhere. Also adopts descriptors passed by the service manager.
//!
//! The only module that names `tokio_uring`, and the only one with `unsafe`.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, RawFd};

use tokio::task::LocalSet;

/// Submission entries of a shard's ring. The shards' own traffic is readiness-driven; the ring carries little yet.
const RING_ENTRIES: u32 = 64;

/// Runs `future` to its end on this thread; tasks it spawns locally run beside it.
///
/// `index` names the shard in the one log line that says which runtime it got.
pub fn run<F: Future>(index: usize, future: F) -> io::Result<F::Output> {
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES);
    match tokio_uring::Runtime::new(&builder) {
        Ok(runtime) => {
            tracing::info!(shard = index, runtime = "io_uring", "shard started");
            Ok(runtime.block_on(future))
        }
        Err(error) => {
            tracing::warn!(shard = index, runtime = "epoll", %error, "shard started without io_uring");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(LocalSet::new().block_on(&runtime, future))
        }
    }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn timers_sockets_and_local_tasks_work() {
        let got = run(0, async {
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
}

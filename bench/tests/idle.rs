//! As many idle relays as two processes' descriptors allow, by the ring: no kernel thread and no pipe for them.

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ebbgate_lab::program::skip;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Relays wanted; each costs two descriptors here and two in the relay's process.
const RELAYS_MAX: u64 = 10_000;
/// Descriptors kept for all else.
const DESCRIPTORS_KEPT: u64 = 200;
/// Fewer would show nothing.
const RELAYS_MIN: u64 = 1_500;
const KERNEL_WORKERS_MAX: usize = 4;
/// Seconds until the relay must listen, and the longest wait for a byte.
const SECS_MAX: u64 = 30;
/// Who is asked again after all are open.
const EVERY: usize = 500;

/// A relay's process; ended when dropped.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Relay {
    /// Starts one towards `target` on a free port. None: the kernel forbids the ring.
    fn start(target: SocketAddr) -> Result<Option<(Self, SocketAddr)>> {
        let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut relay = Self(
            Command::new(env!("CARGO_BIN_EXE_edge-relay"))
                .args([at.to_string(), target.to_string(), "--ring".to_owned()])
                .stderr(Stdio::piped())
                .spawn()?,
        );
        let deadline = Instant::now() + Duration::from_secs(SECS_MAX);
        while Instant::now() < deadline {
            if relay.0.try_wait()?.is_some() {
                let mut said = String::new();
                relay.0.stderr.take().ok_or("no stderr")?.read_to_string(&mut said)?;
                return if said.contains("forbids io_uring") { Ok(None) } else { Err(said.into()) };
            }
            if TcpStream::connect(at).is_ok() {
                return Ok(Some((relay, at)));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err("the relay does not listen".into())
    }

    fn kernel_workers(&self) -> Result<usize> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id()))?.flatten();
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        Ok(tasks.map(name).filter(|name| name.starts_with("iou-wrk")).count())
    }

    /// Descriptors by what they are: sockets and pipes.
    fn descriptors(&self) -> Result<(usize, usize)> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.0.id()))?.flatten();
        let kinds: Vec<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
        // Standard output and error may be pipes of whoever runs the test.
        let of = |kind: &str| kinds.iter().filter(|link| link.to_string_lossy().starts_with(kind)).count();
        Ok((of("socket:"), of("pipe:")))
    }
}

/// A byte there and one back.
fn exchange(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    from.write_all(b"?")?;
    to.read_exact(&mut byte)?;
    to.write_all(b"!")?;
    from.read_exact(&mut byte)?;
    if byte == *b"!" { Ok(()) } else { Err("another byte came back".into()) }
}

#[test]
fn ten_thousand_idle_relays_hold_no_kernel_workers_and_no_pipes() -> Result<()> {
    let limit = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let relays = limit.map_or(RELAYS_MAX, |limit| RELAYS_MAX.min(limit.saturating_sub(DESCRIPTORS_KEPT) / 2));
    assert!(relays >= RELAYS_MIN, "raise the hard limit of descriptors");
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let Some((relay, at)) = Relay::start(service.local_addr()?)? else {
        skip("ten_thousand_idle_relays", "the kernel forbids io_uring");
        return Ok(());
    };
    // The connection that asked whether the relay listens.
    drop(service.accept()?);
    let pipes_before = relay.descriptors()?.1;
    let mut open = Vec::new();
    for _ in 0..relays {
        let mut visitor = TcpStream::connect(at)?;
        let (mut upstream, _) = service.accept()?;
        for stream in [&visitor, &upstream] {
            stream.set_read_timeout(Some(Duration::from_secs(SECS_MAX)))?;
            // So many ports would wait for a minute after the test, and others need some.
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        exchange(&mut visitor, &mut upstream)?;
        open.push((visitor, upstream));
    }
    let workers = relay.kernel_workers()?;
    assert!(workers <= KERNEL_WORKERS_MAX, "{workers} kernel workers for {relays} idle relays");
    let (sockets, pipes) = relay.descriptors()?;
    assert!(sockets >= 2 * open.len(), "{sockets} sockets for {relays} relays");
    assert!(pipes <= pipes_before, "{pipes} pipes, {pipes_before} before anybody came");
    open.iter_mut().step_by(EVERY).try_for_each(|(visitor, upstream)| exchange(visitor, upstream))
}

//! Runs a session with its endpoints until a signal, a verdict, or the edge's wish ends it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate::config::Config;
use ebbgate::edges_dialer::EdgesDialer;
use ebbgate::plan::RetryPolicy;
use ebbgate::session::{Delivery, Observer, Session, Settings, bind_request, hello, system_random};
use ebbgate::upstream::Upstream;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::env::Failure;
use super::logging;
use super::report::{Mode, Reporter, Verdict};

/// Everything a start needs beside the network; an error says why the configuration cannot start.
pub(super) fn prepare(config: &Config) -> Result<(Vec<EdgesDialer>, Vec<Arc<Upstream>>), Failure> {
    if config.agent.authtoken.is_none() {
        return Err(Failure::new(
            "there is no authtoken; write it under `agent:`, set EBBGATE_AUTHTOKEN, or run `ebbgate config add-authtoken \
             TOKEN`",
        ));
    }
    let dialers = EdgesDialer::all(&config.agent).map_err(Failure::new)?;
    let mut upstreams = Vec::new();
    for endpoint in &config.endpoints {
        let upstream = Upstream::new(endpoint)
            .map_err(|error| Failure::new(format!("endpoint `{}`: {error}", endpoint.name)))?;
        upstreams.push(Arc::new(upstream));
    }
    Ok((dialers, upstreams))
}

/// Runs to the end; blocking.
pub(super) fn run(config: Config, mode: Mode, service: bool) -> Result<(), Failure> {
    let (dialers, upstreams) = prepare(&config)?;
    let console = logging::console(&config.agent);
    logging::install(&config.agent, console)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(serve(config, mode, service, console, dialers, upstreams))
}

async fn serve(
    config: Config,
    mode: Mode,
    service: bool,
    console: bool,
    dialers: Vec<EdgesDialer>,
    upstreams: Vec<Arc<Upstream>>,
) -> Result<(), Failure> {
    let listening =
        |kind| signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")));
    let (mut terminate, mut interrupt) =
        (listening(SignalKind::terminate())?, listening(SignalKind::interrupt())?);
    let (to_verdict, mut verdict) = watch::channel(None);
    let names: BTreeMap<_, _> =
        config.endpoints.iter().map(|e| (e.name.clone(), e.upstream.address.to_string())).collect();
    let reporter = Reporter::new(mode, console, names, to_verdict);
    let observer: Observer = Arc::new(move |event| reporter.hear(&event));
    let session = Session::start_all(dialers.into_iter().map(|dialer| Settings {
        dialer: Arc::new(dialer),
        hello: hello(&config.agent, &hostname(), service),
        heartbeat_interval: config.agent.heartbeat_interval,
        heartbeat_tolerance: config.agent.heartbeat_tolerance,
        remote_management: config.agent.remote_management,
        random: system_random(),
        observer: Arc::clone(&observer),
    }));
    for (endpoint, upstream) in config.endpoints.iter().zip(upstreams) {
        let (session, name, bind) = (session.clone(), endpoint.name.clone(), bind_request(endpoint));
        // The outcome is reported by event, however long it takes.
        tokio::spawn(async move {
            let _ = session.add(&name, bind, RetryPolicy::Forever, Delivery::Forward(upstream)).await;
        });
    }
    // Ready means running and trying: a service must not fail to start because its edge is away.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let ended = tokio::select! {
        _ = terminate.recv() => Verdict::Stop,
        _ = interrupt.recv() => Verdict::Stop,
        heard = verdict.wait_for(Option::is_some) => {
            heard.ok().and_then(|verdict| verdict.clone()).unwrap_or(Verdict::Stop)
        }
    };
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    session.close().await;
    match ended {
        Verdict::Stop => Ok(()),
        Verdict::Fail(text) => Err(Failure::new(text)),
    }
}

/// Every visitor takes two descriptors. Shells and supervisors start programs with a low soft limit, for the sake of those
/// that use select(2); the hard limit is what the administrator meant.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

/// This host's name: the kernel's, or the configured one where a sandbox hides `/proc/sys`.
pub(super) fn hostname() -> String {
    let places = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let name = places.iter().find_map(|path| std::fs::read_to_string(path).ok());
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}

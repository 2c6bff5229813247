//! A certificate authority that checks a name by TLS-ALPN-01 (RFC 8737): one handshake with the challenge's certificate, and
//! the connection is over. Only for a name that is being proved; every other hello goes its usual way.

use std::sync::Arc;

use ebbgate_model::Host;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Duration, timeout};

use super::conn::ConnLog;
use crate::net::hello::{Hello, finish_handshake};
use crate::net::socket::Socket;
use crate::net::tls::{ALPN_ACME_TLS, Protocols, default_settings};
use crate::state::shard::Shard;

/// Seconds to wait for the end to be taken.
const CLOSE_SECS_MAX: u64 = 2;

/// The certificate that proves the name, if the hello asks for it and nothing else.
pub(super) fn certificate(shard: &Shard, name: &Host, hello: &Hello) -> Option<Arc<CertifiedKey>> {
    let asks = !hello.postgres && hello.tls.offers(ALPN_ACME_TLS);
    asks.then(|| shard.edge().tables.load().challenges.tls_alpn(name).cloned()).flatten()
}

/// Shows the certificate and closes.
pub(super) async fn serve(shard: Shard, socket: Socket, certificate: Arc<CertifiedKey>, log: ConnLog) {
    let config =
        shard.configs().borrow_mut().get(&default_settings(), Some(&certificate), Protocols::AcmeTls);
    let ended = match config {
        Ok(config) => finish_handshake(socket, config).await,
        Err(error) => return log.refuse(None, error.to_string()),
    };
    match ended {
        Ok(mut stream) => {
            let _ = timeout(Duration::from_secs(CLOSE_SECS_MAX), stream.shutdown()).await;
            log.done(None, "showed the ACME challenge's certificate");
        }
        Err(error) => log.refuse(None, error.to_string()),
    }
}

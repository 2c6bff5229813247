//! What the log says of strangers who come again and again.

use ebbgate_edge::log::REFUSALS_PER_SOURCE_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::lab::Lab;

#[tokio::test]
async fn repeated_refusals_of_a_source_are_summed_in_the_log() {
    const VISITS: u64 = 200;
    let mut lab = Lab::start();
    for _ in 0..VISITS {
        let mut stranger = TcpStream::connect(lab.tls).await.unwrap();
        stranger.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let _ = stranger.read_to_end(&mut Vec::new()).await;
    }
    for _ in 0..VISITS {
        assert!(lab.event().await.outcome.contains("no TLS hello"), "events are complete");
    }
    let summed = lab.edge.metrics.refusals_summed.get();
    // A new minute may begin meanwhile, and has lines of its own.
    assert!((VISITS - 3 * REFUSALS_PER_SOURCE_MAX..VISITS).contains(&summed), "{summed}");
}

//! Ebbgate's outbound agent as a library: reach a private service through an edge, without opening a port.
//!
//! ```no_run
//! use ebbgate::{Session, Trust};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let session = Session::builder()
//!     .authtoken("27 characters, an underscore and 21 more")
//!     .trust(Trust::File("/etc/ebbgate/connect-ca.pem".into()))
//!     .connect("connect.example.com:4443")
//!     .await?;
//!
//! // Streams of your own:
//! let mut listener = session.listen("https://metrics.clinic1.internal").await?;
//! while let Some(connection) = listener.accept().await {
//!     tokio::spawn(async move {
//!         let mut stream = connection.stream; // AsyncRead + AsyncWrite
//!         tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await
//!     });
//! }
//!
//! // Or everything to an upstream:
//! let database = session.forward("tls://patient-db.clinic1.internal", "5432").await?;
//! println!("{} is online", database.url());
//! # Ok(())
//! # }
//! ```
//!
//! A session reconnects and rebinds by itself until it is closed or dropped. The modules below are what the `ebbgate`
//! command is made of; programs need only what is re-exported here.

pub mod address;
pub mod backoff;
pub mod claims;
pub mod config;
pub mod dial;
pub mod edge_dialer;
pub mod edges;
pub mod edges_dialer;
pub mod links;
pub mod network;
pub mod path;
pub mod plan;
mod policy;
pub mod proxy;
pub mod quic;
pub mod relay;
mod sdk;
pub mod service;
pub mod session;
pub mod stream;
pub mod terminate;
pub mod trust;
pub mod upstream;

pub use ebbgate_relay::Prefixed;
pub use plan::Refusal;
pub use sdk::{Forwarding, Listener, SdkError, Session, SessionBuilder};
pub use session::Accepted;
pub use stream::Stream;
pub use trust::Trust;

//! The guide's clinic, served by the unmodified Rust SDK. One argument: JSON, see ../../README.md.

use std::error::Error;

use ngrok::config::{ForwarderBuilder, TunnelBuilder};
use ngrok::tunnel::EndpointInfo;
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let want: Value = serde_json::from_str(&std::env::args().nth(1).ok_or("one argument, JSON")?)?;
    let text = |key: &str| want[key].as_str().unwrap_or_default().to_owned();
    let session = ngrok::Session::builder()
        .authtoken(text("authtoken"))
        .server_addr(text("server"))?
        .ca_cert(std::fs::read(text("ca"))?.into())
        .connect()
        .await?;
    let refused = match session.http_endpoint().domain(text("foreign")).listen().await {
        Ok(_) => String::new(),
        Err(error) => format!("{error:?}"),
    };
    let http = format!("http://127.0.0.1:{}", want["http"]).parse::<url::Url>()?;
    let tcp = format!("tcp://127.0.0.1:{}", want["tcp"]).parse::<url::Url>()?;
    let one = session.http_endpoint().domain(text("https_host")).listen_and_forward(http).await?;
    let two = session.tls_endpoint().domain(text("tls_host")).listen_and_forward(tcp.clone()).await?;
    let three = session.tcp_endpoint().remote_addr(text("tcp_addr")).listen_and_forward(tcp).await?;
    println!("{}", json!({ "refused": refused, "urls": [one.url(), two.url(), three.url()] }));
    std::future::pending().await
}

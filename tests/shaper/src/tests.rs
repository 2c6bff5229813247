//! The path does to datagrams what it was told to.

use super::*;

async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<SocketAddr>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (from, sources) = mpsc::unbounded_channel();
    spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((length, source)) = socket.recv_from(&mut bytes).await {
            let _ = from.send(source);
            let _ = socket.send_to(&bytes[..length], source).await;
        }
    });
    (address, sources)
}

async fn ask(client: &UdpSocket, shaper: &Shaper, word: &[u8]) {
    client.send_to(word, shaper.address).await.unwrap();
    let mut got = [0; 64];
    let (length, from) = client.recv_from(&mut got).await.unwrap();
    assert_eq!((&got[..length], from), (word, shaper.address));
}

#[tokio::test]
async fn carries_renames_and_swallows() {
    let (server, mut sources) = echo().await;
    let shaper = Shaper::start(server, 1).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    ask(&client, &shaper, b"one").await;
    shaper.rename();
    ask(&client, &shaper, b"two").await;
    assert_ne!(sources.recv().await, sources.recv().await, "another name");
    assert_eq!((shaper.carried(), shaper.lost()), (4, 0));
    shaper.set(Weather::black_hole());
    client.send_to(b"three", shaper.address).await.unwrap();
    while shaper.lost() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(sources.try_recv().is_err());
    shaper.set(Weather::default());
    ask(&client, &shaper, b"four").await;
}

#[tokio::test]
async fn delays_both_ways() {
    let (server, _sources) = echo().await;
    let shaper = Shaper::start(server, 1).await.unwrap();
    shaper.set(Weather::delay_ms(30));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked = Instant::now();
    ask(&client, &shaper, b"late").await;
    assert!(asked.elapsed() >= Duration::from_millis(58));
}

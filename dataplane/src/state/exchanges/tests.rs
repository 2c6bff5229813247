//! The bounds of what is remembered, and hostile providers on real sockets.

use std::sync::atomic::{AtomicUsize, Ordering};

use ebbgate_policy::identity::{Purpose, Share};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::state::endpoint::fixture::account;

fn over(bytes: usize, secs: u64) -> Over {
    let answer = Ok(Exchanged { status: 200, at_unix_secs: 0, body: vec![0; bytes].into() });
    Over { answer, until: Instant::now() + Duration::from_secs(secs) }
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_and_nobody_crowds_out_others() {
    let mut accounts = HashMap::new();
    remember(&mut accounts, account(1), "mine", over(100, 600));
    for n in 0..2 * OF_ACCOUNT_MAX {
        let secs = 1_000 + u64::try_from(n).unwrap();
        remember(&mut accounts, account(2), &n.to_string(), over(EXCHANGE_BYTES_MAX, secs));
    }
    let (mine, theirs) = (&accounts[&account(1)], &accounts[&account(2)]);
    assert!(mine.over.contains_key("mine"));
    assert!(theirs.bytes <= BYTES_OF_ACCOUNT_MAX && theirs.over.len() <= OF_ACCOUNT_MAX);
    assert!(theirs.over.contains_key(&(2 * OF_ACCOUNT_MAX - 1).to_string()), "the newest stays");
}

#[tokio::test(start_paused = true)]
async fn what_is_over_goes_first() {
    let mut kept = Account::default();
    kept.keep("old".into(), over(10, 1));
    kept.keep("new".into(), over(10, 600));
    kept.keep("new".into(), over(20, 600));
    assert_eq!(kept.bytes, 30);
    kept.forget_first(Instant::now() + Duration::from_secs(2));
    assert!(kept.over.contains_key("new") && kept.over.len() == 1 && kept.bytes == 20);
}

/// A provider on loopback that answers every request the same, and how often it was asked.
async fn provider(response: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, asked) = (format!("http://{}/token", listener.local_addr().unwrap()), Arc::default());
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (response, count) = (response.clone(), Arc::<AtomicUsize>::clone(&count));
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                count.fetch_add(1, Ordering::SeqCst);
                let _ = socket.write_all(response.as_bytes()).await;
            });
        }
    });
    (url, asked)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn exchanges(allow_private: bool) -> Exchanges {
    let fetcher = Fetcher::new(None, allow_private).unwrap();
    Exchanges::new(Arc::new(fetcher), Handle::current(), &Metrics::new())
}

fn exchange(url: &str, key: &str, secs: u64) -> Arc<Exchange> {
    let share = Share { key: key.into(), answered_secs: secs, failed_secs: secs };
    let form = Some("grant_type=refresh_token".to_owned());
    Arc::new(Exchange { purpose: Purpose::Refresh, url: url.into(), authorization: None, form, share })
}

#[tokio::test]
async fn what_can_be_spent_once_is_spent_once() {
    let (url, asked) = provider(ok("{}")).await;
    let exchanges = exchanges(true);
    let ask = |_| {
        let (exchanges, exchange) = (exchanges.clone(), exchange(&url, "a", 600));
        tokio::spawn(async move { exchanges.get(account(1), exchange).await.map(|got| got.status) })
    };
    let asking: Vec<_> = (0..20).map(ask).collect();
    for one in asking {
        assert_eq!(one.await.unwrap(), Ok(200));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(exchanges.get(account(1), exchange(&url, "a", 600)).await.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 1, "its answer is remembered");
    assert!(exchanges.get(account(2), exchange(&url, "a", 0)).await.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 2, "accounts share nothing");
    assert!(exchanges.get(account(2), exchange(&url, "a", 0)).await.is_ok());
    assert_eq!(asked.load(Ordering::SeqCst), 3, "its time is over");
}

#[tokio::test]
async fn providers_lead_to_no_inner_address_and_are_not_followed() {
    let (url, asked) = provider(ok("{}")).await;
    let refused = exchanges(false).get(account(1), exchange(&url, "a", 0)).await.unwrap_err();
    assert!(refused.contains("private address") && asked.load(Ordering::SeqCst) == 0, "{refused}");
    for inner in ["http://169.254.169.254/latest", "http://localhost/", "http://[::1]/", "ftp://example.com/"]
    {
        assert!(exchanges(false).get(account(1), exchange(inner, "a", 0)).await.is_err(), "{inner}");
    }
    let (inner, met) = provider(ok("{}")).await;
    let redirect = format!("HTTP/1.1 302 Found\r\nlocation: {inner}\r\ncontent-length: 0\r\n\r\n");
    let (url, _) = provider(redirect).await;
    let answer = exchanges(true).get(account(1), exchange(&url, "a", 0)).await.unwrap();
    assert!(answer.status == 302 && met.load(Ordering::SeqCst) == 0, "{answer:?}");
    let (url, _) = provider(ok(&" ".repeat(EXCHANGE_BYTES_MAX + 1))).await;
    let endless = exchanges(true).get(account(1), exchange(&url, "a", 0)).await.unwrap_err();
    assert!(endless.contains("longer than"), "{endless}");
}

#[tokio::test]
async fn requests_under_way_are_bounded_for_each_account() {
    let exchanges = exchanges(true);
    let mut held = Vec::new();
    for n in 0..UNDER_WAY_MAX {
        held.push(exchanges.plan(account(1), &n.to_string()));
    }
    assert!(held.iter().all(|plan| matches!(plan, Plan::Begin(..))));
    assert!(matches!(exchanges.plan(account(1), "0"), Plan::Wait(_)), "shared with the one under way");
    let refused = exchanges.get(account(1), exchange("http://127.0.0.1:1/", "more", 0)).await.unwrap_err();
    assert!(refused.contains("under way already"), "{refused}");
    let (other, _) = provider(ok("{}")).await;
    assert!(exchanges.get(account(2), exchange(&other, "a", 0)).await.is_ok());
}

#[test]
fn an_exchange_whose_task_ends_without_an_answer_leaves_its_place_free() {
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let background =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fetcher = Arc::new(Fetcher::new(None, true).unwrap());
    let exchanges = Exchanges::new(fetcher, background.handle().clone(), &Metrics::new());
    here.block_on(async {
        // Takes connections, and answers none.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let asking = {
            let (exchanges, exchange) = (exchanges.clone(), exchange(&url, "a", 600));
            tokio::spawn(async move { exchanges.get(account(1), exchange).await })
        };
        let _asked = silent.accept().await.unwrap();
        assert_eq!(exchanges.accounts()[&account(1)].under_way.len(), 1);
        // Drops the task where it waits, as a panic does.
        background.shutdown_background();
        let given_up = tokio::time::timeout(Duration::from_secs(30), asking).await.unwrap().unwrap();
        assert_eq!(given_up.unwrap_err(), "the request was given up");
        assert!(exchanges.accounts().is_empty(), "the next request with this key begins anew");
    });
}

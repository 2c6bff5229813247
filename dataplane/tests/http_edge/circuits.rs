//! `circuit-breaker`: what visitors get while the circuit of an endpoint is open, and when it closes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::lab::{Lab, Made, local, read_strictly, scripted};

const POLICY: &str = r#"{"on_http_request":[{"actions":[{"type":"circuit-breaker","config":
    {"error_threshold":0.5,"volume_threshold":2,"window_duration":"10s","tripped_duration":"5s"}}]}]}"#;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_503_3202_until_a_request_succeeds() {
    local(async {
        let lab = Lab::default();
        let (status, asked) = (Rc::new(Cell::new(500)), Rc::new(Cell::new(0)));
        let (says, asks) = (status.clone(), asked.clone());
        let upstream = scripted(move |mut io| {
            let (says, asks) = (says.clone(), asks.clone());
            async move {
                if let Ok(Some(_)) = read_strictly(&mut io, &mut Vec::new()).await {
                    asks.set(asks.get() + 1);
                    let answer = format!("HTTP/1.1 {} Said\r\nContent-Length: 0\r\n\r\n", says.get());
                    let _ = io.write_all(answer.as_bytes()).await;
                }
            }
        });
        lab.agent("http://a.example.com", Made { policy: Some(POLICY), ..Made::default() }, upstream);
        for _ in 0..2 {
            assert!(lab.talk(GET).await.starts_with("HTTP/1.1 500 "));
        }
        let open = lab.talk(GET).await;
        assert!(open.starts_with("HTTP/1.1 503 "), "{open}");
        assert!(open.contains("\r\nngrok-error-code: ERR_NGROK_3202\r\n"), "{open}");
        assert!(open.contains("\r\nretry-after: 5\r\n"), "{open}");
        assert_eq!(asked.get(), 2, "the upstream was left alone");
        assert_eq!(lab.events().pop().unwrap().decisions.circuit_breaker, "deny");

        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(lab.talk(GET).await.starts_with("HTTP/1.1 500 "), "one request tries");
        assert!(lab.talk(GET).await.starts_with("HTTP/1.1 503 "), "and opens it again");
        status.set(204);
        tokio::time::advance(Duration::from_secs(5)).await;
        for _ in 0..2 {
            assert!(lab.talk(GET).await.starts_with("HTTP/1.1 204 "));
        }
        assert_eq!(lab.events().pop().unwrap().decisions.circuit_breaker, "allow");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn visitors_that_go_away_do_not_open_it() {
    local(async {
        let lab = Lab::default();
        let silent = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
        });
        lab.agent("http://a.example.com", Made { policy: Some(POLICY), ..Made::default() }, silent);
        for n in 1..=3 {
            let (mut io, serving) = lab.visit_http();
            io.write_all(GET).await.unwrap();
            while lab.opened() < n {
                tokio::task::yield_now().await;
            }
            drop(io);
            serving.await.unwrap();
        }
        assert_eq!(lab.opened(), 3, "each was let through");
    })
    .await;
}

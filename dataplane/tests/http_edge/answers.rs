//! One answer for one request: an early answer, a refusal and what an upstream says before it, each alone.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Lab, Made, local, read_until, scripted};

/// An upstream that answers as soon as it has the head, with the first bytes of a longer body, and reads on.
fn early_and_unfinished(lab: &Lab) {
    let upstream = scripted(|mut io| async move {
        let _ = io.read(&mut [0; 1024]).await;
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\npart").await;
        while matches!(io.read(&mut [0; 1024]).await, Ok(1..)) {}
    });
    lab.agent("http://a.example.com", Made::default(), upstream);
}

#[tokio::test(start_paused = true)]
async fn a_bad_chunk_after_the_answer_began_ends_the_connection_and_writes_nothing_into_it() {
    local(async {
        for bad in ["zz\r\n", "5\nhello\n", "3\r\nabcd\r\n", "0\r\nContent-Length: 1\r\n\r\n", "1;a=\"\r\n"] {
            let lab = Lab::default();
            early_and_unfinished(&lab);
            let (mut io, serving) = lab.visit_http();
            let head = "POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
            io.write_all(head.as_bytes()).await.unwrap();
            let answer = read_until(&mut io, "part").await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("part"), "{answer}");
            io.write_all(bad.as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut io, "no end").await, "", "{bad:?}");
            serving.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_body_is_refused_once() {
    local(async {
        for bad in ["zz\r\n", "5\nhello\n", "3\r\nabcd\r\n"] {
            let lab = Lab::default();
            let silent = scripted(|mut io| async move {
                let _ = io.read_to_end(&mut Vec::new()).await;
            });
            lab.agent("http://a.example.com", Made::default(), silent);
            let request = format!(
                "POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{bad}"
            );
            let read = lab.talk(request.as_bytes()).await;
            assert_eq!((read.matches("HTTP/1.1 ").count(), read.matches("HTTP/1.1 400 ").count()), (1, 1), "{read}");
        }
    })
    .await;
}

//! What an application speaks, from its first bytes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::io::poll_read_buf;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4). No HTTP/1 request begins so: the method PRI is reserved.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// Reads until it is clear what is spoken; the bytes read are given back to be read again. The first may come within `idle`, and what it takes
/// besides within `head` after it.
///
/// # Errors
/// If the connection breaks, or nothing (more) comes in time. A connection that ends without a byte is HTTP/1 that says nothing.
pub async fn detect(stream: &mut TcpStream, idle: Duration, head: Duration) -> io::Result<(Spoken, Bytes)> {
    let mut read = BytesMut::with_capacity(1024);
    let mut end = Instant::now() + idle;
    loop {
        let first = read.is_empty();
        let n = timeout_at(end, poll_fn(|cx| poll_read_buf(Pin::new(&mut *stream), cx, &mut read))).await??;
        if first {
            end = Instant::now() + head;
        }
        let common = read.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        match common {
            _ if common == PREFACE.len() => return Ok((Spoken::Http2, read.freeze())),
            _ if common < read.len() || n == 0 => return Ok((Spoken::Http1, read.freeze())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What becomes of a connection on which this was said and then nothing, and after what time.
    async fn said(text: &str) -> (io::Result<Spoken>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
        let (mut stream, _) = listener.accept().await.expect("a connection");
        client.write_all(text.as_bytes()).await.expect("written");
        if !text.is_empty() {
            stream.readable().await.expect("readable");
        }
        tokio::time::pause();
        let start = Instant::now();
        let spoken = detect(&mut stream, Duration::from_secs(3600), Duration::from_secs(10)).await;
        let took = start.elapsed();
        tokio::time::resume();
        (spoken.map(|(spoken, _)| spoken), took)
    }

    #[tokio::test]
    async fn what_begins_like_http2_has_the_time_of_a_head() {
        for (text, seconds) in [("", 3600), ("P", 10), ("PRI * HTTP/2.0\r\n\r\nSM", 10)] {
            let (spoken, took) = said(text).await;
            assert_eq!(
                (spoken.map_err(|e| e.kind()), took.as_secs()),
                (Err(io::ErrorKind::TimedOut), seconds),
                "{text}"
            );
        }
        for (text, spoken) in [("PO", Spoken::Http1), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Spoken::Http2)] {
            let (found, took) = said(text).await;
            assert_eq!((found.ok(), took.as_secs()), (Some(spoken), 0), "{text}");
        }
    }
}

//! What an application speaks, from its first bytes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
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

/// Reads until it is clear what is spoken; the bytes read are given back to be read again. The caller bounds the time.
///
/// # Errors
/// If the connection breaks. A connection that ends without a byte is HTTP/1 that says nothing.
pub async fn detect(stream: &mut TcpStream) -> io::Result<(Spoken, Bytes)> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        let n = poll_fn(|cx| poll_read_buf(Pin::new(&mut *stream), cx, &mut read)).await?;
        let common = read.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        match common {
            _ if common == PREFACE.len() => return Ok((Spoken::Http2, read.freeze())),
            _ if common < read.len() || n == 0 => return Ok((Spoken::Http1, read.freeze())),
            _ => {}
        }
    }
}

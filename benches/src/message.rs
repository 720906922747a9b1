//! As much HTTP/1.1 as a load generator needs, and no tolerance: an answer that is not exactly the one that the backend
//! gave is an error, so that no proxy looks cheap by doing something else.

use memchr::memmem;
use std::mem;

/// No head of ours is near it: what grows beyond is not a head.
const HEAD_LIMIT: usize = 16 << 10;
/// Proxies add a handful to the two that the backend sends.
const HEADERS: usize = 64;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// The request, as it goes on every connection.
pub(crate) fn request(host: &str) -> Vec<u8> {
    format!("GET /item HTTP/1.1\r\nhost: {host}\r\nuser-agent: meshload\r\naccept: */*\r\n\r\n").into_bytes()
}

/// The backend's answer, with a body of `size` bytes.
pub(crate) fn answer(size: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {size}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

/// Reads the requests on a connection of the backend.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// The part of a head that has come.
    head: Vec<u8>,
}

impl Requests {
    /// Takes what was read: how many requests it completes.
    pub(crate) fn push(&mut self, read: &[u8]) -> Result<usize, &'static str> {
        let joined;
        let mut bytes = if self.head.is_empty() {
            read
        } else {
            joined = [&mem::take(&mut self.head), read].concat();
            &joined
        };
        let mut complete = 0;
        while let Some(end) = memmem::find(bytes, HEAD_END) {
            if !bytes.starts_with(b"GET /item HTTP/1.1\r\n") {
                return Err("backend: a request that was not sent");
            }
            complete += 1;
            bytes = &bytes[end + HEAD_END.len()..];
        }
        self.head = keep(bytes)?;
        Ok(complete)
    }
}

/// Reads the answers on a connection of the client, where they come one by one.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The part of a head that has come.
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is complete.
    remaining: Option<usize>,
}

impl Answers {
    /// Takes what was read: true when it completes an answer with a body of `size` bytes.
    pub(crate) fn push(&mut self, read: &[u8], size: usize) -> Result<bool, &'static str> {
        let joined;
        let (expected, came) = if let Some(remaining) = self.remaining {
            (remaining, read.len())
        } else {
            let bytes = if self.head.is_empty() {
                read
            } else {
                joined = [&mem::take(&mut self.head), read].concat();
                &joined
            };
            let Some(end) = memmem::find(bytes, HEAD_END).map(|end| end + HEAD_END.len()) else {
                self.head = keep(bytes)?;
                return Ok(false);
            };
            check(&bytes[..end], size)?;
            (size, bytes.len() - end)
        };
        let remaining = expected.checked_sub(came).ok_or("more bytes than the body has")?;
        self.remaining = (remaining > 0).then_some(remaining);
        Ok(remaining == 0)
    }

    /// True before the first byte of an answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.remaining.is_none()
    }
}

fn keep(partial: &[u8]) -> Result<Vec<u8>, &'static str> {
    if partial.len() > HEAD_LIMIT { Err("a head without end") } else { Ok(partial.to_vec()) }
}

fn check(head: &[u8], size: usize) -> Result<(), &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    if !response.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err("not an HTTP/1.1 response");
    }
    match response.code {
        Some(200) => {}
        Some(code @ 500..=599) => {
            return Err(match code {
                502 => "status 502",
                503 => "status 503",
                504 => "status 504",
                _ => "status 5xx",
            });
        }
        _ => return Err("status is not 200"),
    }
    let mut lengths = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    if length != Some(size) || lengths.next().is_some() {
        return Err("content-length is not what the backend sent");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer_however_it_is_cut() {
        let whole = answer(5);
        for first in 1..whole.len() {
            for second in first..whole.len() {
                let mut answers = Answers::default();
                let mut complete = Vec::new();
                for part in [&whole[..first], &whole[first..second], &whole[second..]] {
                    complete.push(answers.push(part, 5).unwrap());
                }
                assert_eq!(complete.last(), Some(&true), "cut at {first} and {second}");
                assert!(answers.is_empty());
            }
        }
    }

    #[test]
    fn reads_requests_however_they_are_cut() {
        let two = [request("a"), request("a")].concat();
        for cut in 0..two.len() {
            let mut requests = Requests::default();
            let complete = requests.push(&two[..cut]).unwrap() + requests.push(&two[cut..]).unwrap();
            assert_eq!(complete, 2, "cut at {cut}");
        }
    }

    #[test]
    fn takes_nothing_else_for_an_answer() {
        for (head, error) in [
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 1\r\n\r\nx", "status 503"),
            ("HTTP/1.1 204 No Content\r\n\r\n", "status is not 200"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nxx", "content-length is not what the backend sent"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "content-length is not what the backend sent"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
                "content-length is not what the backend sent",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxx", "more bytes than the body has"),
            ("nonsense\r\n\r\n", "not an HTTP/1.1 response"),
        ] {
            assert_eq!(Answers::default().push(head.as_bytes(), 1), Err(error), "{head:?}");
        }
        let endless = vec![b'a'; HEAD_LIMIT + 1];
        assert_eq!(Answers::default().push(&endless, 1), Err("a head without end"));
        assert_eq!(Answers::default().push(&endless[1..], 1), Ok(false));
    }

    #[test]
    fn refuses_a_request_that_nobody_sent() {
        assert!(Requests::default().push(b"POST /item HTTP/1.1\r\n\r\n").is_err());
    }
}

//! A taste of the fuzz targets for every `cargo test`: the corpus, and changes of it that are the same on every machine.
//! Long runs are `cargo fuzz`'s (see `fuzz/Cargo.toml`); what one of them finds becomes a file of the corpus.

#[path = "../fuzz/checks.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets see them from outside")]
mod checks;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Changed inputs for each target: a second or two of a debug build.
const INPUTS: usize = 4000;

/// Longest input: every limit of the readers that can be reached by repetition alone lies below, heads of 64 KiB too.
const LONGEST: usize = 100_000;

/// What grammars are made of; a byte that is random is seldom one of these.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b": ",
    b" ",
    b"\t",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x01\0\0\0",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"ffffffffffffffff",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"GET http://x@y:1/%zz HTTP/1.1\r\n",
    b"HTTP/1.1 101 \r\n",
    b"{",
    b"}",
    b"[",
    b"&a ",
    b"*a",
    b"- ",
    b"!!str ",
    b"services:\n  a: {endpoints: [\"127.0.0.1:1\"]}\n",
    b"\xe2\x80\xa8",
    b"/../",
    b"%2e",
    b"%2F",
    b";x",
    b"spiffe://",
    b"-00",
];

fn smoke(name: &str, check: fn(&[u8])) {
    let corpus = corpus(name);
    let run = |input: &[u8]| {
        if catch_unwind(|| check(input)).is_err() {
            panic!("{name}: put this into fuzz/corpus/{name}: {}", input.escape_ascii());
        }
    };
    corpus.iter().for_each(|input| run(input));
    let mut chance = fastrand::Rng::with_seed(0x1ac15);
    for _ in 0..INPUTS {
        let mut input = chance.choice(&corpus).expect("a corpus").clone();
        for _ in 0..chance.usize(1..=4) {
            change(&mut input, &corpus, &mut chance);
        }
        input.truncate(LONGEST);
        run(&input);
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    // The order of a directory is not the same everywhere.
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a readable input")).collect()
}

/// One change, of the kinds that libFuzzer makes.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut fastrand::Rng) {
    let at = chance.usize(0..=input.len());
    let end = (at + chance.usize(0..=16)).min(input.len());
    match chance.u8(0..7) {
        0 if at < input.len() => input[at] ^= 1 << chance.u8(0..8),
        1 if at < input.len() => input[at] = chance.u8(..),
        2 => drop(input.drain(at..end)),
        3 => input.truncate(at),
        4 => {
            let piece = input[at..end].repeat(chance.usize(1..=2000));
            input.splice(at..at, piece);
        }
        5 => {
            let other = chance.choice(corpus).expect("a corpus");
            let from = chance.usize(0..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
        _ => {
            let word = chance.choice(WORDS).expect("words");
            input.splice(at..end, word.iter().copied());
        }
    }
}

#[test]
fn access() {
    smoke("access", checks::access);
}

#[test]
fn config() {
    smoke("config", checks::config);
}

#[test]
fn http1() {
    smoke("http1", checks::http1);
}

#[test]
fn http2() {
    smoke("http2", checks::http2);
}

#[test]
fn http3() {
    smoke("http3", checks::http3);
}

#[test]
fn identity() {
    smoke("identity", checks::identity);
}

#[test]
fn pairs() {
    smoke("pairs", checks::pairs);
}

#[test]
fn jwks() {
    smoke("jwks", checks::jwks);
}

#[test]
fn tls() {
    smoke("tls", checks::tls);
}

#[test]
fn token() {
    smoke("token", checks::token);
}

#[test]
fn trace() {
    smoke("trace", checks::trace);
}

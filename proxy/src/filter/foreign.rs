//! The foreign functions of Envoy (`source/extensions/common/wasm/foreign.cc`) that mean something in a sidecar;
//! `clear_route_cache` is the host's. Not here, and answered as any function that is not there (`NotFound`):
//!
//! - `expr_create`, `expr_evaluate`, `expr_delete` (CEL): an expression is a program of the guest's, and would run outside its
//!   limits of time and memory. A filter reads the properties that it needs and decides by them itself.
//! - `sign`: a private key in a filter is one too many, and a signature with RSA holds up a worker for milliseconds.

use lacis_host::abi::Status;
use lacis_host::protobuf::{Fields, Value};
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use super::signature;

/// zlib's default.
const LEVEL: u8 = 6;

/// Most bytes that `uncompress` may make of its argument: a few bytes can claim to be gigabytes.
const MAX_UNCOMPRESSED: usize = 16 << 20;

/// Most properties that the plugins of one VM may declare, and the longest name of one. Names live as long as the plugin.
const MAX_DECLARED: usize = 1000;
const MAX_NAME: usize = 4096;

/// What the foreign functions of one VM remember.
#[derive(Debug)]
pub(super) struct Foreign {
    /// Most bytes that a function takes. None of them is interrupted: to compress a megabyte takes some 30 ms.
    most: usize,
    /// Plugin and name of the properties that were declared.
    declared: Vec<(Box<str>, Box<[u8]>)>,
}

impl Foreign {
    /// For arguments of at most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        Foreign { most, declared: Vec::new() }
    }

    /// A plugin starts: what one of its name had declared before, in a VM that died or with another configuration, is gone.
    pub(super) fn begin(&mut self, plugin: &str) {
        self.declared.retain(|(own, _)| **own != *plugin);
    }

    /// See [`lacis_host::World::foreign`].
    pub(super) fn call(
        &mut self,
        plugin: &str,
        name: &[u8],
        arguments: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Status> {
        match name {
            b"compress" | b"uncompress" | b"verify_signature" if arguments.len() > self.most => {
                Err(Status::InternalFailure)
            }
            b"compress" => {
                out.extend(compress_to_vec_zlib(arguments, LEVEL));
                Ok(())
            }
            b"verify_signature" => signature::verify(arguments, out),
            b"uncompress" => {
                let plain = decompress_to_vec_zlib_with_limit(arguments, MAX_UNCOMPRESSED);
                out.extend(plain.map_err(|_| Status::SerializationFailure)?);
                Ok(())
            }
            // Types, schemas and life spans change nothing that can be seen here: a property lives as long as its exchange.
            b"declare_property" => {
                let property = first(arguments).ok_or(Status::BadArgument)?;
                if self.declared.iter().any(|(own, name)| **own == *plugin && **name == *property) {
                    return Err(Status::BadArgument);
                }
                if self.declared.len() >= MAX_DECLARED || property.len() > MAX_NAME {
                    return Err(Status::InternalFailure);
                }
                self.declared.push((plugin.into(), property.into()));
                Ok(())
            }
            // No key means anything here.
            b"set_envoy_filter_state" => first(arguments).map_or(Err(Status::BadArgument), |_| Err(Status::NotFound)),
            _ => Err(Status::NotFound),
        }
    }
}

/// Field 1 of a protobuf message, where it is a string; empty if it is left out, none if this is no message.
fn first(message: &[u8]) -> Option<&[u8]> {
    let mut found = &[][..];
    for field in Fields(message) {
        if let (1, Value::Bytes(value)) = field? {
            found = value;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use lacis_host::protobuf::put_bytes;

    use super::*;

    fn call(foreign: &mut Foreign, name: &str, arguments: &[u8]) -> Result<Vec<u8>, Status> {
        let mut out = Vec::new();
        foreign.call("plugin", name.as_bytes(), arguments, &mut out).map(|()| out)
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let foreign = &mut Foreign::new(MAX_UNCOMPRESSED + 1);
        for text in [&b""[..], b"hello", &[7; 100_000]] {
            let small = call(foreign, "compress", text).unwrap();
            assert_eq!(call(foreign, "uncompress", &small).unwrap(), text);
        }
        let bomb = call(foreign, "compress", &vec![0; MAX_UNCOMPRESSED + 1]).unwrap();
        for garbage in [&b""[..], b"garbage", &bomb] {
            assert_eq!(call(foreign, "uncompress", garbage), Err(Status::SerializationFailure));
        }
        let most = call(foreign, "compress", &vec![0; MAX_UNCOMPRESSED]).unwrap();
        assert!(call(foreign, "uncompress", &most).is_ok());
    }

    #[test]
    fn what_takes_long_is_refused() {
        let foreign = &mut Foreign::new(100);
        for (name, answer) in [("compress", Ok(())), ("verify_signature", Err(Status::BadArgument))] {
            assert_eq!(call(foreign, name, &[7; 100]).map(drop), answer, "{name}");
            assert_eq!(call(foreign, name, &[7; 101]), Err(Status::InternalFailure), "{name}");
        }
        assert_eq!(call(foreign, "uncompress", &[7; 101]), Err(Status::InternalFailure));
    }

    #[test]
    fn a_property_is_declared_once() {
        let foreign = &mut Foreign::new(MAX_UNCOMPRESSED + 1);
        assert_eq!(call(foreign, "declare_property", b"\x0a\x04mine\x10\x01"), Ok(Vec::new()));
        assert_eq!(call(foreign, "declare_property", b"\x0a\x04mine"), Err(Status::BadArgument));
        assert_eq!(call(foreign, "declare_property", b"\xff"), Err(Status::BadArgument));
        assert_eq!(call(foreign, "declare_property", b"\x0a\x7fshort"), Err(Status::BadArgument));
        for n in 1..MAX_DECLARED {
            let name = format!("{n:04}");
            assert_eq!(call(foreign, "declare_property", &[b"\x0a\x04", name.as_bytes()].concat()), Ok(Vec::new()));
        }
        assert_eq!(call(foreign, "declare_property", b"\x0a\x04more"), Err(Status::InternalFailure));
        // A plugin that starts anew has declared nothing.
        foreign.begin("other");
        assert_eq!(call(foreign, "declare_property", b"\x0a\x04more"), Err(Status::InternalFailure));
        foreign.begin("plugin");
        assert_eq!(call(foreign, "declare_property", b"\x0a\x04mine"), Ok(Vec::new()));
        let name = |length: usize| {
            let mut message = Vec::new();
            put_bytes(&mut message, 1, &vec![b'n'; length]);
            message
        };
        assert_eq!(call(foreign, "declare_property", &name(MAX_NAME)), Ok(Vec::new()));
        assert_eq!(call(foreign, "declare_property", &name(MAX_NAME + 1)), Err(Status::InternalFailure));
    }

    #[test]
    fn other_functions_are_unknown() {
        let foreign = &mut Foreign::new(MAX_UNCOMPRESSED + 1);
        assert_eq!(call(foreign, "set_envoy_filter_state", b"\x0a\x03key"), Err(Status::NotFound));
        assert_eq!(call(foreign, "set_envoy_filter_state", b"\xff"), Err(Status::BadArgument));
        for other in ["expr_create", "expr_evaluate", "expr_delete", "sign", ""] {
            assert_eq!(call(foreign, other, b"1"), Err(Status::NotFound), "{other}");
        }
    }
}

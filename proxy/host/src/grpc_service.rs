//! Which service a gRPC call-out is for: the guest passes its name, or Envoy's protobuf message `GrpcService`
//! (`envoy/config/core/v3/grpc_service.proto`), of which only this little is read. It is bounded like a header map: two bytes
//! of it can be a header, which takes fifty here.

use std::time::Duration;

use lacis_abi::{MAX_PAIRS, MAX_PAIRS_BYTES};

use crate::callout::Lines;
use crate::protobuf::{Fields, Value};

/// What a guest named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// Name of a cluster (`envoy_grpc.cluster_name`), or a target (`google_grpc.target_uri`).
    pub(crate) name: String,
    pub(crate) authority: Option<String>,
    pub(crate) timeout: Option<Duration>,
    /// `initial_metadata`.
    pub(crate) metadata: Lines,
}

impl Target {
    /// Reads the message, or takes the bytes for a name when they are no such message; `None` when they are neither.
    pub(crate) fn of(bytes: &[u8]) -> Option<Target> {
        Target::message(bytes).or_else(|| {
            let name = std::str::from_utf8(bytes).ok()?;
            let plain = !name.is_empty() && !name.chars().any(char::is_control);
            plain.then(|| Target { name: name.to_owned(), ..Target::default() })
        })
    }

    fn message(bytes: &[u8]) -> Option<Target> {
        let mut target = Target::default();
        if bytes.len() > MAX_PAIRS_BYTES {
            return None;
        }
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(envoy)) => {
                    for field in Fields(envoy) {
                        match field? {
                            (1, Value::Bytes(name)) => target.name = text(name)?,
                            (2, Value::Bytes(authority)) => target.authority = Some(text(authority)?),
                            _ => {}
                        }
                    }
                }
                (2, Value::Bytes(google)) => {
                    for field in Fields(google) {
                        if let (1, Value::Bytes(uri)) = field? {
                            target.name = text(uri)?;
                        }
                    }
                }
                (3, Value::Bytes(duration)) => target.timeout = self::duration(duration)?,
                (5, Value::Bytes(_)) if target.metadata.len() == MAX_PAIRS => return None,
                (5, Value::Bytes(header)) => {
                    let (mut name, mut value) = (Vec::new(), Vec::new());
                    for field in Fields(header) {
                        match field? {
                            (1, Value::Bytes(bytes)) => name = bytes.to_ascii_lowercase(),
                            // As text, or as bytes.
                            (2 | 3, Value::Bytes(bytes)) => value = bytes.to_vec(),
                            _ => {}
                        }
                    }
                    target.metadata.push((name, value));
                }
                _ => {}
            }
        }
        (!target.name.is_empty()).then_some(target)
    }
}

/// `google.protobuf.Duration`; none is one that is not positive.
fn duration(bytes: &[u8]) -> Option<Option<Duration>> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Number(number)) => seconds = number,
            (2, Value::Number(number)) => nanoseconds = number,
            _ => {}
        }
    }
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|n| *n < 1_000_000_000)?;
    let seconds = i64::try_from(seconds).ok().map(i64::unsigned_abs).unwrap_or(0);
    let duration = Duration::new(seconds, nanoseconds);
    Some((!duration.is_zero()).then_some(duration))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat()
    }

    #[test]
    fn a_name_stands_for_itself() {
        for name in ["delta", "outbound|443||delta.example", "n"] {
            assert_eq!(Target::of(name.as_bytes()).unwrap(), Target { name: name.into(), ..Target::default() });
        }
        for bad in [&b""[..], b"\x01", b"\xff\xfe", b"a\nb"] {
            assert_eq!(Target::of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_message_is_read() {
        let envoy = [field(1, b"delta"), field(2, b"delta.example")].concat();
        let header = [field(1, b"X-Key"), field(2, b"value")].concat();
        let message = [field(1, &envoy), field(3, &[8, 2, 16, 5]), field(5, &header)].concat();
        let target = Target::of(&message).unwrap();
        assert_eq!((target.name.as_str(), target.authority.as_deref()), ("delta", Some("delta.example")));
        assert_eq!(target.timeout, Some(Duration::new(2, 5)));
        assert_eq!(target.metadata, [(b"x-key".to_vec(), b"value".to_vec())]);
        assert_eq!(Target::of(&field(2, &field(1, b"dns:///delta"))).unwrap().name, "dns:///delta");
    }

    #[test]
    fn what_is_too_large_is_no_message() {
        let service = field(1, &field(1, b"delta"));
        let with = |rest: Vec<u8>| Target::of(&[service.clone(), rest].concat());
        let most = with(field(5, b"").repeat(MAX_PAIRS)).unwrap();
        assert_eq!(most.metadata.len(), MAX_PAIRS);
        assert_eq!(with(field(5, b"").repeat(MAX_PAIRS + 1)), None);
        // Fields of two bytes that mean nothing here.
        let rest = MAX_PAIRS_BYTES - service.len();
        assert_eq!(rest % 2, 1);
        assert!(with(field(7, b"").repeat(rest / 2)).is_some());
        assert_eq!(with(field(7, b"").repeat(rest / 2 + 1)), None);
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let message = field(1, &field(1, b"delta"));
        for end in 1..message.len() {
            assert_eq!(Target::of(&message[..end]), None, "{end}");
        }
        assert_eq!(Target::of(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), None);
    }
}

//! What filters learn of the sidecar itself: `xds.node`, and `node`, as Envoy called it before 1.33.

use lacis_host::abi::{self, Encoder, Status};
use lacis_host::protobuf;
use serde_json::{Map, Value};

use crate::config;

/// Most segments that the path of a property may have: metadata is not nested deeper than that.
pub(super) const MAX_SEGMENTS: usize = 32;

/// What this program is called in `user_agent_name`.
const USER_AGENT: &str = "lacis";

/// The node of this sidecar.
#[derive(Debug)]
pub struct NodeFacts {
    id: String,
    cluster: String,
    locality: config::Locality,
    metadata: Map<String, Value>,
}

impl NodeFacts {
    /// Of this sidecar.
    pub fn new(node: &config::Node) -> Self {
        NodeFacts {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            locality: node.locality.clone(),
            metadata: node.metadata.clone(),
        }
    }

    /// Writes a property of the node.
    ///
    /// # Errors
    /// `NotFound` if there is none of this path, `SerializationFailure` if its value has no serial form (null).
    pub fn property(&self, path: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Status> {
        if path.len() > MAX_SEGMENTS {
            return Err(Status::NotFound);
        }
        let path = path.strip_prefix(&[b"xds".as_slice()]).unwrap_or(path);
        match path {
            [b"node"] => out.extend(self.message()),
            [b"node", b"id"] => out.extend_from_slice(self.id.as_bytes()),
            [b"node", b"cluster"] => out.extend_from_slice(self.cluster.as_bytes()),
            [b"node", b"user_agent_name"] => out.extend_from_slice(USER_AGENT.as_bytes()),
            [b"node", b"user_agent_version"] => out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes()),
            [b"node", b"locality"] => out.extend(self.place()),
            [b"node", b"locality", b"region"] => out.extend_from_slice(self.locality.region.as_bytes()),
            [b"node", b"locality", b"zone"] => out.extend_from_slice(self.locality.zone.as_bytes()),
            [b"node", b"locality", b"sub_zone"] => out.extend_from_slice(self.locality.sub_zone.as_bytes()),
            [b"node", b"metadata"] => object(&self.metadata, out)?,
            [b"node", b"metadata", key, rest @ ..] => {
                let found =
                    member(&self.metadata, key).and_then(|value| rest.iter().try_fold(value, |v, key| at(v, key)));
                encode(found.ok_or(Status::NotFound)?, out)?;
            }
            _ => return Err(Status::NotFound),
        }
        Ok(())
    }

    /// Where it is, as `envoy.config.core.v3.Locality`: what nobody has said is not there.
    fn place(&self) -> Vec<u8> {
        let config::Locality { region, zone, sub_zone } = &self.locality;
        let mut place = Vec::new();
        for (field, text) in [(1, region), (2, zone), (3, sub_zone)] {
            if !text.is_empty() {
                protobuf::put_bytes(&mut place, field, text.as_bytes());
            }
        }
        place
    }

    /// All of it, as `envoy.config.core.v3.Node`.
    fn message(&self) -> Vec<u8> {
        let mut node = Vec::new();
        protobuf::put_bytes(&mut node, 1, self.id.as_bytes());
        protobuf::put_bytes(&mut node, 2, self.cluster.as_bytes());
        if !self.metadata.is_empty() {
            protobuf::put_bytes(&mut node, 3, &structure(&self.metadata));
        }
        let place = self.place();
        if !place.is_empty() {
            protobuf::put_bytes(&mut node, 4, &place);
        }
        protobuf::put_bytes(&mut node, 6, USER_AGENT.as_bytes());
        protobuf::put_bytes(&mut node, 7, env!("CARGO_PKG_VERSION").as_bytes());
        node
    }
}

fn member<'a>(object: &'a Map<String, Value>, key: &[u8]) -> Option<&'a Value> {
    object.get(std::str::from_utf8(key).ok()?)
}

/// What is in a value: by name in an object, by decimal index in a list.
fn at<'a>(value: &'a Value, key: &[u8]) -> Option<&'a Value> {
    match value {
        Value::Object(object) => member(object, key),
        Value::Array(list) => list.get(std::str::from_utf8(key).ok()?.parse::<usize>().ok()?),
        _ => None,
    }
}

/// A value in the form of properties: a list is a map whose keys are its elements.
fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), Status> {
    match value {
        Value::Null => return Err(Status::SerializationFailure),
        Value::Bool(truth) => out.push(u8::from(*truth)),
        Value::Number(number) => out.extend(number.as_f64().unwrap_or(0.0).to_le_bytes()),
        Value::String(text) => out.extend_from_slice(text.as_bytes()),
        Value::Array(list) => pairs(list.iter().map(|element| Ok((encoded(element)?, Vec::new()))), out)?,
        Value::Object(fields) => object(fields, out)?,
    }
    Ok(())
}

fn object(object: &Map<String, Value>, out: &mut Vec<u8>) -> Result<(), Status> {
    pairs(object.iter().map(|(key, value)| Ok((key.clone().into_bytes(), encoded(value)?))), out)
}

fn encoded(value: &Value) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    encode(value, &mut bytes).map(|()| bytes)
}

fn pairs(pairs: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Status>>, out: &mut Vec<u8>) -> Result<(), Status> {
    let pairs: Vec<_> = pairs.collect::<Result<_, _>>()?;
    let start = out.len();
    out.resize(start + abi::encoded_len(pairs.iter().map(|(n, v)| (n.as_slice(), v.as_slice()))), 0);
    let mut encoder = out.get_mut(start..).and_then(|room| Encoder::new(room, pairs.len()));
    for (name, value) in &pairs {
        if let Some(encoder) = &mut encoder {
            encoder.push(name, value);
        }
    }
    Ok(())
}

/// `google.protobuf.Struct`.
fn structure(object: &Map<String, Value>) -> Vec<u8> {
    let mut message = Vec::new();
    for (key, value) in object {
        let mut entry = Vec::new();
        protobuf::put_bytes(&mut entry, 1, key.as_bytes());
        protobuf::put_bytes(&mut entry, 2, &any(value));
        protobuf::put_bytes(&mut message, 1, &entry);
    }
    message
}

/// `google.protobuf.Value`.
fn any(value: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    match value {
        Value::Null => protobuf::put_varint(&mut message, 1, 0),
        Value::Number(number) => protobuf::put_double(&mut message, 2, number.as_f64().unwrap_or(0.0)),
        Value::String(text) => protobuf::put_bytes(&mut message, 3, text.as_bytes()),
        Value::Bool(truth) => protobuf::put_varint(&mut message, 4, u64::from(*truth)),
        Value::Object(fields) => protobuf::put_bytes(&mut message, 5, &structure(fields)),
        Value::Array(list) => {
            let mut values = Vec::new();
            list.iter().for_each(|element| protobuf::put_bytes(&mut values, 1, &any(element)));
            protobuf::put_bytes(&mut message, 6, &values);
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(metadata: Value) -> NodeFacts {
        let Value::Object(metadata) = metadata else { panic!("an object") };
        NodeFacts { id: "n1".into(), cluster: "c".into(), locality: config::Locality::default(), metadata }
    }

    fn read(node: &NodeFacts, path: &str) -> Result<Vec<u8>, Status> {
        let path: Vec<&[u8]> = path.split('.').map(str::as_bytes).collect();
        let mut out = Vec::new();
        node.property(&path, &mut out).map(|()| out)
    }

    #[test]
    fn metadata_is_walked_to_any_depth() {
        let node = node(json!({"A": {"b": [1, "two", {"c": true}]}, "none": null, "text": "t"}));
        for (path, value) in [
            ("node.metadata.text", Ok(b"t".to_vec())),
            ("xds.node.metadata.A.b.0", Ok(1f64.to_le_bytes().to_vec())),
            ("node.metadata.A.b.1", Ok(b"two".to_vec())),
            ("node.metadata.A.b.2.c", Ok(vec![1])),
            ("node.metadata.A.b.2", Ok(b"\x01\0\0\0\x01\0\0\0\x01\0\0\0c\0\x01\0".to_vec())),
            ("node.metadata.A.b.3", Err(Status::NotFound)),
            ("node.metadata.A.b.x", Err(Status::NotFound)),
            ("node.metadata.text.t", Err(Status::NotFound)),
            ("node.metadata.none", Err(Status::SerializationFailure)),
            ("node.metadata", Err(Status::SerializationFailure)),
            ("node.locality.zone", Ok(Vec::new())),
            ("node.nothing", Err(Status::NotFound)),
        ] {
            assert_eq!(read(&node, path), value, "{path}");
        }
    }

    #[test]
    fn where_it_is() {
        let mut node = node(json!({}));
        node.locality.zone = "a".into();
        assert_eq!(read(&node, "node.locality"), Ok(b"\x12\x01a".to_vec()));
        assert_eq!(read(&node, "xds.node.locality.zone"), Ok(b"a".to_vec()));
        assert_eq!(read(&node, "node.locality.region"), Ok(Vec::new()));
        assert!(read(&node, "node").is_ok_and(|all| all.windows(5).any(|part| part == b"\x22\x03\x12\x01a")));
    }

    #[test]
    fn no_path_is_deeper_than_the_limit() {
        let deepest = (0..MAX_SEGMENTS).fold(json!("end"), |inner, _| json!({"a": inner}));
        let node = node(deepest);
        let path = |segments: usize| format!("node.metadata{}", ".a".repeat(segments - 2));
        assert!(read(&node, &path(MAX_SEGMENTS)).is_ok());
        assert_eq!(read(&node, &path(MAX_SEGMENTS + 1)), Err(Status::NotFound));
    }

    #[test]
    fn the_whole_is_a_message() {
        let version = env!("CARGO_PKG_VERSION");
        let head = b"\x0a\x02n1\x12\x01c";
        let tail = [b"\x32\x05lacis\x3a", &[version.len() as u8][..], version.as_bytes()].concat();
        assert_eq!(read(&node(json!({})), "xds.node"), Ok([&head[..], &tail].concat()));
        let values = [
            (json!(null), b"\x08\0".to_vec()),
            (json!(2.5), [&b"\x11"[..], &2.5f64.to_le_bytes()].concat()),
            (json!("x"), b"\x1a\x01x".to_vec()),
            (json!(true), b"\x20\x01".to_vec()),
            (json!({"k": "v"}), b"\x2a\x0a\x0a\x08\x0a\x01k\x12\x03\x1a\x01v".to_vec()),
            (json!(["v"]), b"\x32\x05\x0a\x03\x1a\x01v".to_vec()),
        ];
        for (value, bytes) in values {
            assert_eq!(any(&value), bytes, "{value}");
        }
    }
}

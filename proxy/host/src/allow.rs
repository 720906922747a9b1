//! What a filter is allowed: the host functions that it may import, by families or one by one.

use std::collections::BTreeSet;

/// The host functions that a filter may use. Those that give it no power over anything but itself are always allowed:
/// clocks, its configuration, its own contexts, WASI (which has neither files nor sockets here).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Allow(BTreeSet<&'static str>);

/// What becomes of a module that imports what it is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restricted {
    /// It is not loaded.
    Refuse,
    /// It is loaded, and such a call answers `InternalFailure`, as in Envoy. Many SDKs panic on that.
    Answer,
}

/// A name that stands for no host function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no host function \"{name}\"; there are the families {}, and the functions of Proxy-Wasm by their names",
    families()
)]
pub struct Unknown {
    /// The name.
    pub name: String,
}

impl Allow {
    /// The functions of these families (`headers`) and these functions (`proxy_log`).
    ///
    /// # Errors
    /// For the first name that is neither.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Allow, Unknown> {
        let mut allowed = BTreeSet::new();
        for name in names {
            let functions = FAMILIES.iter().flat_map(|(family, functions)| {
                functions.iter().filter(move |function| name == *family || name == **function)
            });
            let mut functions = functions.peekable();
            if functions.peek().is_none() && !exists(name) {
                return Err(Unknown { name: name.to_owned() });
            }
            allowed.extend(functions);
        }
        Ok(Allow(allowed))
    }

    /// The words of all families.
    pub fn families() -> impl Iterator<Item = &'static str> {
        FAMILIES.iter().map(|(family, _)| *family)
    }

    /// The family of a host function; none if it is always allowed.
    pub fn family(function: &str) -> Option<&'static str> {
        FAMILIES.iter().find(|(_, functions)| functions.contains(&function)).map(|(family, _)| *family)
    }

    /// The functions that may be imported beside those that always may.
    pub fn functions(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().copied()
    }

    /// Whether a host function may be imported.
    pub fn has(&self, function: &str) -> bool {
        self.0.contains(function) || Allow::family(function).is_none()
    }

    /// Whether bodies may be seen. The functions that read them read the configuration, too, so they can be imported by
    /// everybody.
    pub(crate) fn has_bodies(&self) -> bool {
        self.0.contains("proxy_set_buffer_bytes")
    }
}

/// Whether there is such a function.
fn exists(name: &str) -> bool {
    crate::imports::ENV.iter().chain(crate::imports::WASI).any(|import| import.name == name)
}

fn families() -> String {
    Allow::families().collect::<Vec<_>>().join(", ")
}

const FAMILIES: &[(&str, &[&str])] = &[
    // Reading bodies, too: `Allow::has_bodies`.
    ("body", &["proxy_set_buffer_bytes"]),
    ("foreign", &["proxy_call_foreign_function"]),
    ("grpc", &["proxy_grpc_call", "proxy_grpc_stream", "proxy_grpc_send", "proxy_grpc_cancel", "proxy_grpc_close"]),
    (
        "headers",
        &[
            "proxy_get_header_map_size",
            "proxy_get_header_map_pairs",
            "proxy_set_header_map_pairs",
            "proxy_get_header_map_value",
            "proxy_add_header_map_value",
            "proxy_replace_header_map_value",
            "proxy_remove_header_map_value",
        ],
    ),
    ("http", &["proxy_http_call"]),
    ("log", &["proxy_log", "proxy_get_log_level"]),
    ("metrics", &["proxy_define_metric", "proxy_increment_metric", "proxy_record_metric", "proxy_get_metric"]),
    ("properties", &["proxy_get_property", "proxy_set_property"]),
    (
        "queues",
        &[
            "proxy_register_shared_queue",
            "proxy_resolve_shared_queue",
            "proxy_enqueue_shared_queue",
            "proxy_dequeue_shared_queue",
        ],
    ),
    ("reply", &["proxy_send_local_response"]),
    ("route", &["proxy_clear_route_cache"]),
    ("shared_data", &["proxy_get_shared_data", "proxy_set_shared_data"]),
    ("stream", &["proxy_continue_stream", "proxy_close_stream", "proxy_continue_request", "proxy_continue_response"]),
    ("timer", &["proxy_set_tick_period_milliseconds"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_family_or_a_function() {
        let allow = Allow::of(["headers", "proxy_log"]).unwrap();
        for (function, has) in [
            ("proxy_get_header_map_value", true),
            ("proxy_log", true),
            ("proxy_get_log_level", false),
            ("proxy_http_call", false),
            ("proxy_get_buffer_bytes", true),
            ("proxy_set_effective_context", true),
            ("fd_write", true),
        ] {
            assert_eq!(allow.has(function), has, "{function}");
        }
        assert!(!allow.has_bodies() && Allow::of(["body"]).unwrap().has_bodies());
        assert!(Allow::of(["fd_write", "proxy_done"]).is_ok());
        let error = Allow::of(["log", "fly"]).unwrap_err().to_string();
        assert!(error.starts_with("there is no host function \"fly\"; there are the families body, foreign, grpc,"));
    }

    #[test]
    fn every_function_of_a_family_exists() {
        for (family, functions) in FAMILIES {
            for function in *functions {
                assert!(exists(function), "{family}: {function}");
            }
        }
    }
}

//! A filter of the configuration with its code: what its VMs and its root contexts are made of, and what it has callbacks for.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lacis_host::{Limits, Plugin, PluginSettings, SharedData, VmSettings, limits};

use super::wasm::CREATE;
use crate::config;

/// A filter of the configuration with its code, ready for every worker.
pub struct Compiled {
    /// Its section of the configuration.
    pub settings: config::Filter,
    /// SHA-256 of its module, lower-case hex.
    pub digest: String,
    /// What its module says it was written in, or looks like.
    pub language: Option<String>,
    /// Its module.
    pub plugin: Plugin,
    /// What it reads beyond heads of HTTP, of requests and of responses, if it said so when it was tried.
    pub reads: Option<[bool; 2]>,
    /// How long each step of its start may take.
    pub start: Duration,
}

/// What VMs are equal by: filters that agree on all of it share one in each worker, and keep it when the configuration
/// changes (Envoy's key, and what Envoy leaves out of it: environment, limits, and what they are allowed: a guest can act in the context of
/// any filter of its VM).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VmKey {
    digest: String,
    vm_id: String,
    configuration: Vec<u8>,
    env: Vec<(String, String)>,
    limits: config::FilterLimits,
    allow: config::Allow,
}

impl Compiled {
    /// What its VM is found by.
    pub fn vm_key(&self) -> VmKey {
        let config::Filter { vm_id, vm_config, env, limits, allow, .. } = &self.settings;
        VmKey {
            digest: self.digest.clone(),
            vm_id: vm_id.clone(),
            configuration: vm_config.clone(),
            env: env.clone(),
            limits: *limits,
            allow: allow.clone(),
        }
    }

    /// How its VMs are made.
    pub fn vm_settings(&self, shared: &Arc<SharedData>) -> VmSettings {
        let config::FilterLimits {
            memory,
            time,
            calls,
            table,
            log_lines,
            metrics,
            shared_data,
            queues,
            queue_items,
            queue_size,
            buffer: _,
            ticks: _,
        } = self.settings.limits;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        VmSettings {
            vm_id: self.settings.vm_id.clone(),
            configuration: self.settings.vm_config.clone(),
            env: self.settings.env.clone(),
            memory: size(memory),
            time,
            start_time: self.start,
            shared: Arc::clone(shared),
            limits: Limits {
                calls: calls as usize,
                table: table as usize,
                log_lines,
                metrics: metrics as usize,
                shared_bytes: size(shared_data),
                queues: queues as usize,
                queue_items: queue_items as usize,
                queue_bytes: size(queue_size),
                body: limits::BODY.max(self.buffer_limit()),
                ..Limits::default()
            },
            ..VmSettings::default()
        }
    }

    /// How its root context is made.
    pub fn plugin_settings(&self) -> PluginSettings {
        PluginSettings {
            name: self.settings.name.clone(),
            root_id: self.settings.root_id.clone(),
            configuration: self.settings.config.clone(),
            // The SDK asks for a body while the head waits, where its filter reads bodies.
            allow_on_headers_stop_iteration: self.settings.head_waits_alone || self.reads.is_some(),
            upstreams: self.settings.allow.calls.clone(),
        }
    }

    /// Bytes of a body that it may hold back, and of an answer to a call of its own.
    pub(super) fn buffer_limit(&self) -> usize {
        usize::try_from(self.settings.limits.buffer).unwrap_or(usize::MAX)
    }

    /// Whether it has callbacks for more than the heads of each half: a filter without costs a body nothing.
    pub(super) fn sees(&self) -> [bool; 2] {
        if let Some(reads) = self.reads {
            return reads;
        }
        [
            ["proxy_on_request_body", "proxy_on_request_trailers"],
            ["proxy_on_response_body", "proxy_on_response_trailers"],
        ]
        .map(|callbacks| callbacks.iter().any(|name| self.plugin.exports(name)))
    }

    /// Whether it has callbacks for the bytes of a TCP connection: from the client, to it.
    pub(super) fn taps(&self) -> [bool; 2] {
        ["proxy_on_downstream_data", "proxy_on_upstream_data"].map(|name| self.plugin.exports(name))
    }

    /// Whether several of it can be shown the head of each half together.
    pub(super) fn joins(&self) -> [bool; 2] {
        let all = |callbacks: &[&str]| callbacks.iter().all(|name| self.plugin.exports(name));
        [all(&[CREATE, "proxy_on_request_headers"]), all(&["proxy_on_response_headers"])]
    }

    /// Whether head and content of a response can be shown to it in one entry.
    pub(super) fn answers(&self) -> bool {
        let [_, sees] = self.sees();
        sees && ["proxy_on_response_headers", "proxy_on_response_body"].iter().all(|name| self.plugin.exports(name))
    }

    /// Whether it is to be told of exchanges that never came to it.
    pub(super) fn logs(&self) -> bool {
        self.plugin.exports("proxy_on_log")
    }

    /// Whether it has callbacks for TCP connections.
    pub fn is_for_tcp(&self) -> bool {
        let has = self.taps() != [false; 2] || self.plugin.exports("proxy_on_new_connection");
        has && self.reads.is_none()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("name", &self.settings.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

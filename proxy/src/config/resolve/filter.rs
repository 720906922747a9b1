//! Filters: their code, their settings, their bounds.

use std::collections::HashSet;
use std::time::Duration;

use lacis_host::limits;

use super::super::names::is_label;
use super::super::raw;
use super::super::reader::{Entries, Field, Spot};
use super::super::word::{Number, Percent, Word};
use super::super::yaml::clip;
use super::super::{Allow, Failure, Filter, FilterLimits, Module};
use super::{Resolver, Size, not_label};

mod remote;

/// Smallest memory of a filter: one page of WebAssembly.
const MIN_MEMORY: u64 = 64 << 10;

/// Most that a filter may hold back of one body: one exchange must not be able to take the memory of all.
const MAX_BUFFER: u64 = 256 << 20;

/// Most calls that a filter may have under way in a worker: each holds a stream, a task and a buffer.
const MAX_CALLS: u32 = 10_000;

/// Most log lines in a second: what one thread can write at all.
const MAX_LOG_LINES: u32 = 1_000_000;

/// Most bytes of shared data: it lives outside of every memory that `limits.memory` bounds.
const MAX_SHARED_DATA: u64 = 256 << 20;

/// Most shared queues of a `vm_id`.
const MAX_QUEUES: u32 = 1000;

/// Most items of one: each takes some bytes beside its own.
const MAX_QUEUE_ITEMS: u32 = 1_000_000;

/// Most bytes of one: as shared data.
const MAX_QUEUE_SIZE: u64 = 256 << 20;

/// Longest time of one callback: its worker does nothing else meanwhile.
const MAX_TIME: Duration = Duration::from_secs(10);

impl Resolver<'_> {
    /// `used` are the positions of filters that something names, `services` the names that filters can call, nothing
    /// where these are wrong.
    pub(super) fn filters(
        &self,
        filters: Option<Entries<raw::filter::Filter>>,
        used: &HashSet<usize>,
        services: Option<&[&str]>,
    ) -> Option<Vec<Filter>> {
        let Entries(entries) = filters?;
        let filters: Vec<Option<Filter>> = entries
            .into_iter()
            .enumerate()
            .map(|(position, (name, field))| {
                let (raw, spot) = field.given()?;
                if !used.contains(&position) {
                    self.report.warn(spot, "nothing names this filter, so it never runs");
                }
                self.filter(name, raw, spot, services)
            })
            .collect();
        filters.into_iter().collect()
    }

    fn filter(&self, name: String, raw: raw::filter::Filter, at: Spot, services: Option<&[&str]>) -> Option<Filter> {
        let raw::filter::Filter {
            module,
            sha256,
            config,
            failure,
            limits,
            allow,
            credentials,
            root_id,
            vm_id,
            vm_config,
            env,
            host_env,
            allow_on_headers_stop_iteration,
        } = raw;
        if !is_label(&name) {
            self.report.wrong_key(at, not_label(&name, "a filter name"));
        }
        let sha256 = self.optional(sha256, None, |text, spot| {
            if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                Some(Some(text.to_ascii_lowercase()))
            } else {
                self.refuse(spot, format!("\"{}\" is not a SHA-256; write its 64 hexadecimal digits", clip(&text)))
            }
        });
        let module = self
            .required(module, at, "module", "the path of a WebAssembly module, builtin:NAME, https://… or oci://…")
            .and_then(|(module, spot)| self.module(module, spot, sha256.as_ref(), credentials));
        let allow = self.allow(allow, services);
        let config = config.or(raw::filter::Payload::default());
        let failure = failure.or(Word(Failure::Closed));
        let limits = self.filter_limits(limits);
        let (root_id, vm_id) = (root_id.or(String::new()), vm_id.or(String::new()));
        let vm_config = vm_config.or(raw::filter::Payload::default());
        let env = self.environment(env, host_env);
        let head_waits_alone = allow_on_headers_stop_iteration.or(false);
        let (module, sha256) = module?;
        Some(Filter {
            name,
            module,
            sha256,
            config: config?.0,
            failure: failure?.0,
            limits: limits?,
            allow: allow?,
            root_id: root_id?,
            vm_id: vm_id?,
            vm_config: vm_config?.0,
            env: env?,
            head_waits_alone: head_waits_alone?,
        })
    }

    /// The module, and the digest that it must have. `sha256` is the digest in the file, nothing if that was refused.
    fn module(
        &self,
        module: String,
        spot: Spot,
        sha256: Option<&Option<String>>,
        credentials: Field<String>,
    ) -> Option<(Module, Option<String>)> {
        if module.contains("://") {
            return self.remote(module, spot, sha256, credentials);
        }
        if let Some(spot) = credentials.spot() {
            self.report.wrong(spot, "only a registry asks for credentials; remove it, or write module: oci://…");
        }
        let sha256 = sha256?.clone();
        if let Some(name) = module.strip_prefix("builtin:") {
            if is_label(name) {
                return Some((Module::Builtin(name.to_owned()), sha256));
            }
            return self.refuse(spot, not_label(name, "the name of a built-in filter"));
        }
        let name = is_label(&module).then(|| module.clone());
        let path = self.path(module, spot)?;
        if let Some(name) = name.filter(|_| !(self.host.exists)(&path)) {
            self.report.warn(spot, format!("of the filters that ship one would be named builtin:{name}"));
        }
        Some((Module::Path(path), sha256))
    }

    fn allow(&self, field: Field<raw::filter::Allowed>, services: Option<&[&str]>) -> Option<Allow> {
        let raw::filter::Allowed { calls, functions } = field.or(raw::filter::Allowed::default())?;
        let calls = self.optional(calls, None, |calls, _| {
            self.each(calls, |name, spot| {
                let Some(services) = services.filter(|services| !services.contains(&name.as_str())) else {
                    return Some(name);
                };
                let meant = self.report.suggest(&name, services.iter().copied());
                let advice =
                    meant.map_or("write the name of one under `services`".into(), |m| format!("did you mean {m}?"));
                self.refuse(spot, format!("there is no service \"{}\"; {advice}", clip(&name)))
            })
            .map(Some)
        });
        let functions = self.optional(functions, None, |functions, _| {
            self.each(functions, |name, spot| match lacis_host::Allow::of([name.as_str()]) {
                Ok(_) => Some(name),
                Err(_) => {
                    let families: Vec<_> = lacis_host::Allow::families().collect();
                    let advice =
                        format!("write one of {}, or the name of a function of Proxy-Wasm", families.join(", "));
                    self.refuse(spot, format!("there is no host function \"{}\"; {advice}", clip(&name)))
                }
            })
            .map(Some)
        });
        let (calls, functions) = (calls?, functions?);
        // Who may call somebody may use what calls are made with.
        let implied: &[&str] =
            if calls.as_ref().is_some_and(|calls| !calls.is_empty()) { &["grpc", "http"] } else { &[] };
        let functions = functions.and_then(|names: Vec<String>| {
            lacis_host::Allow::of(names.iter().map(String::as_str).chain(implied.iter().copied())).ok()
        });
        Some(Allow { functions, calls })
    }

    fn filter_limits(&self, field: Field<raw::filter::FilterLimits>) -> Option<FilterLimits> {
        let raw::filter::FilterLimits {
            memory,
            time,
            buffer,
            calls,
            table,
            log_lines,
            metrics,
            shared_data,
            queues,
            queue_items,
            queue_size,
            ticks,
        } = field.or(raw::filter::FilterLimits::default())?;
        let memory = match memory {
            Field::Given(Word(Size(bytes)), spot) if bytes < MIN_MEMORY => {
                self.refuse(spot, "a WebAssembly module needs at least one page; write 64KiB or more")
            }
            Field::Given(Word(Size(bytes)), spot) if bytes > limits::MEMORY_MAX as u64 => {
                self.refuse(spot, "more than any filter gets; write 1GiB or less")
            }
            memory => self.word(memory, raw::filter::FILTER_MEMORY),
        };
        let time = match time {
            Field::Given(Word(time), spot) if time.is_zero() || time > MAX_TIME => {
                self.refuse(spot, "a callback holds up everything else on its worker; write 1ms to 10s")
            }
            time => self.word(time, raw::filter::FILTER_TIME),
        };
        let buffer = match buffer {
            Field::Given(Word(Size(bytes)), spot) if bytes > MAX_BUFFER => {
                self.refuse(spot, "each exchange may hold this much in memory; write 256MiB or less")
            }
            buffer => self.word(buffer, raw::filter::FILTER_BUFFER),
        };
        let count = |field, default, most: u32| {
            self.optional(field, default, |number: Number, spot| {
                let count = number.within(0..=most);
                count.or_else(|| self.refuse(spot, format!("not within its bounds; write 0 to {most}")))
            })
        };
        let calls = count(calls, raw::filter::FILTER_CALLS, MAX_CALLS);
        let table = count(table, limits::TABLE_ELEMENTS as u32, limits::TABLE_ELEMENTS as u32);
        let log_lines = count(log_lines, limits::LOG_LINES, MAX_LOG_LINES);
        let metrics = count(metrics, limits::METRICS as u32, limits::METRICS as u32);
        let shared_data = match shared_data {
            Field::Given(Word(Size(bytes)), spot) if bytes > MAX_SHARED_DATA => {
                self.refuse(spot, "it is outside of every bounded memory; write 256MiB or less")
            }
            shared_data => self.word(shared_data, raw::filter::FILTER_SHARED_DATA),
        };
        let queues = count(queues, limits::QUEUES as u32, MAX_QUEUES);
        let queue_items = count(queue_items, limits::QUEUE_ITEMS as u32, MAX_QUEUE_ITEMS);
        let queue_size = match queue_size {
            Field::Given(Word(Size(bytes)), spot) if bytes > MAX_QUEUE_SIZE => {
                self.refuse(spot, "it is outside of every bounded memory; write 256MiB or less")
            }
            queue_size => self.word(queue_size, raw::filter::FILTER_QUEUE_SIZE),
        };
        let ticks = match ticks {
            Field::Given(Word(Percent(0)), spot) => {
                self.refuse(spot, "a filter cannot tick in no time at all; write 1% to 100%")
            }
            ticks => self.word(ticks, raw::filter::FILTER_TICKS),
        };
        let (Size(memory), time, Size(buffer), Size(shared_data)) = (memory?, time?, buffer?, shared_data?);
        let (calls, table, log_lines, metrics) = (calls?, table?, log_lines?, metrics?);
        let (queues, queue_items, Size(queue_size), Percent(ticks)) = (queues?, queue_items?, queue_size?, ticks?);
        Some(FilterLimits {
            memory,
            time,
            buffer,
            calls,
            table,
            log_lines,
            metrics,
            shared_data,
            queues,
            queue_items,
            queue_size,
            ticks,
        })
    }

    /// The environment of a VM: its own variables, then those of the host.
    pub(super) fn environment(
        &self,
        own: Field<Entries<String>>,
        from_host: Field<Vec<Field<String>>>,
    ) -> Option<Vec<(String, String)>> {
        let (mut env, mut names) = (Vec::new(), HashSet::new());
        let mut good = true;
        let own = own.or(Entries(Vec::new()));
        for (name, field) in own.map_or(Vec::new(), |Entries(entries)| entries) {
            let Some((value, spot)) = field.given() else { continue };
            if !is_variable(&name) {
                self.report
                    .wrong_key(spot, format!("\"{}\" is not the name of a variable; write A-Z, 0-9, '_'", clip(&name)));
                good = false;
            } else if value.contains('\0') {
                self.report.wrong(spot, "a variable cannot have a zero byte; remove it");
                good = false;
            }
            names.insert(name.clone());
            env.push((name, value));
        }
        let wanted = from_host.or(Vec::new())?;
        self.each(wanted, |name, spot| {
            if !is_variable(&name) {
                return self
                    .refuse(spot, format!("\"{}\" is not the name of a variable; write A-Z, 0-9, '_'", clip(&name)));
            }
            if !names.insert(name.clone()) {
                return self.refuse(spot, format!("\"{}\" is set already; name it once", clip(&name)));
            }
            match (self.host.variable)(&name) {
                Some(value) => env.push((name, value)),
                None => self.report.warn(spot, format!("{} is not set here, so the filter gets none", clip(&name))),
            }
            Some(())
        })?;
        good.then_some(env)
    }
}

/// Whether a name can stand in an environment: the form that WASI and shells take.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

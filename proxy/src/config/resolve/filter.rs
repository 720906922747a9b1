//! Filters: their code, their settings, their bounds.

use std::collections::HashSet;
use std::time::Duration;

use super::super::names::is_label;
use super::super::raw;
use super::super::reader::{Entries, Field, Spot};
use super::super::word::Word;
use super::super::yaml::clip;
use super::super::{Failure, Filter, FilterLimits, Module};
use super::{Resolver, Size, not_label};

/// Smallest memory of a filter: one page of WebAssembly.
const MIN_MEMORY: u64 = 64 << 10;

/// Most that a filter may hold back of one body: one exchange must not be able to take the memory of all.
const MAX_BUFFER: u64 = 256 << 20;

/// Most calls that a filter may have under way in a worker: each holds a stream, a task and a buffer.
const MAX_CALLS: u32 = 10_000;

/// Longest time of one callback: its worker does nothing else meanwhile.
const MAX_TIME: Duration = Duration::from_secs(10);

impl Resolver<'_> {
    /// `used` are the positions of filters that something names.
    pub(super) fn filters(&self, filters: Option<Entries<raw::Filter>>, used: &HashSet<usize>) -> Option<Vec<Filter>> {
        let Entries(entries) = filters?;
        let filters: Vec<Option<Filter>> = entries
            .into_iter()
            .enumerate()
            .map(|(position, (name, field))| {
                let (raw, spot) = field.given()?;
                if !used.contains(&position) {
                    self.report.warn(spot, "nothing names this filter, so it never runs");
                }
                self.filter(name, raw, spot)
            })
            .collect();
        filters.into_iter().collect()
    }

    fn filter(&self, name: String, raw: raw::Filter, at: Spot) -> Option<Filter> {
        let raw::Filter {
            module,
            sha256,
            config,
            failure,
            limits,
            allow,
            root_id,
            vm_id,
            vm_config,
            env,
            host_env,
            allow_on_headers_stop_iteration,
        } = raw;
        self.later([allow]);
        if !is_label(&name) {
            self.report.wrong_key(at, not_label(&name, "a filter name"));
        }
        let module = self
            .required(module, at, "module", "the path of a WebAssembly module, or builtin:NAME")
            .and_then(|(module, spot)| self.module(module, spot));
        let sha256 = self.optional(sha256, None, |text, spot| {
            if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                Some(Some(text.to_ascii_lowercase()))
            } else {
                self.refuse(spot, format!("\"{}\" is not a SHA-256; write its 64 hexadecimal digits", clip(&text)))
            }
        });
        let config = config.or(raw::Payload::default());
        let failure = failure.or(Word(Failure::Closed));
        let limits = self.filter_limits(limits);
        let (root_id, vm_id) = (root_id.or(String::new()), vm_id.or(String::new()));
        let vm_config = vm_config.or(raw::Payload::default());
        let env = self.environment(env, host_env);
        let head_waits_alone = allow_on_headers_stop_iteration.or(false);
        Some(Filter {
            name,
            module: module?,
            sha256: sha256?,
            config: config?.0,
            failure: failure?.0,
            limits: limits?,
            root_id: root_id?,
            vm_id: vm_id?,
            vm_config: vm_config?.0,
            env: env?,
            head_waits_alone: head_waits_alone?,
        })
    }

    fn module(&self, module: String, spot: Spot) -> Option<Module> {
        if let Some(name) = module.strip_prefix("builtin:") {
            if is_label(name) {
                return Some(Module::Builtin(name.to_owned()));
            }
            return self.refuse(spot, not_label(name, "the name of a built-in filter"));
        }
        if let Some((scheme, _)) = module.split_once("://") {
            let scheme = clip(scheme);
            return self.refuse(spot, format!("modules from {scheme}:// are not supported yet; write a path"));
        }
        self.path(module, spot).map(Module::Path)
    }

    fn filter_limits(&self, field: Field<raw::FilterLimits>) -> Option<FilterLimits> {
        let raw::FilterLimits { memory, time, buffer, calls } = field.or(raw::FilterLimits::default())?;
        let memory = match memory {
            Field::Given(Word(Size(bytes)), spot) if bytes < MIN_MEMORY => {
                self.refuse(spot, "a WebAssembly module needs at least one page; write 64KiB or more")
            }
            memory => self.word(memory, raw::FILTER_MEMORY),
        };
        let time = match time {
            Field::Given(Word(time), spot) if time.is_zero() || time > MAX_TIME => {
                self.refuse(spot, "a callback holds up everything else on its worker; write 1ms to 10s")
            }
            time => self.word(time, raw::FILTER_TIME),
        };
        let buffer = match buffer {
            Field::Given(Word(Size(bytes)), spot) if bytes > MAX_BUFFER => {
                self.refuse(spot, "each exchange may hold this much in memory; write 256MiB or less")
            }
            buffer => self.word(buffer, raw::FILTER_BUFFER),
        };
        let calls = self.optional(calls, raw::FILTER_CALLS, |calls, spot| match calls {
            calls if calls > MAX_CALLS => self.refuse(spot, format!("too many; write 0 to {MAX_CALLS}")),
            calls => Some(calls),
        });
        let (Size(memory), time, Size(buffer), calls) = (memory?, time?, buffer?, calls?);
        Some(FilterLimits { memory, time, buffer, calls })
    }

    /// The environment of a VM: its own variables, then those of the host.
    fn environment(
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

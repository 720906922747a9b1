//! Lets in only requests whose bodies fit JSON Schemas, by path and method.

mod strict;

use std::collections::BTreeMap;

use boon::{CompileError, Compiler, Draft, SchemaIndex, Schemas, UrlLoader, ValidationError};
use lacis_filter_parts::{Paths, is_json};
use lacis_sdk::{ConfigError, Filter, Flow, Reads, Reply, Request};
use serde::Deserialize;
use serde_json::{Value, json};

/// The filter's configuration.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules: the first that is for a request counts. One that no rule is for passes.
    rules: Vec<Entry>,
    /// Schemas that others refer to by their names, as `{$ref: NAME}`.
    #[serde(default)]
    schemas: BTreeMap<String, Value>,
    /// Whether `format` is checked.
    #[serde(default = "yes")]
    formats: bool,
    /// Most bytes of a body; a larger one is answered with 413. The proxy has a limit of its own: `limits.buffer`.
    #[serde(default = "default_limit")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1)))]
    limit: usize,
    /// Most levels of arrays and objects in a body.
    #[serde(default = "default_depth")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1, max = 64)))]
    depth: usize,
    /// Most mistakes that an answer tells.
    #[serde(default = "default_errors")]
    #[cfg_attr(not(target_family = "wasm"), schemars(range(min = 1, max = 100)))]
    errors: usize,
}

/// A rule.
#[derive(Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Patterns of paths: `/users/{id}`, `/static/**`.
    paths: Vec<String>,
    /// Methods; none: all.
    #[serde(default)]
    methods: Vec<String>,
    /// What a body must fit: a JSON Schema, of draft 2020-12 unless `$schema` says another.
    schema: Value,
    /// Whether there must be a body.
    #[serde(default = "yes")]
    required: bool,
}

/// People do not nest deeper, and a schema that refers to itself is followed as deep as a body is.
const DEFAULT_DEPTH: usize = 32;
/// Deeper ones could use up the stack of a module, which is 1 MiB.
const MAX_DEPTH: usize = 64;
/// As many as one mends at a time.
const DEFAULT_ERRORS: usize = 10;
/// Each costs a line of the answer.
const MAX_ERRORS: usize = 100;
/// A longer text about a mistake is cut here: it may quote the body.
const MAX_TEXT: usize = 200;

fn yes() -> bool {
    true
}

/// To check a body of small objects costs up to 0.1 ms a KiB, and a callback may take 20 ms (`limits.time`): what takes longer
/// ends the virtual machine, for everybody, and callers choose what they send.
const DEFAULT_LIMIT: usize = 128 * 1024;

fn default_limit() -> usize {
    DEFAULT_LIMIT
}

fn default_depth() -> usize {
    DEFAULT_DEPTH
}

fn default_errors() -> usize {
    DEFAULT_ERRORS
}

/// The filter.
pub struct Validate {
    rules: Vec<Rule>,
    schemas: Schemas,
    limit: usize,
    depth: usize,
    errors: usize,
}

struct Rule {
    paths: Paths,
    methods: Vec<String>,
    schema: SchemaIndex,
    required: bool,
}

/// Where schemas of the configuration are, for references between them.
const BASE: &str = "schema://config/";

/// Nothing is fetched: what a schema refers to is in the configuration.
struct Nowhere;

impl UrlLoader for Nowhere {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        let name = url.strip_prefix(BASE).unwrap_or(url);
        Err(format!("there is no {name:?} in `schemas`, and nothing is fetched").into())
    }
}

impl Filter for Validate {
    type Config = Config;
    const READS: Reads = Reads::REQUEST_BODY;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { rules, schemas: named, formats, limit, depth, errors } = config;
        if rules.is_empty() {
            return Err("`rules` is empty: the filter would let everything in".into());
        }
        for (what, value, most) in
            [("limit", limit, usize::MAX), ("depth", depth, MAX_DEPTH), ("errors", errors, MAX_ERRORS)]
        {
            if value == 0 || value > most {
                return Err(format!("`{what}` is {value}; it may be 1 to {most}").into());
            }
        }
        let mut compiler = Compiler::new();
        compiler.use_loader(Box::new(Nowhere));
        compiler.set_default_draft(Draft::V2020_12);
        if formats {
            compiler.enable_format_assertions();
        }
        for (name, schema) in named {
            let fits =
                !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !fits {
                return Err(format!("{name:?} in `schemas` is no name of a schema: letters, digits, - _ .").into());
            }
            let added = compiler.add_resource(&format!("{BASE}{name}"), schema);
            added.map_err(|error| format!("schemas.{name}: {error:#}"))?;
        }
        let mut schemas = Schemas::new();
        let mut made = Vec::new();
        for (index, entry) in rules.into_iter().enumerate() {
            let rule = Rule::new(index, entry, &mut compiler, &mut schemas);
            made.push(rule.map_err(|error| format!("rules[{index}]: {error}"))?);
        }
        Ok(Self { rules: made, schemas, limit, depth, errors })
    }

    async fn on_request(&self, request: &mut Request) -> Result<Flow, Reply> {
        let (method, path) = (request.method(), request.path());
        let Some(rule) = self.rules.iter().find(|rule| rule.is_for(&method, &path)) else { return Ok(Flow::Leave) };
        if !request.has_body() {
            return if rule.required {
                Err(refusal(&[json!({"at": "", "what": "there is no body"})]))
            } else {
                Ok(Flow::Leave)
            };
        }
        if !is_json(request.headers()) {
            return Err(Reply::new(415).header("accept", "application/json").body("the body must be JSON\n"));
        }
        let body = request.body_up_to(self.limit).await?;
        if body.is_empty() && !rule.required {
            return Ok(Flow::Leave);
        }
        let value = strict::read(&body, self.depth)
            .map_err(|error| refusal(&[json!({"at": "", "what": format!("this is no JSON: {error}")})]))?;
        match self.schemas.validate(&value, rule.schema) {
            Ok(()) => Ok(Flow::Leave),
            Err(error) => {
                let mut mistakes = Vec::new();
                self.collect(&error, &mut mistakes);
                Err(refusal(&mistakes))
            }
        }
    }
}

impl Rule {
    fn new(index: usize, entry: Entry, compiler: &mut Compiler, schemas: &mut Schemas) -> Result<Self, String> {
        let Entry { paths, methods, schema, required } = entry;
        if paths.is_empty() {
            return Err("`paths` is empty; /** is every path".to_owned());
        }
        // No name in `schemas` has a colon.
        let place = format!("{BASE}rules:{index}");
        let wrong = |error: CompileError| format!("schema: {error:#}").replace(&place, "it");
        compiler.add_resource(&place, schema).map_err(wrong)?;
        let schema = compiler.compile(&place, schemas).map_err(wrong)?;
        Ok(Self { paths: Paths::new(&paths)?, methods, schema, required })
    }

    fn is_for(&self, method: &str, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|own| own == method)) && self.paths.find(path).is_some()
    }
}

impl Validate {
    /// The mistakes themselves, without what they are part of.
    fn collect(&self, error: &ValidationError<'_, '_>, mistakes: &mut Vec<Value>) {
        if mistakes.len() >= self.errors {
            return;
        }
        if error.causes.is_empty() {
            let what: String = error.kind.to_string().chars().take(MAX_TEXT).collect();
            mistakes.push(json!({"at": error.instance_location.to_string(), "what": what}));
        }
        error.causes.iter().for_each(|cause| self.collect(cause, mistakes));
    }
}

/// RFC 9457.
fn refusal(mistakes: &[Value]) -> Reply {
    let problem = json!({"title": "the body of the request is not valid", "status": 400, "errors": mistakes});
    Reply::new(400).header("content-type", "application/problem+json").body(format!("{problem}\n"))
}

lacis_sdk::filter!(Validate);

#[cfg(test)]
mod tests;

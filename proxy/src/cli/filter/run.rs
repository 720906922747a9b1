//! `lacis filter run`: a sidecar with just this filter, before services that answer with what they get.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::echo::Echo;
use super::project::{Aim, Project};
use crate::app;
use crate::cli::{Failure, Outcome, address as address_of, print};
use crate::config::{Config, Endpoint, Endpoints, LinkPolicy, Module};
use crate::control::reload::Source;
use crate::control::watch::Watcher;

/// Run a listener with just this filter, before an echo or an application of yours.
///
/// The filters of `outbound` in lacis.yaml run as they would beside a service; only its services are others: each answers with
/// what it gets, unless --upstream says where it is. When the module or the file is saved, the change is live; with --build,
/// when the source is saved. Without lacis.yaml, name a module. Ends on Ctrl-C.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// A module, or builtin:NAME, in place of the filters of lacis.yaml.
    module: Option<String>,
    /// What that filter reads as its configuration.
    #[arg(long, value_name = "TEXT", requires = "module")]
    filter_config: Option<String>,
    /// The sidecar's configuration.
    #[arg(short, long, value_name = "FILE", default_value = "lacis.yaml", conflicts_with = "module")]
    config: PathBuf,
    /// Where it listens; by default where lacis.yaml says, else 127.0.0.1:15001.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address_of)]
    listen: Option<SocketAddr>,
    /// Where a service is, in place of an echo; without its name the first one. May be given several times.
    #[arg(long, value_name = "[SERVICE=]ADDRESS:PORT", value_parser = upstream)]
    upstream: Vec<(Option<String>, SocketAddr)>,
    /// Build the filter first, and again whenever its source is saved; quickly, so the module is larger than the one that
    /// `lacis filter build` makes.
    #[arg(long, conflicts_with = "module")]
    build: bool,
}

fn upstream(text: &str) -> Result<(Option<String>, SocketAddr), String> {
    let (name, address) = text.split_once('=').map_or((None, text), |(name, address)| (Some(name.to_owned()), address));
    Ok((name, address_of(address)?))
}

impl Run {
    /// Runs the command.
    pub(super) fn execute(self) -> Outcome {
        let Run { module, filter_config, config, listen, upstream, build } = self;
        let directory = config.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let project = build.then(|| Project::find(&directory)).transpose()?;
        // Watched before it is built: what is saved meanwhile is built next.
        let project = project.map(|project| (Sources::of(&project), project));
        let built = project.as_ref().map(|(_, project)| project.build(Aim::Try)).transpose()?;
        if let Some(module) = &built {
            tracing::info!(module = %module.display(), "built");
        }
        // A module without a file gets one, which is gone when this ends.
        let made = module.map(|module| generated(&module, filter_config.as_deref())).transpose()?;
        if made.is_none() && !config.exists() {
            let why = "cannot be read: there is no such file; name a module, or write --config FILE";
            return Err(Failure::Input(format!("{}: {why}", config.display())));
        }
        let path = made.as_ref().map_or(config, |made| made.path().to_owned());
        let wrong = |problems: Vec<crate::config::Problem>| {
            Failure::Input(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        let names = |config: &Config| config.services.iter().map(|service| service.name.clone()).collect::<Vec<_>>();
        let (as_written, _) = crate::config::load(&path).map_err(wrong)?;
        let services = names(&as_written);
        let mut places = HashMap::new();
        for (name, address) in upstream {
            let name = name.or_else(|| services.first().cloned()).unwrap_or_default();
            if !services.contains(&name) {
                let why = format!("--upstream: there is no service {name:?}; there are {}", services.join(", "));
                return Err(Failure::Input(why));
            }
            places.insert(name, address);
        }
        let cannot = |error: std::io::Error| Failure::Input(format!("cannot start the echo: {error}"));
        let echo = Echo::bind(services.iter().filter(|name| !places.contains_key(*name)).cloned()).map_err(cannot)?;
        let echoes = echo.addresses().map_err(cannot)?;
        // Services that the file gets later go where the first one is.
        let fallback = services.first().and_then(|first| places.get(first).copied());
        let fallback = fallback.or(echoes.first().map(|(_, address)| *address));
        places.extend(echoes);
        let change = move |config: &mut Config| alone(config, listen, &places, fallback);
        let (source, config) = Source::open_changed(&path, change).map_err(wrong)?;
        let Some(outbound) = &config.outbound else {
            let why = "the file has no `outbound`, where the filter would run; write `outbound: {filters: [NAME]}`";
            return Err(Failure::Input(format!("{}: {why}", path.display())));
        };
        let here: Vec<_> = outbound.filters.iter().filter_map(|index| config.filters.get(*index)).collect();
        if let Some(built) = &built {
            let is = |module: &Module| matches!(module, Module::Path(path) if same(path, built));
            if !config.filters.iter().any(|filter| is(&filter.module)) {
                let why = "no filter has the module that the build makes; write";
                return Err(Failure::Input(format!("{}: {why} `module: {}`", path.display(), built.display())));
            }
        }
        let unbuilt = here.iter().find_map(|filter| match &filter.module {
            Module::Path(path) if !path.exists() && Project::find(&directory).is_ok() => Some(path),
            _ => None,
        });
        if let Some(path) = unbuilt {
            let why = "there is no such module yet; `lacis filter run --build` builds it, now and after each save";
            return Err(Failure::Input(format!("{}: {why}", path.display())));
        }
        echo.start().map_err(cannot)?;
        if let Some((sources, project)) = project {
            let watching = thread::Builder::new().name("build".into()).spawn(move || rebuild(&project, sources));
            watching.map_err(cannot)?;
        }
        let filters: Vec<&str> = here.iter().map(|filter| &*filter.name).collect();
        let way = format!(
            "passes {} and goes to {}; Ctrl-C ends it\n",
            if filters.is_empty() { "no filter".into() } else { filters.join(", ") },
            if services.is_empty() { "no service".into() } else { services.join(" or ") }
        );
        let tell = move |bound: &[(String, SocketAddr)]| {
            for (_, address) in bound.iter().filter(|(listener, _)| listener == "outbound") {
                print(&format!("http://{address} {way}"));
            }
        };
        app::run(source, config, tell).map_err(Failure::Input)
    }
}

/// The configuration with only the outbound side left, and all services where we say.
fn alone(
    config: &mut Config,
    listen: Option<SocketAddr>,
    places: &HashMap<String, SocketAddr>,
    fallback: Option<SocketAddr>,
) {
    config.inbound = None;
    config.identity = None;
    config.workers = 1;
    if let (Some(outbound), Some(listen)) = (&mut config.outbound, listen) {
        outbound.listen = listen;
    }
    for service in &mut config.services {
        service.link = LinkPolicy::Plaintext;
        service.identity = [].into();
        service.health = None;
        if let Some(address) = places.get(&service.name).copied().or(fallback) {
            service.endpoints = Endpoints::Listed([Endpoint::new(address)].into());
        }
    }
}

/// A configuration for one module.
fn generated(module: &str, config: Option<&str>) -> Result<tempfile::NamedTempFile, Failure> {
    let place = match module.starts_with("builtin:") {
        true => module.to_owned(),
        false => std::path::absolute(module).unwrap_or_else(|_| module.into()).display().to_string(),
    };
    let file = json!({
        "node": { "service": "me" },
        "outbound": { "filters": ["filter"] },
        // The echo takes its place.
        "services": { "app": { "hosts": ["localhost", "127.0.0.1"], "endpoints": ["127.0.0.1:9"], "link": "plaintext" } },
        "filters": { "filter": { "module": place, "config": config.unwrap_or_default() } },
    });
    let cannot = |error: std::io::Error| Failure::Input(format!("cannot write a configuration: {error}"));
    let made = tempfile::Builder::new().prefix("lacis-filter-").suffix(".yaml").tempfile().map_err(cannot)?;
    std::fs::write(made.path(), file.to_string()).map_err(cannot)?;
    Ok(made)
}

/// How long it must be quiet before a build begins. Should more be saved while it runs, another one follows.
const SETTLED: Duration = Duration::from_millis(20);

/// How often it is looked whether there are sources that were not there before: of these there is no event.
const LOOK: Duration = Duration::from_millis(500);

/// The sources of a filter, as they were when it was built last.
struct Sources {
    watcher: Watcher,
    known: Vec<PathBuf>,
}

impl Sources {
    fn of(project: &Project) -> Sources {
        let known = project.sources();
        Sources { watcher: Watcher::new(known.clone()).quiet(SETTLED), known }
    }

    /// Waits until one has changed, came or went.
    async fn changed(&mut self, project: &Project) {
        loop {
            let told = tokio::time::timeout(LOOK, self.watcher.changed()).await.is_ok();
            let now = project.sources();
            if told || now != self.known {
                self.watcher.watch(now.clone());
                self.known = now;
                return;
            }
        }
    }
}

/// Builds the filter whenever a source changes. The sidecar sees the module change, and takes it up.
fn rebuild(project: &Project, mut sources: Sources) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "cannot watch the source"),
    };
    runtime.block_on(async {
        loop {
            sources.changed(project).await;
            match project.build_again(Aim::Try) {
                Ok(module) => tracing::info!(module = %module.display(), "built"),
                Err(Failure::Input(why) | Failure::Defect(why)) => tracing::error!("not built: {why}"),
            }
        }
    });
}

/// Whether two paths are of one file.
fn same(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_may_have_a_name() {
        let address = "127.0.0.1:80".parse().unwrap();
        assert_eq!(upstream("127.0.0.1:80"), Ok((None, address)));
        assert_eq!(upstream("app=127.0.0.1:80"), Ok((Some("app".into()), address)));
        assert!(upstream("app").is_err());
    }
}

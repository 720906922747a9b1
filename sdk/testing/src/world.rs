//! The world of a module in a test: a scene.

use std::collections::BTreeMap;
use std::time::Duration;

use lacis_host::abi::{Level, MetricKind, Path, Status};
use lacis_host::{CallId, CallOut, Change, Now, RootId, World};
use lacis_sdk::log;
use lacis_sdk::testing::{Called, Kind, Scene};

pub(crate) struct Host {
    scene: Scene,
    /// By the scene's number of a call.
    pub(crate) calls: BTreeMap<u32, CallId>,
}

impl Host {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self { scene: scene.clone(), calls: BTreeMap::new() }
    }
}

impl World for Host {
    fn log(&mut self, _: &str, level: Level, text: &str) {
        let level = match level {
            Level::Trace => log::Level::Trace,
            Level::Debug => log::Level::Debug,
            Level::Info => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error => log::Level::Error,
            Level::Critical => log::Level::Critical,
        };
        self.scene.log(level, text);
    }

    fn now(&self) -> Now {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Now { unix: nanoseconds(self.scene.unix_time()), monotonic: nanoseconds(self.scene.elapsed()) }
    }

    fn property(&self, _: Path<'_>, _: &mut Vec<u8>) -> Result<(), Status> {
        Err(Status::NotFound)
    }

    fn set_tick(&mut self, _: RootId, period: Option<Duration>) {
        self.scene.set_tick(period.unwrap_or_default());
    }

    /// The host itself refuses one too many; what this world has of it ends with the test.
    fn define_metric(&mut self, _: &str, kind: MetricKind, name: &str, _more: bool) -> Option<u32> {
        let kind = match kind {
            MetricKind::Counter => Kind::Counter,
            MetricKind::Gauge => Kind::Gauge,
            MetricKind::Histogram => Kind::Histogram,
        };
        self.scene.define(kind, name)
    }

    fn metric(&mut self, metric: u32, change: Change) -> u64 {
        match change {
            Change::Read => {}
            Change::Add(step) => self.scene.add(metric, step.cast_signed()),
            Change::Set(value) | Change::Sample(value) => self.scene.record(metric, value),
        }
        self.scene.value(metric)
    }

    fn call_out(&mut self, _: &str, id: CallId, _: RootId, call: CallOut) -> Result<(), Status> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let named =
            |lines: lacis_host::Lines| lines.into_iter().map(|(name, value)| (text(name), value)).collect::<Vec<_>>();
        let called = match call {
            CallOut::Http(call) => {
                let timeout = call.timeout.unwrap_or(Duration::MAX);
                Called::new(&call.upstream, named(call.headers), call.body, timeout)
            }
            CallOut::Grpc(call) => {
                let timeout = call.timeout.unwrap_or(Duration::MAX);
                let metadata = named(call.metadata);
                Called::new_grpc(&call.upstream, &call.service, &call.method, metadata, call.message, timeout)
            }
            CallOut::GrpcStream(_) => return Err(Status::InternalFailure),
        };
        let number = self.scene.call(called).ok_or(Status::NotFound)?;
        self.calls.insert(number, id);
        Ok(())
    }

    fn call_cancel(&mut self, id: CallId) {
        let numbers: Vec<u32> = self.calls.iter().filter(|(_, own)| **own == id).map(|(number, _)| *number).collect();
        for number in numbers {
            self.calls.remove(&number);
            self.scene.cancel(number);
        }
    }
}

//! A `traceparent` that is accepted goes on with the same trace id and the same sampling.
#![no_main]

use lacis::telemetry::trace::TraceContext;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|value: &[u8]| {
    let Some(context) = TraceContext::parse(value) else { return };
    let header = context.header();
    let again = TraceContext::parse(header.as_bytes()).expect("a header of ours");
    assert_eq!(again.trace_id(), context.trace_id());
    assert_eq!(again.span_id(), context.span_id());
    assert_eq!(again.is_sampled(), context.is_sampled());
});

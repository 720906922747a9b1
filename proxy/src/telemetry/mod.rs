//! What the process tells about itself: metrics, access log, trace context.

//! The closed sets of the ABI. Each converts from the number a guest passed with `from_u32`, which is `None` for a
//! number outside the set, and to it with `as u32`.

/// Declares one of the ABI's enums together with its `from_u32`.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$item])* $variant = $value,)+ }

        impl $name {
            /// Every member, in the order of its number.
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The member with this number; `None` when the ABI has none.
            pub const fn from_u32(value: u32) -> Option<$name> {
                match value {
                    $($value => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// What a host call answers (`proxy_status_t`). The Rust SDK panics on a status that it does not expect from a
    /// call, so a host returns no other than the ones the ABI lists for that call.
    Status {
        /// Done.
        Ok = 0,
        /// The thing named does not exist, or not now.
        NotFound = 1,
        /// An argument is outside its set, or the call makes no sense in this callback.
        BadArgument = 2,
        /// A value exists that has no serial form.
        SerializationFailure = 3,
        /// A serialized argument could not be read.
        ParseFailure = 4,
        /// A pointer or size reaches outside guest memory, or the guest's allocator gave none.
        InvalidMemoryAccess = 6,
        /// A queue has no item.
        Empty = 7,
        /// The value was changed by someone else since it was read.
        CasMismatch = 8,
        /// The host failed.
        InternalFailure = 10,
        /// The host does not do this.
        Unimplemented = 12,
    }
}

words! {
    /// Severity of a log line.
    Level {
        /// Finest.
        Trace = 0,
        /// For a developer.
        Debug = 1,
        /// Normal events.
        Info = 2,
        /// Something odd that was handled.
        Warn = 3,
        /// Something failed.
        Error = 4,
        /// The filter cannot go on.
        Critical = 5,
    }
}

words! {
    /// A header map that a guest may name.
    Map {
        /// Head of the request, pseudo-headers included.
        RequestHeaders = 0,
        /// Trailers of the request.
        RequestTrailers = 1,
        /// Head of the response, `:status` included.
        ResponseHeaders = 2,
        /// Trailers of the response.
        ResponseTrailers = 3,
        /// Initial metadata of a gRPC call-out.
        GrpcInitialMetadata = 4,
        /// Trailing metadata of a gRPC call-out.
        GrpcTrailingMetadata = 5,
        /// Head of the response to an HTTP call-out.
        CallResponseHeaders = 6,
        /// Trailers of the response to an HTTP call-out.
        CallResponseTrailers = 7,
    }
}

words! {
    /// A buffer that a guest may name.
    Buffer {
        /// Body of the request.
        RequestBody = 0,
        /// Body of the response.
        ResponseBody = 1,
        /// Bytes from the client of a TCP connection.
        DownstreamData = 2,
        /// Bytes from the server of a TCP connection.
        UpstreamData = 3,
        /// Body of the response to an HTTP call-out.
        CallResponseBody = 4,
        /// Message of a gRPC call-out.
        GrpcMessage = 5,
        /// Configuration of the VM.
        VmConfiguration = 6,
        /// Configuration of the plugin (root context).
        PluginConfiguration = 7,
        /// Arguments of a foreign-function call.
        CallData = 8,
    }
}

words! {
    /// One direction of a stream, as `proxy_continue_stream` and `proxy_close_stream` name it.
    StreamType {
        /// From the client to the service, HTTP.
        Request = 0,
        /// From the service to the client, HTTP.
        Response = 1,
        /// The client's side of a TCP connection.
        Downstream = 2,
        /// The service's side of a TCP connection.
        Upstream = 3,
    }
}

words! {
    /// Who closed a TCP connection.
    Peer {
        /// Not known.
        Unknown = 0,
        /// This proxy.
        Local = 1,
        /// The other end.
        Remote = 2,
    }
}

words! {
    /// Kind of a metric.
    MetricKind {
        /// Only grows.
        Counter = 0,
        /// Goes up and down.
        Gauge = 1,
        /// Distribution of samples.
        Histogram = 2,
    }
}

words! {
    /// What a callback asks the host to do with the half of the stream it was called for.
    Action {
        /// Hand it to the next filter.
        Continue = 0,
        /// Keep it until `proxy_continue_stream`.
        Pause = 1,
    }
}

words! {
    /// What `proxy_on_{request,response}_headers` answers. The C++ SDK has more than the two words of the
    /// specification; Envoy takes every larger number for [`HeadersAnswer::StopAllWatermark`].
    HeadersAnswer {
        /// Hand the headers to the next filter.
        Continue = 0,
        /// Stop; with Envoy's default options the body callbacks stop too.
        StopIteration = 1,
        /// The same as `Continue` in Envoy.
        ContinueAndEndStream = 2,
        /// Stop everything, fail when the body outgrows its buffer.
        StopAllBuffer = 3,
        /// Stop everything, hold the sender back when the body outgrows its buffer.
        StopAllWatermark = 4,
    }
}

words! {
    /// What `proxy_on_{request,response}_body` answers. The specification has the first two; Envoy takes every larger
    /// number for [`BodyAnswer::Discard`].
    BodyAnswer {
        /// What the guest saw of the body goes on as it is now, and with it a head that was held.
        Continue = 0,
        /// It stays; the guest sees it again with the next piece added. The sender fails when it becomes too much
        /// (`StopIterationAndBuffer`).
        Buffer = 1,
        /// It stays; the guest sees the next piece alone. The sender is held back when it becomes too much
        /// (`StopIterationAndWatermark`).
        Watermark = 2,
        /// It is thrown away (`StopIterationNoBuffer`).
        Discard = 3,
    }
}

words! {
    /// Version of the ABI that a module was built for; its marker export says so.
    AbiVersion {
        /// 0.1.0: no end of stream in header callbacks, a header that does not exist reads as empty.
        V0_1_0 = 0,
        /// 0.2.0.
        V0_2_0 = 1,
        /// 0.2.1.
        V0_2_1 = 2,
    }
}

/// Largest gRPC status there is; guests pass any larger number (mostly `u32::MAX`) for "none".
pub const GRPC_STATUS_MAX: u32 = 16;

impl HeadersAnswer {
    /// The answer for any number a guest may return.
    pub const fn of(value: u32) -> HeadersAnswer {
        match HeadersAnswer::from_u32(value) {
            Some(answer) => answer,
            None => HeadersAnswer::StopAllWatermark,
        }
    }

    /// Whether the headers go on or stay, with Envoy's default options.
    pub const fn action(self) -> Action {
        match self {
            HeadersAnswer::Continue | HeadersAnswer::ContinueAndEndStream => Action::Continue,
            HeadersAnswer::StopIteration | HeadersAnswer::StopAllBuffer | HeadersAnswer::StopAllWatermark => {
                Action::Pause
            }
        }
    }
}

impl BodyAnswer {
    /// The answer for any number a guest may return.
    pub const fn of(value: u32) -> BodyAnswer {
        match BodyAnswer::from_u32(value) {
            Some(answer) => answer,
            None => BodyAnswer::Discard,
        }
    }
}

impl Action {
    /// The answer of a callback that knows only these two, for any number a guest may return.
    pub const fn of(value: u32) -> Action {
        match value {
            0 => Action::Continue,
            _ => Action::Pause,
        }
    }
}

impl Level {
    /// The word used in logs and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Critical => "critical",
        }
    }
}

impl AbiVersion {
    /// The version that an exported function of this name marks, if it is a marker.
    pub fn of_marker(export: &str) -> Option<AbiVersion> {
        AbiVersion::ALL.iter().copied().find(|version| version.marker() == export)
    }

    /// Name of the export by which a module declares this version. It is never called.
    pub const fn marker(self) -> &'static str {
        match self {
            AbiVersion::V0_1_0 => "proxy_abi_version_0_1_0",
            AbiVersion::V0_2_0 => "proxy_abi_version_0_2_0",
            AbiVersion::V0_2_1 => "proxy_abi_version_0_2_1",
        }
    }

    /// The number, as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            AbiVersion::V0_1_0 => "0.1.0",
            AbiVersion::V0_2_0 => "0.2.0",
            AbiVersion::V0_2_1 => "0.2.1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_abi() {
        let statuses: Vec<u32> = Status::ALL.iter().map(|s| *s as u32).collect();
        assert_eq!(statuses, [0, 1, 2, 3, 4, 6, 7, 8, 10, 12]);
        assert_eq!(Map::from_u32(7), Some(Map::CallResponseTrailers));
        assert_eq!(Map::from_u32(8), None);
        assert_eq!(Buffer::from_u32(8), Some(Buffer::CallData));
        assert_eq!(Buffer::from_u32(9), None);
        assert_eq!(Level::from_u32(6), None);
        assert_eq!(StreamType::from_u32(4), None);
        assert_eq!(MetricKind::from_u32(3), None);
        for status in Status::ALL {
            assert_eq!(Status::from_u32(*status as u32), Some(*status));
        }
    }

    #[test]
    fn every_answer_to_headers_continues_or_pauses_as_in_envoy() {
        let actions: Vec<Action> = [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| HeadersAnswer::of(n).action()).to_vec();
        use Action::{Continue, Pause};
        assert_eq!(actions, [Continue, Pause, Continue, Pause, Pause, Pause, Pause]);
    }

    #[test]
    fn every_answer_to_a_piece_of_body_has_a_meaning() {
        use BodyAnswer::{Buffer, Continue, Discard, Watermark};
        assert_eq!(
            [0, 1, 2, 3, 4, u32::MAX].map(BodyAnswer::of),
            [Continue, Buffer, Watermark, Discard, Discard, Discard]
        );
        assert_eq!(
            [0, 1, 2, u32::MAX].map(Action::of),
            [Action::Continue, Action::Pause, Action::Pause, Action::Pause]
        );
    }

    #[test]
    fn a_marker_names_its_version() {
        for version in AbiVersion::ALL {
            assert_eq!(AbiVersion::of_marker(version.marker()), Some(*version));
        }
        assert_eq!(AbiVersion::of_marker("proxy_abi_version_0_3_0"), None);
    }
}

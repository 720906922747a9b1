//! lacis.zig: filters in Zig, without libc. A filter is a struct with the functions that it wants, made the module by
//!
//!     comptime {
//!         lacis.filter(Doorkeeper);
//!     }
//!     pub const panic = lacis.panic; // that of `std` wants a console
//!
//! It speaks Proxy-Wasm 0.2.1, so it runs in Lacis, in Envoy and wherever else that is spoken. The struct has
//!
//!     pub fn init(config: lacis.Config) !Self // an error refuses the configuration, and is logged
//!     pub fn onRequest(self: *Self, request: lacis.Request) !lacis.Flow // the head of a request
//!     pub fn onRequestBody(self: *Self, request: lacis.Request, body: lacis.Body) !lacis.Flow
//!     pub fn onResponse(self: *Self, response: lacis.Response) !lacis.Flow // not for its own replies
//!     pub fn onResponseBody(self: *Self, response: lacis.Response, body: lacis.Body) !lacis.Flow
//!     pub fn onAnswer(self: *Self, exchange: u32, answer: lacis.Answer) !void // to `lacis.call`
//!     pub fn onLog(self: *Self, exchange: u32) !void // an exchange is over
//!     pub fn onTick(self: *Self) !void // the timer of `env.proxy_set_tick_period_milliseconds`
//!
//! and only those that are there become callbacks. One value of it is one configured filter, shared by all exchanges that
//! pass it; a virtual machine is never entered by two threads. An error of a callback is logged and traps: the host
//! answers for the exchange (`failure` in the sidecar's file) and replaces the machine.
//!
//! Compile with `zig build-exe -target wasm32-wasi -O ReleaseSmall --stack 65536 -fno-entry -rdynamic`; without `--stack`
//! each virtual machine begins with the 16 MiB that Zig thinks a stack needs.
//!
//! Memory: what a function here gives is valid until the callback ends, and then freed by itself, as is what comes from
//! `lacis.scratch`. What a filter remembers comes from `Config.allocator`, and is freed with the filter.
//!
//! Copyright the authors of Lacis. Apache-2.0.
const std = @import("std");
const Allocator = std.mem.Allocator;

const heap = std.heap.wasm_allocator;
var arena: std.heap.ArenaAllocator = .init(heap);
/// How much memory of one callback is kept for the next.
const kept = 64 * 1024;

/// Memory until the callback ends.
pub const scratch = arena.allocator();

/// Host calls that this module does not wrap, as the ABI has them.
pub const env = struct {
    pub extern "env" fn proxy_log(level: u32, text: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_get_log_level(level: *u32) u32;
    pub extern "env" fn proxy_get_current_time_nanoseconds(time: *u64) u32;
    pub extern "env" fn proxy_set_tick_period_milliseconds(period: u32) u32;
    pub extern "env" fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *?[*]u8, size: *usize) u32;
    pub extern "env" fn proxy_get_buffer_status(buffer: u32, length: *usize, flags: *u32) u32;
    pub extern "env" fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_get_header_map_size(map: u32, size: *usize) u32;
    pub extern "env" fn proxy_get_header_map_pairs(map: u32, data: *?[*]u8, size: *usize) u32;
    pub extern "env" fn proxy_set_header_map_pairs(map: u32, data: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_get_header_map_value(map: u32, name: [*]const u8, name_size: usize, value: *?[*]u8, size: *usize) u32;
    pub extern "env" fn proxy_add_header_map_value(map: u32, name: [*]const u8, name_size: usize, value: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_replace_header_map_value(map: u32, name: [*]const u8, name_size: usize, value: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_remove_header_map_value(map: u32, name: [*]const u8, name_size: usize) u32;
    pub extern "env" fn proxy_continue_stream(stream: u32) u32;
    pub extern "env" fn proxy_close_stream(stream: u32) u32;
    pub extern "env" fn proxy_send_local_response(status: u32, details: [*]const u8, details_size: usize, body: [*]const u8, body_size: usize, headers: [*]const u8, headers_size: usize, grpc_status: i32) u32;
    pub extern "env" fn proxy_http_call(service: [*]const u8, service_size: usize, headers: [*]const u8, headers_size: usize, body: [*]const u8, body_size: usize, trailers: [*]const u8, trailers_size: usize, milliseconds: u32, call: *u32) u32;
    pub extern "env" fn proxy_grpc_call(upstream: [*]const u8, upstream_size: usize, service: [*]const u8, service_size: usize, method: [*]const u8, method_size: usize, metadata: [*]const u8, metadata_size: usize, message: [*]const u8, message_size: usize, milliseconds: u32, call: *u32) u32;
    pub extern "env" fn proxy_grpc_stream(upstream: [*]const u8, upstream_size: usize, service: [*]const u8, service_size: usize, method: [*]const u8, method_size: usize, metadata: [*]const u8, metadata_size: usize, call: *u32) u32;
    pub extern "env" fn proxy_grpc_send(call: u32, message: [*]const u8, size: usize, end: u32) u32;
    pub extern "env" fn proxy_grpc_cancel(call: u32) u32;
    pub extern "env" fn proxy_grpc_close(call: u32) u32;
    pub extern "env" fn proxy_get_status(status: *u32, message: *?[*]u8, size: *usize) u32;
    pub extern "env" fn proxy_set_effective_context(context: u32) u32;
    pub extern "env" fn proxy_done() u32;
    pub extern "env" fn proxy_set_shared_data(key: [*]const u8, key_size: usize, value: [*]const u8, size: usize, cas: u32) u32;
    pub extern "env" fn proxy_get_shared_data(key: [*]const u8, key_size: usize, value: *?[*]u8, size: *usize, cas: *u32) u32;
    pub extern "env" fn proxy_register_shared_queue(name: [*]const u8, size: usize, queue: *u32) u32;
    pub extern "env" fn proxy_resolve_shared_queue(vm: [*]const u8, vm_size: usize, name: [*]const u8, size: usize, queue: *u32) u32;
    pub extern "env" fn proxy_enqueue_shared_queue(queue: u32, data: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_dequeue_shared_queue(queue: u32, data: *?[*]u8, size: *usize) u32;
    pub extern "env" fn proxy_define_metric(kind: u32, name: [*]const u8, size: usize, metric: *u32) u32;
    pub extern "env" fn proxy_increment_metric(metric: u32, offset: i64) u32;
    pub extern "env" fn proxy_record_metric(metric: u32, value: u64) u32;
    pub extern "env" fn proxy_get_metric(metric: u32, value: *u64) u32;
    pub extern "env" fn proxy_get_property(path: [*]const u8, path_size: usize, value: *?[*]u8, size: *usize) u32;
    pub extern "env" fn proxy_set_property(path: [*]const u8, path_size: usize, value: [*]const u8, size: usize) u32;
    pub extern "env" fn proxy_call_foreign_function(name: [*]const u8, name_size: usize, argument: [*]const u8, argument_size: usize, result: *?[*]u8, size: *usize) u32;
};

/// What becomes of a message: it goes on, or waits (for a call, or for the rest of its body).
pub const Flow = enum(u32) { proceed = 0, pause = 1 };

pub const Level = enum(u32) { trace, debug, info, warn, err, critical };

/// A header: its name and its value.
pub const Pair = struct { []const u8, []const u8 };

/// Makes the module that of a filter; see the top of this file.
pub fn filter(comptime Filter: type) void {
    const callbacks = Callbacks(Filter);
    @export(&callbacks.version, .{ .name = "proxy_abi_version_0_2_1" });
    @export(&allocate, .{ .name = "proxy_on_memory_allocate" });
    @export(&callbacks.create, .{ .name = "proxy_on_context_create" });
    @export(&callbacks.configure, .{ .name = "proxy_on_configure" });
    @export(&callbacks.delete, .{ .name = "proxy_on_delete" });
    const optional = .{
        .{ "onRequest", "proxy_on_request_headers" },
        .{ "onRequestBody", "proxy_on_request_body" },
        .{ "onResponse", "proxy_on_response_headers" },
        .{ "onResponseBody", "proxy_on_response_body" },
        .{ "onAnswer", "proxy_on_http_call_response" },
        .{ "onLog", "proxy_on_log" },
        .{ "onTick", "proxy_on_tick" },
    };
    inline for (optional) |names| {
        if (@hasDecl(Filter, names[0])) @export(&@field(callbacks, names[0]), .{ .name = names[1] });
    }
}

/// Logs the message of a panic and traps. Filters declare it in their first file: `pub const panic = lacis.panic;`
pub const panic = std.debug.FullPanic(struct {
    fn call(text: []const u8, _: ?usize) noreturn {
        _ = env.proxy_log(@backingInt(Level.critical), text.ptr, text.len);
        @trap();
    }
}.call);

pub fn log(level: Level, comptime format: []const u8, arguments: anytype) void {
    const text = std.fmt.allocPrint(scratch, format, arguments) catch return;
    _ = env.proxy_log(@backingInt(level), text.ptr, text.len);
}

/// Whether two texts are equal, in the same time wherever they differ: for secrets.
pub fn equal(one: []const u8, other: []const u8) bool {
    if (one.len != other.len) return false;
    var differ: u8 = 0;
    for (one, other) |left, right| differ |= left ^ right;
    return differ == 0;
}

/// The `config` of a filter, while it is made.
pub const Config = struct {
    /// All of it, until `init` returns: JSON if it is a map in the sidecar's file.
    text: []const u8,
    /// Memory as long as the filter lives.
    allocator: Allocator,

    /// Reads it as JSON; unknown members are passed over.
    pub fn parse(config: Config, comptime Settings: type) !Settings {
        const options: std.json.ParseOptions = .{ .ignore_unknown_fields = true, .allocate = .alloc_always };
        return std.json.parseFromSliceLeaky(Settings, config.allocator, config.text, options);
    }
};

/// A number that only grows.
pub const Counter = struct {
    metric: u32,

    pub fn define(name: []const u8) Counter {
        return .{ .metric = defineMetric(0, name) };
    }
    pub fn add(counter: Counter, offset: u31) void {
        must(env.proxy_increment_metric(counter.metric, offset));
    }
};

/// A number that is set.
pub const Gauge = struct {
    metric: u32,

    pub fn define(name: []const u8) Gauge {
        return .{ .metric = defineMetric(1, name) };
    }
    pub fn set(gauge: Gauge, value: u64) void {
        must(env.proxy_record_metric(gauge.metric, value));
    }
};

/// Samples, whose distribution is shown.
pub const Histogram = struct {
    metric: u32,

    pub fn define(name: []const u8) Histogram {
        return .{ .metric = defineMetric(2, name) };
    }
    pub fn record(histogram: Histogram, sample: u64) void {
        must(env.proxy_record_metric(histogram.metric, sample));
    }
};

/// The headers of a message, or of the response to a call. Names are matched without regard to case; a request has
/// `:method`, `:path`, `:authority` and `:scheme`, a response `:status`.
pub const Headers = struct {
    map: u32,

    /// Those of the request, and of the response: for `onLog`.
    pub const of_request: Headers = .{ .map = 0 };
    pub const of_response: Headers = .{ .map = 2 };

    /// The first value of a header, if it is there.
    pub fn get(headers: Headers, name: []const u8) ?[]const u8 {
        var data: ?[*]u8 = null;
        var size: usize = 0;
        if (env.proxy_get_header_map_value(headers.map, name.ptr, name.len, &data, &size) != 0) return null;
        return if (data) |bytes| bytes[0..size] else "";
    }

    /// Whether the first value of a header is this one; see `equal`.
    pub fn is(headers: Headers, name: []const u8, value: []const u8) bool {
        return equal(headers.get(name) orelse return false, value);
    }

    /// Replaces all values of a header by one.
    pub fn set(headers: Headers, name: []const u8, value: []const u8) void {
        must(env.proxy_replace_header_map_value(headers.map, name.ptr, name.len, value.ptr, value.len));
    }

    /// Adds a value to a header.
    pub fn add(headers: Headers, name: []const u8, value: []const u8) void {
        must(env.proxy_add_header_map_value(headers.map, name.ptr, name.len, value.ptr, value.len));
    }

    /// Removes all values of a header.
    pub fn remove(headers: Headers, name: []const u8) void {
        must(env.proxy_remove_header_map_value(headers.map, name.ptr, name.len));
    }

    /// All of them in their order.
    pub fn all(headers: Headers) ![]Pair {
        var data: ?[*]u8 = null;
        var size: usize = 0;
        must(env.proxy_get_header_map_pairs(headers.map, &data, &size));
        const bytes = (data orelse return &.{})[0..size];
        const list = try scratch.alloc(Pair, number(bytes));
        var text = bytes[4 + 8 * list.len ..];
        for (list, 0..) |*pair, at| {
            inline for (0..2) |part| {
                const length = number(bytes[4 + 8 * at + 4 * part ..]);
                pair[part] = text[0..length];
                text = text[length + 1 ..];
            }
        }
        return list;
    }
};

/// What can be seen of a body: what has come since the filter last let something go on.
pub const Body = struct {
    buffer: u32,
    /// Whether these bytes end the message.
    end: bool,

    pub fn get(body: Body) []const u8 {
        return content(body.buffer) orelse @panic("this body cannot be read here");
    }

    /// Its message must not keep a `content-length` of the old one.
    pub fn set(body: Body, bytes: []const u8) void {
        must(env.proxy_set_buffer_bytes(body.buffer, 0, std.math.maxInt(usize), bytes.ptr, bytes.len));
    }
};

pub const Request = struct {
    /// The number of the exchange, the same for its response and its end.
    exchange: u32,
    /// Whether no body and no trailers follow.
    end: bool,
    headers: Headers = .of_request,

    /// Sends the request to another service: that becomes its authority, by which a route is chosen after the filters
    /// have run; `x-forwarded-host` carries the one that the caller used. Only in `onRequest`.
    pub fn sendTo(request: Request, service: []const u8) void {
        if (request.headers.get(":authority")) |original| request.headers.set("x-forwarded-host", original);
        request.headers.set(":authority", service);
    }

    /// Answers in place of the service: `return request.reply(403, "no\n", &.{});`
    pub fn reply(request: Request, status: u32, body: []const u8, headers: []const Pair) !Flow {
        const list = try pairs(headers);
        (exchanges.getPtr(request.exchange) orelse @panic("no such exchange")).replied = true;
        must(env.proxy_send_local_response(status, "", 0, body.ptr, body.len, list.ptr, list.len, -1));
        return .pause;
    }

    /// Lets it go on, from `onAnswer`.
    pub fn proceed() void {
        must(env.proxy_continue_stream(0));
    }
};

pub const Response = struct {
    exchange: u32,
    end: bool,
    headers: Headers = .of_response,

    /// Lets it go on, from `onAnswer`.
    pub fn proceed() void {
        must(env.proxy_continue_stream(1));
    }
};

/// The answer to a call.
pub const Answer = struct {
    /// What `call` gave.
    call: u32,
    /// Whether there is one; else the call failed without an answer.
    came: bool,
    headers: Headers = .{ .map = 6 },

    pub fn body(answer: Answer) []const u8 {
        return if (answer.came) content(4) orelse "" else "";
    }
};

/// Calls a service over HTTP, for an exchange or (0, from `onTick` or `init`) for the filter itself. `headers` have
/// `:method`, `:path` and `:authority`. `onAnswer` is told the answer, with the exchange in effect (its headers can be
/// set), unless that is over by then.
pub fn call(exchange: u32, service: []const u8, headers: []const Pair, body: []const u8, milliseconds: u32) !u32 {
    const list = try pairs(headers);
    var id: u32 = 0;
    const status = env.proxy_http_call(service.ptr, service.len, list.ptr, list.len, body.ptr, body.len, "", 0, milliseconds, &id);
    if (status != 0) return error.CallRefused;
    try calls.put(heap, id, exchange);
    return id;
}

/// What the proxy knows by a path, as `&.{ "source", "address" }`. Numbers are 8 bytes.
pub fn property(path: []const []const u8) !?[]const u8 {
    const joined = try std.mem.join(scratch, "\x00", path);
    var data: ?[*]u8 = null;
    var size: usize = 0;
    if (env.proxy_get_property(joined.ptr, joined.len, &data, &size) != 0) return null;
    return if (data) |bytes| bytes[0..size] else "";
}

const Exchange = struct { root: u32, replied: bool = false };

var exchanges: std.AutoHashMapUnmanaged(u32, Exchange) = .empty;
/// The exchanges that wait for a call.
var calls: std.AutoHashMapUnmanaged(u32, u32) = .empty;

fn Callbacks(comptime Filter: type) type {
    return struct {
        const Root = struct { filter: Filter, memory: std.heap.ArenaAllocator };
        var roots: std.AutoHashMapUnmanaged(u32, *Root) = .empty;

        fn version() callconv(.c) void {}

        fn create(id: u32, root: u32) callconv(.c) void {
            if (root != 0) exchanges.put(heap, id, .{ .root = root }) catch @panic("no memory is left");
        }

        fn configure(id: u32, _: u32) callconv(.c) u32 {
            defer forget();
            begin(id) catch |problem| {
                log(.err, "the configuration is refused: {s}", .{@errorName(problem)});
                return 0;
            };
            return 1;
        }

        fn begin(id: u32) !void {
            const root = try heap.create(Root);
            errdefer heap.destroy(root);
            root.memory = .init(heap);
            errdefer root.memory.deinit();
            root.filter = try Filter.init(.{ .text = content(7) orelse "", .allocator = root.memory.allocator() });
            const old = try roots.fetchPut(heap, id, root);
            if (old) |entry| end(entry.value);
        }

        fn end(root: *Root) void {
            root.memory.deinit();
            heap.destroy(root);
        }

        fn delete(id: u32) callconv(.c) void {
            if (exchanges.remove(id)) return;
            if (roots.fetchRemove(id)) |entry| end(entry.value);
        }

        fn of(exchange: u32) *Filter {
            const entry = exchanges.get(exchange) orelse @panic("no such exchange");
            return ofRoot(entry.root);
        }

        fn ofRoot(root: u32) *Filter {
            return &(roots.get(root) orelse @panic("no such filter")).filter;
        }

        fn replied(exchange: u32) bool {
            return if (exchanges.get(exchange)) |entry| entry.replied else false;
        }

        fn onRequest(id: u32, _: u32, last: u32) callconv(.c) u32 {
            defer forget();
            return flow(of(id).onRequest(.{ .exchange = id, .end = last != 0 }));
        }

        fn onRequestBody(id: u32, _: u32, last: u32) callconv(.c) u32 {
            defer forget();
            const body: Body = .{ .buffer = 0, .end = last != 0 };
            return flow(of(id).onRequestBody(.{ .exchange = id, .end = last != 0 }, body));
        }

        fn onResponse(id: u32, _: u32, last: u32) callconv(.c) u32 {
            defer forget();
            if (replied(id)) return 0;
            return flow(of(id).onResponse(.{ .exchange = id, .end = last != 0 }));
        }

        fn onResponseBody(id: u32, _: u32, last: u32) callconv(.c) u32 {
            defer forget();
            if (replied(id)) return 0;
            const body: Body = .{ .buffer = 1, .end = last != 0 };
            return flow(of(id).onResponseBody(.{ .exchange = id, .end = last != 0 }, body));
        }

        fn onAnswer(root: u32, id: u32, headers: u32, _: u32, _: u32) callconv(.c) void {
            defer forget();
            const waiting = calls.fetchRemove(id) orelse return;
            // Refused if the exchange is over.
            if (waiting.value != 0 and env.proxy_set_effective_context(waiting.value) != 0) return;
            check(ofRoot(root).onAnswer(waiting.value, .{ .call = id, .came = headers != 0 }));
        }

        fn onLog(id: u32) callconv(.c) void {
            defer forget();
            check(of(id).onLog(id));
        }

        fn onTick(root: u32) callconv(.c) void {
            defer forget();
            check(ofRoot(root).onTick());
        }
    };
}

/// The host's results are put here.
fn allocate(size: usize) callconv(.c) ?[*]u8 {
    return (scratch.alloc(u8, size) catch return null).ptr;
}

/// The callback is over, and its memory is free.
fn forget() void {
    _ = arena.reset(.{ .retain_with_limit = kept });
}

fn flow(result: anyerror!Flow) u32 {
    return @backingInt(result catch |problem| @panic(@errorName(problem)));
}

fn check(result: anyerror!void) void {
    result catch |problem| @panic(@errorName(problem));
}

/// A host call that can only fail if the filter is wrong.
fn must(status: u32) void {
    if (status != 0) @panic("a call of the host that cannot be made here");
}

fn defineMetric(kind: u32, name: []const u8) u32 {
    var metric: u32 = 0;
    must(env.proxy_define_metric(kind, name.ptr, name.len, &metric));
    return metric;
}

fn content(buffer: u32) ?[]const u8 {
    var data: ?[*]u8 = null;
    var size: usize = 0;
    if (env.proxy_get_buffer_bytes(buffer, 0, std.math.maxInt(usize), &data, &size) != 0) return null;
    return if (data) |bytes| bytes[0..size] else "";
}

fn number(bytes: []const u8) u32 {
    return std.mem.readInt(u32, bytes[0..4], .little);
}

/// Header pairs as they cross: their number, the sizes, then every text with a NUL behind it.
fn pairs(list: []const Pair) ![]const u8 {
    var size: usize = 4;
    for (list) |pair| size += 8 + pair[0].len + pair[1].len + 2;
    const bytes = try scratch.alloc(u8, size);
    std.mem.writeInt(u32, bytes[0..4], @intCast(list.len), .little);
    var text = bytes[4 + 8 * list.len ..];
    for (list, 0..) |pair, at| {
        inline for (0..2) |part| {
            const length = pair[part].len;
            std.mem.writeInt(u32, bytes[4 + 8 * at + 4 * part ..][0..4], @intCast(length), .little);
            @memcpy(text[0..length], pair[part]);
            text[length] = 0;
            text = text[length + 1 ..];
        }
    }
    return bytes;
}

//! The greeter (see ../README.md) in Zig, straight on the ABI: no libc, and `std` for memory only.
const std = @import("std");

const allocator = std.heap.wasm_allocator;

/// The handler of `std` writes to files, and imports all of WASI for it, which Envoy does not have.
pub const panic = std.debug.FullPanic(struct {
    fn call(text: []const u8, _: ?usize) noreturn {
        _ = env.proxy_log(5, text.ptr, text.len);
        @trap();
    }
}.call);

const env = struct {
    extern "env" fn proxy_log(level: u32, text: [*]const u8, size: usize) u32;
    extern "env" fn proxy_define_metric(kind: u32, name: [*]const u8, size: usize, id: *u32) u32;
    extern "env" fn proxy_increment_metric(id: u32, offset: i64) u32;
    extern "env" fn proxy_get_header_map_value(map: u32, name: [*]const u8, name_size: usize, value: *?[*]u8, value_size: *usize) u32;
    extern "env" fn proxy_replace_header_map_value(map: u32, name: [*]const u8, name_size: usize, value: [*]const u8, value_size: usize) u32;
    extern "env" fn proxy_remove_header_map_value(map: u32, name: [*]const u8, size: usize) u32;
    extern "env" fn proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: *?[*]u8, size: *usize) u32;
    extern "env" fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: [*]const u8, size: usize) u32;
    extern "env" fn proxy_http_call(upstream: [*]const u8, upstream_size: usize, headers: [*]const u8, headers_size: usize, body: [*]const u8, body_size: usize, trailers: [*]const u8, trailers_size: usize, timeout: u32, call: *u32) u32;
    extern "env" fn proxy_set_effective_context(id: u32) u32;
    extern "env" fn proxy_continue_stream(stream: u32) u32;
    extern "env" fn proxy_send_local_response(status: u32, details: [*]const u8, details_size: usize, body: [*]const u8, body_size: usize, headers: [*]const u8, headers_size: usize, grpc: i32) u32;
};

const Map = enum(u32) { request = 0, response = 2, call = 6 };
const Buffer = enum(u32) { response_body = 1, call_body = 4, configuration = 7 };
const proceed = 0;
const pause = 1;
const everything = std.math.maxInt(usize);

var greeting: []u8 = &.{};
var requests: u32 = 0;
var calls: std.AutoHashMapUnmanaged(u32, u32) = .empty;

export fn proxy_abi_version_0_2_1() void {}

/// The host's results are put here, and freed by `free`.
export fn malloc(size: usize) ?[*]u8 {
    const memory = allocator.alloc(u8, size) catch return null;
    return memory.ptr;
}

export fn proxy_on_context_create(_: u32, _: u32) void {}
export fn proxy_on_vm_start(_: u32, _: u32) u32 {
    return 1;
}

export fn proxy_on_configure(_: u32, size: u32) u32 {
    greeting = content(.configuration);
    if (greeting.len != size) return 0;
    must(env.proxy_define_metric(0, "greeted", 7, &requests));
    log("configured: {s}", .{greeting});
    return 1;
}

export fn proxy_on_request_headers(id: u32, _: u32, _: u32) u32 {
    must(env.proxy_increment_metric(requests, 1));
    const sent = header(.request, "x-name");
    defer allocator.free(sent orelse &.{});
    const name: []const u8 = sent orelse "nobody";
    set(.request, "x-greeting", "{s}, {s}", .{ greeting, name });
    if (header(.request, "x-deny")) |value| {
        allocator.free(value);
        const text = print("not {s}\n", .{name});
        defer allocator.free(text);
        const headers = pairs(&.{.{ "x-why", "denied" }});
        must(env.proxy_send_local_response(403, "", 0, text.ptr, text.len, &headers, headers.len, -1));
        return pause;
    }
    if (header(.request, "x-call")) |value| {
        allocator.free(value);
        const headers = pairs(&.{ .{ ":method", "GET" }, .{ ":path", "/bytes/5" }, .{ ":authority", "helper" } });
        var call: u32 = 0;
        must(env.proxy_http_call("helper", 6, &headers, headers.len, "", 0, "", 0, 5000, &call));
        calls.put(allocator, call, id) catch @panic("memory");
        return pause;
    }
    return proceed;
}

export fn proxy_on_http_call_response(_: u32, call: u32, _: u32, _: u32, _: u32) void {
    const status = header(.call, ":status") orelse @panic("no status");
    defer allocator.free(status);
    const body = content(.call_body);
    defer allocator.free(body);
    const waiting = calls.fetchRemove(call) orelse @panic("no such call");
    must(env.proxy_set_effective_context(waiting.value));
    set(.request, "x-helper", "{s} {d}", .{ status, body.len });
    must(env.proxy_continue_stream(0));
}

export fn proxy_on_response_headers(_: u32, _: u32, _: u32) u32 {
    set(.response, "x-filter", "greeter", .{});
    must(env.proxy_remove_header_map_value(@intFromEnum(Map.response), "content-length", 14));
    return proceed;
}

export fn proxy_on_response_body(_: u32, _: u32, end: u32) u32 {
    if (end == 0) return pause;
    const body = content(.response_body);
    defer allocator.free(body);
    const text = print("<{s}>", .{body});
    defer allocator.free(text);
    must(env.proxy_set_buffer_bytes(@intFromEnum(Buffer.response_body), 0, everything, text.ptr, text.len));
    return proceed;
}

export fn proxy_on_done(_: u32) u32 {
    return 1;
}

export fn proxy_on_log(_: u32) void {
    const status = header(.response, ":status") orelse return;
    defer allocator.free(status);
    log("done: {s}", .{status});
}

export fn proxy_on_delete(_: u32) void {}

fn must(status: u32) void {
    if (status != 0) @panic("a host call failed");
}

fn print(comptime format: []const u8, arguments: anytype) []u8 {
    return std.fmt.allocPrint(allocator, format, arguments) catch @panic("memory");
}

fn log(comptime format: []const u8, arguments: anytype) void {
    const text = print(format, arguments);
    defer allocator.free(text);
    must(env.proxy_log(2, text.ptr, text.len));
}

fn header(map: Map, name: []const u8) ?[]u8 {
    var data: ?[*]u8 = null;
    var size: usize = 0;
    if (env.proxy_get_header_map_value(@intFromEnum(map), name.ptr, name.len, &data, &size) != 0) return null;
    return (data orelse return null)[0..size];
}

fn set(map: Map, name: []const u8, comptime format: []const u8, arguments: anytype) void {
    const value = print(format, arguments);
    defer allocator.free(value);
    must(env.proxy_replace_header_map_value(@intFromEnum(map), name.ptr, name.len, value.ptr, value.len));
}

fn content(buffer: Buffer) []u8 {
    var data: ?[*]u8 = null;
    var size: usize = 0;
    must(env.proxy_get_buffer_bytes(@intFromEnum(buffer), 0, everything, &data, &size));
    return (data orelse return &.{})[0..size];
}

/// Header pairs as they cross: their number, the sizes, then every text with a NUL behind it.
inline fn pairs(comptime list: []const [2][]const u8) [pairsSize(list)]u8 {
    comptime {
        var sizes: []const u8 = &word(list.len);
        var texts: []const u8 = "";
        for (list) |pair| for (pair) |text| {
            sizes = sizes ++ &word(text.len);
            texts = texts ++ text ++ "\x00";
        };
        return (sizes ++ texts)[0..pairsSize(list)].*;
    }
}

fn pairsSize(comptime list: []const [2][]const u8) usize {
    var size = 4;
    for (list) |pair| for (pair) |text| {
        size += 4 + text.len + 1;
    };
    return size;
}

fn word(value: u32) [4]u8 {
    return @bitCast(value);
}

//! The greeter (see ../README.md) in Zig on lacis.zig.
const std = @import("std");
const lacis = @import("lacis");

const Greeter = struct {
    greeting: []const u8,
    greeted: lacis.Counter,

    pub fn init(config: lacis.Config) !Greeter {
        lacis.log(.info, "configured: {s}", .{config.text});
        if (std.mem.startsWith(u8, config.text, "tick")) _ = lacis.env.proxy_set_tick_period_milliseconds(20);
        return .{ .greeting = try config.allocator.dupe(u8, config.text), .greeted = .define("greeted") };
    }

    pub fn onRequest(self: *Greeter, request: lacis.Request) !lacis.Flow {
        self.greeted.add(1);
        const name = request.headers.get("x-name") orelse "nobody";
        request.headers.set("x-greeting", try print("{s}, {s}", .{ self.greeting, name }));
        if (request.headers.get("x-deny") != null) {
            return request.reply(403, try print("not {s}\n", .{name}), &.{.{ "x-why", "denied" }});
        }
        if (request.headers.get("x-call") == null) return .proceed;
        _ = try lacis.call(request.exchange, "helper", headers, "", 5000);
        return .pause;
    }

    pub fn onTick(_: *Greeter) !void {
        _ = lacis.env.proxy_set_tick_period_milliseconds(0);
        _ = try lacis.call(0, "helper", headers, "", 5000);
    }

    const headers: []const lacis.Pair = &.{ .{ ":method", "GET" }, .{ ":path", "/bytes/5" }, .{ ":authority", "helper" } };

    pub fn onAnswer(_: *Greeter, exchange: u32, answer: lacis.Answer) !void {
        const status = answer.headers.get(":status") orelse "";
        if (exchange == 0) return lacis.log(.info, "fetched: {s} {d}", .{ status, answer.body().len });
        lacis.Headers.of_request.set("x-helper", try print("{s} {d}", .{ status, answer.body().len }));
        lacis.Request.proceed();
    }

    pub fn onResponse(_: *Greeter, response: lacis.Response) lacis.Flow {
        response.headers.set("x-filter", "greeter");
        response.headers.remove("content-length");
        return .proceed;
    }

    pub fn onResponseBody(_: *Greeter, _: lacis.Response, body: lacis.Body) !lacis.Flow {
        if (!body.end) return .pause;
        body.set(try print("<{s}>", .{body.get()}));
        return .proceed;
    }

    pub fn onLog(_: *Greeter, _: u32) void {
        lacis.log(.info, "done: {s}", .{lacis.Headers.of_response.get(":status") orelse ""});
    }

    fn print(comptime format: []const u8, arguments: anytype) ![]const u8 {
        return std.fmt.allocPrint(lacis.scratch, format, arguments);
    }
};

comptime {
    lacis.filter(Greeter);
}

pub const panic = lacis.panic;

//! Lets requests with the key in, counts them, and sends some of them to the canary.
const lacis = @import("lacis");

const Doorkeeper = struct {
    settings: Settings,
    allowed: lacis.Counter,
    denied: lacis.Counter,

    const Settings = struct { key: []const u8, canary: []const u8 };

    pub fn init(config: lacis.Config) !Doorkeeper {
        const settings = try config.parse(Settings);
        if (settings.key.len == 0 or settings.canary.len == 0) return error.KeyOrCanaryIsEmpty;
        return .{
            .settings = settings,
            .allowed = .define("requests_allowed_total"),
            .denied = .define("requests_denied_total"),
        };
    }

    pub fn onRequest(self: *Doorkeeper, request: lacis.Request) !lacis.Flow {
        if (!request.headers.is("x-api-key", self.settings.key)) {
            self.denied.add(1);
            const challenge: lacis.Pair = .{ "www-authenticate", "ApiKey header=\"x-api-key\"" };
            return request.reply(401, "an API key is required (header x-api-key)\n", &.{challenge});
        }
        self.allowed.add(1);
        if (request.headers.is("x-canary", "yes")) request.sendTo(self.settings.canary);
        return .proceed;
    }

    pub fn onResponse(_: *Doorkeeper, response: lacis.Response) lacis.Flow {
        response.headers.set("x-checked-by", "doorkeeper");
        return .proceed;
    }
};

comptime {
    lacis.filter(Doorkeeper);
}

pub const panic = lacis.panic;

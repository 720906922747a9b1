// The greeter (see ../README.md) in C++ on wasi-libc, straight on the ABI.
#include "proxy_wasm.h"

#include <map>
#include <memory>

namespace {

struct Plugin {
  std::string greeting;
  uint32_t requests = 0;
};

// A constructor that must have run before the first callback.
std::map<uint32_t, std::unique_ptr<Plugin>> plugins;
std::map<uint32_t, uint32_t> roots, calls;

Plugin& plugin_of(uint32_t exchange) { return *plugins.at(roots.at(exchange)); }

}  // namespace

EXPORT(proxy_abi_version_0_2_1) void proxy_abi_version_0_2_1() {}
EXPORT(malloc) void* exported_malloc(size_t size) { return malloc(size); }

EXPORT(proxy_on_context_create) void on_context_create(uint32_t id, uint32_t root) {
  if (root == 0) {
    plugins[id] = std::make_unique<Plugin>();
  } else {
    roots[id] = root;
  }
}

EXPORT(proxy_on_vm_start) uint32_t on_vm_start(uint32_t, uint32_t) { return 1; }

EXPORT(proxy_on_configure) uint32_t on_configure(uint32_t id, uint32_t size) {
  Plugin& plugin = *plugins.at(id);
  plugin.greeting = buffer(PluginConfiguration);
  if (plugin.greeting.size() != size) return 0;
  must(proxy_define_metric(0, "greeted", 7, &plugin.requests));
  log("configured: " + plugin.greeting);
  return 1;
}

EXPORT(proxy_on_request_headers) uint32_t on_request_headers(uint32_t id, uint32_t, uint32_t) {
  Plugin& plugin = plugin_of(id);
  must(proxy_increment_metric(plugin.requests, 1));
  auto [named, value] = header(RequestHeaders, "x-name");
  std::string name = named ? value : "nobody";
  set_header(RequestHeaders, "x-greeting", plugin.greeting + ", " + name);
  if (header(RequestHeaders, "x-deny").first) {
    std::string text = "not " + name + "\n", headers = pairs({{"x-why", "denied"}});
    must(proxy_send_local_response(403, "", 0, text.data(), text.size(), headers.data(), headers.size(), -1));
    return Pause;
  }
  if (header(RequestHeaders, "x-call").first) {
    std::string headers = pairs({{":method", "GET"}, {":path", "/bytes/5"}, {":authority", "helper"}});
    uint32_t call = 0;
    must(proxy_http_call("helper", 6, headers.data(), headers.size(), "", 0, "", 0, 5000, &call));
    calls[call] = id;
    return Pause;
  }
  return Continue;
}

EXPORT(proxy_on_http_call_response)
void on_http_call_response(uint32_t, uint32_t call, uint32_t, uint32_t, uint32_t) {
  std::string status = header(CallResponseHeaders, ":status").second;
  size_t size = buffer(CallResponseBody).size();
  must(proxy_set_effective_context(calls.at(call)));
  calls.erase(call);
  set_header(RequestHeaders, "x-helper", status + " " + std::to_string(size));
  must(proxy_continue_stream(0));
}

EXPORT(proxy_on_response_headers) uint32_t on_response_headers(uint32_t, uint32_t, uint32_t) {
  set_header(ResponseHeaders, "x-filter", "greeter");
  must(proxy_remove_header_map_value(ResponseHeaders, "content-length", 14));
  return Continue;
}

EXPORT(proxy_on_response_body) uint32_t on_response_body(uint32_t, uint32_t, uint32_t end) {
  if (!end) return Pause;
  std::string body = "<" + buffer(ResponseBody) + ">";
  must(proxy_set_buffer_bytes(ResponseBody, 0, SIZE_MAX, body.data(), body.size()));
  return Continue;
}

EXPORT(proxy_on_done) uint32_t on_done(uint32_t) { return 1; }
EXPORT(proxy_on_log) void on_log(uint32_t) { log("done: " + header(ResponseHeaders, ":status").second); }

EXPORT(proxy_on_delete) void on_delete(uint32_t id) {
  roots.erase(id);
  plugins.erase(id);
}

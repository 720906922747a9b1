// The greeter (see ../README.md) on @solo-io/proxy-runtime.
export * from "@solo-io/proxy-runtime/proxy";
import {
  Context, Counter, FilterDataStatusValues, FilterHeadersStatusValues, HeaderPair, BaseContext,
  LogLevelValues, RootContext, continue_request, log, registerRootContext, send_local_response, stream_context,
} from "@solo-io/proxy-runtime";
import { BufferTypeValues, get_buffer_bytes } from "@solo-io/proxy-runtime/runtime";

// The SDK has no function for it.
// @ts-ignore: decorator
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(buffer: u32, start: u32, length: u32, data: usize, size: usize): u32;

class Plugin extends RootContext {
  requests: Counter = new Counter("greeted");
  onConfigure(size: u32): bool {
    if (!super.onConfigure(size)) return false;
    log(LogLevelValues.info, "configured: " + this.getConfiguration());
    return true;
  }
  createContext(id: u32): Context { return new Exchange(id, this); }
}

function pair(name: string, value: string): HeaderPair {
  return new HeaderPair(String.UTF8.encode(name), String.UTF8.encode(value));
}

class Exchange extends Context {
  onRequestHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    (this.root_context as Plugin).requests.increment(1);
    let name = stream_context.headers.request.get("x-name");
    if (name == "") name = "nobody";
    stream_context.headers.request.replace("x-greeting", this.root_context.getConfiguration() + ", " + name);
    if (stream_context.headers.request.get("x-deny") != "") {
      send_local_response(403, "", String.UTF8.encode("not " + name + "\n"), [pair("x-why", "denied")], -1);
      return FilterHeadersStatusValues.StopIteration;
    }
    if (stream_context.headers.request.get("x-call") != "") {
      this.root_context.httpCall("helper", [pair(":method", "GET"), pair(":path", "/bytes/5"), pair(":authority", "helper")],
        new ArrayBuffer(0), [], 5000, this, (context: BaseContext, headers: u32, size: usize, trailers: u32): void => {
          let status = stream_context.headers.http_callback.get(":status");
          stream_context.headers.request.replace("x-helper", status + " " + size.toString());
          continue_request();
        });
      return FilterHeadersStatusValues.StopIteration;
    }
    return FilterHeadersStatusValues.Continue;
  }
  onResponseHeaders(count: u32, end: bool): FilterHeadersStatusValues {
    stream_context.headers.response.replace("x-filter", "greeter");
    stream_context.headers.response.remove("content-length");
    return FilterHeadersStatusValues.Continue;
  }
  onResponseBody(size: usize, end: bool): FilterDataStatusValues {
    if (!end) return FilterDataStatusValues.StopIterationAndBuffer;
    let held = get_buffer_bytes(BufferTypeValues.HttpResponseBody, 0, size as u32);
    let body = new ArrayBuffer((size as i32) + 2);
    store<u8>(changetype<usize>(body), 0x3c);
    memory.copy(changetype<usize>(body) + 1, changetype<usize>(held), size);
    store<u8>(changetype<usize>(body) + 1 + size, 0x3e);
    proxy_set_buffer_bytes(BufferTypeValues.HttpResponseBody, 0, size as u32, changetype<usize>(body), body.byteLength);
    return FilterDataStatusValues.Continue;
  }
  onLog(): void { log(LogLevelValues.info, "done: " + stream_context.headers.response.get(":status")); }
}

registerRootContext((id: u32): RootContext => new Plugin(id), "greeter");

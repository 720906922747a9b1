// The greeter (see ../README.md) in AssemblyScript, straight on the ABI. `--use abort=greeter/abort` replaces an import
// that no host has. What the host has put into a buffer of `malloc` is pinned until it is read.

// @ts-ignore: decorator
@external("env", "proxy_log")
declare function proxy_log(level: u32, text: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_define_metric")
declare function proxy_define_metric(kind: u32, name: usize, size: usize, id: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_increment_metric")
declare function proxy_increment_metric(id: u32, offset: i64): u32;
// @ts-ignore: decorator
@external("env", "proxy_get_header_map_value")
declare function proxy_get_header_map_value(map: u32, name: usize, nameSize: usize, value: usize, valueSize: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_replace_header_map_value")
declare function proxy_replace_header_map_value(map: u32, name: usize, nameSize: usize, value: usize, valueSize: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_remove_header_map_value")
declare function proxy_remove_header_map_value(map: u32, name: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_get_buffer_bytes")
declare function proxy_get_buffer_bytes(buffer: u32, start: usize, length: usize, data: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_set_buffer_bytes")
declare function proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_http_call")
declare function proxy_http_call(upstream: usize, upstreamSize: usize, headers: usize, headersSize: usize, body: usize, bodySize: usize, trailers: usize, trailersSize: usize, timeout: u32, call: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_set_effective_context")
declare function proxy_set_effective_context(id: u32): u32;
// @ts-ignore: decorator
@external("env", "proxy_continue_stream")
declare function proxy_continue_stream(stream: u32): u32;
// @ts-ignore: decorator
@external("env", "proxy_send_local_response")
declare function proxy_send_local_response(status: u32, details: usize, detailsSize: usize, body: usize, bodySize: usize, headers: usize, headersSize: usize, grpc: i32): u32;

const REQUEST: u32 = 0;
const RESPONSE: u32 = 2;
const CALL: u32 = 6;
const RESPONSE_BODY: u32 = 1;
const CALL_BODY: u32 = 4;
const CONFIGURATION: u32 = 7;

let greeting = "";
let requests: u32 = 0;
const calls = new Map<u32, u32>();
// Where the host leaves the place and the size of what it has allocated.
const found = memory.data(8);

export function proxy_abi_version_0_2_1(): void {}

export function malloc(size: usize): usize {
  return __pin(__new(size, idof<ArrayBuffer>()));
}

export function proxy_on_context_create(id: u32, root: u32): void {}
export function proxy_on_vm_start(id: u32, size: u32): u32 {
  return 1;
}

export function proxy_on_configure(id: u32, size: u32): u32 {
  const configuration = content(CONFIGURATION);
  if (configuration.byteLength != size) return 0;
  greeting = String.UTF8.decode(configuration);
  const name = String.UTF8.encode("greeted");
  must(proxy_define_metric(0, at(name), name.byteLength, found));
  requests = load<u32>(found);
  log("configured: " + greeting);
  return 1;
}

export function proxy_on_request_headers(id: u32, count: u32, end: u32): u32 {
  must(proxy_increment_metric(requests, 1));
  const sent = header(REQUEST, "x-name");
  const name = sent === null ? "nobody" : sent;
  setHeader(REQUEST, "x-greeting", `${greeting}, ${name}`);
  if (header(REQUEST, "x-deny") !== null) {
    const text = String.UTF8.encode(`not ${name}\n`);
    const headers = pairs([["x-why", "denied"]]);
    must(proxy_send_local_response(403, 0, 0, at(text), text.byteLength, at(headers), headers.byteLength, -1));
    return 1;
  }
  if (header(REQUEST, "x-call") !== null) {
    const upstream = String.UTF8.encode("helper");
    const headers = pairs([[":method", "GET"], [":path", "/bytes/5"], [":authority", "helper"]]);
    must(proxy_http_call(at(upstream), upstream.byteLength, at(headers), headers.byteLength, 0, 0, 0, 0, 5000, found));
    calls.set(load<u32>(found), id);
    return 1;
  }
  return 0;
}

export function proxy_on_http_call_response(root: u32, call: u32, headers: u32, size: u32, trailers: u32): void {
  const status = header(CALL, ":status");
  const body = content(CALL_BODY);
  must(proxy_set_effective_context(calls.get(call)));
  calls.delete(call);
  setHeader(REQUEST, "x-helper", `${status === null ? "" : status} ${body.byteLength}`);
  must(proxy_continue_stream(0));
}

export function proxy_on_response_headers(id: u32, count: u32, end: u32): u32 {
  setHeader(RESPONSE, "x-filter", "greeter");
  const length = String.UTF8.encode("content-length");
  must(proxy_remove_header_map_value(RESPONSE, at(length), length.byteLength));
  return 0;
}

export function proxy_on_response_body(id: u32, size: u32, end: u32): u32 {
  if (!end) return 1;
  const held = content(RESPONSE_BODY);
  const body = new ArrayBuffer(held.byteLength + 2);
  store<u8>(at(body), 0x3c);
  memory.copy(at(body) + 1, at(held), held.byteLength);
  store<u8>(at(body) + 1 + held.byteLength, 0x3e);
  must(proxy_set_buffer_bytes(RESPONSE_BODY, 0, <usize>u32.MAX_VALUE, at(body), body.byteLength));
  return 0;
}

export function proxy_on_done(id: u32): u32 {
  return 1;
}

export function proxy_on_log(id: u32): void {
  const status = header(RESPONSE, ":status");
  if (status !== null) log(`done: ${status}`);
}

export function proxy_on_delete(id: u32): void {}

// Where `throw` ends.
function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const text = String.UTF8.encode(`${message === null ? "" : message} (${line}:${column})`);
  proxy_log(5, at(text), text.byteLength);
  unreachable();
}

function must(status: u32): void {
  if (status != 0) throw new Error(`a host call answered ${status}`);
}

function at(buffer: ArrayBuffer): usize {
  return changetype<usize>(buffer);
}

function log(text: string): void {
  const bytes = String.UTF8.encode(text);
  must(proxy_log(2, at(bytes), bytes.byteLength));
}

// What the host has left at `found`.
function taken(): ArrayBuffer {
  const data = load<usize>(found);
  if (data == 0) return new ArrayBuffer(0);
  const bytes = changetype<ArrayBuffer>(data).slice(0, load<i32>(found, sizeof<usize>()));
  __unpin(data);
  return bytes;
}

function header(map: u32, name: string): string | null {
  const bytes = String.UTF8.encode(name);
  store<usize>(found, 0);
  const status = proxy_get_header_map_value(map, at(bytes), bytes.byteLength, found, found + sizeof<usize>());
  return status != 0 || load<usize>(found) == 0 ? null : String.UTF8.decode(taken());
}

function setHeader(map: u32, name: string, value: string): void {
  const n = String.UTF8.encode(name);
  const v = String.UTF8.encode(value);
  must(proxy_replace_header_map_value(map, at(n), n.byteLength, at(v), v.byteLength));
}

function content(buffer: u32): ArrayBuffer {
  store<usize>(found, 0);
  must(proxy_get_buffer_bytes(buffer, 0, <usize>u32.MAX_VALUE, found, found + sizeof<usize>()));
  return taken();
}

// Header pairs as they cross: their number, the sizes, then every text with a NUL behind it.
function pairs(list: string[][]): ArrayBuffer {
  let size = 4;
  for (let i = 0; i < list.length; i++) {
    size += 10 + String.UTF8.byteLength(list[i][0]) + String.UTF8.byteLength(list[i][1]);
  }
  const out = new ArrayBuffer(size);
  store<u32>(at(out), list.length);
  let sizes = at(out) + 4;
  let texts = sizes + 8 * list.length;
  for (let i = 0; i < list.length; i++) {
    for (let j = 0; j < 2; j++) {
      const text = String.UTF8.encode(list[i][j], true);
      store<u32>(sizes, text.byteLength - 1);
      memory.copy(texts, at(text), text.byteLength);
      sizes += 4;
      texts += text.byteLength;
    }
  }
  return out;
}

// lacis.ts: filters in AssemblyScript. A filter is a class derived from `Filter`, made by the function that `register`
// is given; its file exports the callbacks that it wants, and the module has no others:
//
//   export { proxy_abi_version_0_2_1, proxy_on_memory_allocate, proxy_on_context_create, proxy_on_configure,
//     proxy_on_request_headers, proxy_on_delete } from "./lacis";
//
// Compile with `--use abort=PATH/lacis/abort`, for no host has the `abort` that AssemblyScript imports otherwise. It
// speaks Proxy-Wasm 0.2.1, so it runs in Lacis, in Envoy and wherever else that is spoken.
//
// An object of the class is one configured filter, shared by all exchanges that pass it; a virtual machine is never
// entered by two threads. A call of the host that fails, or anything that throws, is logged and traps: the host answers
// for the exchange (`failure` in the sidecar's file) and replaces the machine.
//
// Copyright the authors of Lacis. Apache-2.0.

// ---------------------------------------------------------------------------------------------------------------------
// What filters see

/** What becomes of a message: it goes on, or waits (for a call, or for the rest of its body). */
export enum Action { Continue = 0, Pause = 1 }

export enum Level { Trace, Debug, Info, Warn, Error, Critical }

/** What filters are derived from; one of these for each configured filter. */
export abstract class Filter {
  /** The head of a request. Wants `proxy_on_request_headers`. */
  onRequest(request: Request): Action { return Action.Continue; }
  /** A part of its body. Wants `proxy_on_request_body`. */
  onRequestBody(request: Request, body: Body): Action { return Action.Continue; }
  /** The head of a response; not of a reply of its own. Wants `proxy_on_response_headers`. */
  onResponse(response: Response): Action { return Action.Continue; }
  /** A part of its body. Wants `proxy_on_response_body`. */
  onResponseBody(response: Response, body: Body): Action { return Action.Continue; }
  /** The answer to a `call`, with the exchange in effect, if it was for one. Wants `proxy_on_http_call_response`. */
  onAnswer(exchange: u32, answer: Answer): void {}
  /** An exchange is over; its headers can be read. Wants `proxy_on_log`. */
  onLog(exchange: u32): void {}
  /** The timer of `setTick`. Wants `proxy_on_tick`. */
  onTick(): void {}
}

/** Says how a filter is made of its configuration. `null` refuses it. */
export function register(make: (config: Config) => Filter | null): void {
  maker = make;
}

/** The `config` of a filter. */
export class Config {
  constructor(
    /** All of it: JSON if it is a map in the sidecar's file. */
    public all: string,
  ) {}

  /** The string that a member of it is; empty if there is none. See `member`. */
  text(name: string): string {
    const raw = member(this.all, name);
    if (raw === null) return "";
    const text = unquote(raw);
    return text === null ? "" : text;
  }
}

/** The headers of a message, or of the response to a call. Names are matched without regard to case; a request has
 * `:method`, `:path`, `:authority` and `:scheme`, a response `:status`. What is not UTF-8 in a value is shown as
 * U+FFFD. */
export class Headers {
  constructor(private map: u32) {}

  /** Those of the request, and of the response: for `onLog`. */
  static ofRequest(): Headers { return new Headers(REQUEST); }
  static ofResponse(): Headers { return new Headers(RESPONSE); }

  /** The first value of a header, if it is there. */
  get(name: string): string | null {
    const key = String.UTF8.encode(name);
    if (proxy_get_header_map_value(this.map, at(key), key.byteLength, place, size) != 0) return null;
    return String.UTF8.decode(given());
  }

  /** Whether the first value of a header is this one, in the same time wherever they differ: for secrets. */
  is(name: string, value: string): bool {
    const found = this.get(name);
    return found !== null && equal(found, value);
  }

  /** Replaces all values of a header by one. */
  set(name: string, value: string): void {
    const key = String.UTF8.encode(name), text = String.UTF8.encode(value);
    must(
      proxy_replace_header_map_value(this.map, at(key), key.byteLength, at(text), text.byteLength),
      "a header cannot be set here",
    );
  }

  /** Adds a value to a header. */
  add(name: string, value: string): void {
    const key = String.UTF8.encode(name), text = String.UTF8.encode(value);
    must(
      proxy_add_header_map_value(this.map, at(key), key.byteLength, at(text), text.byteLength),
      "a header cannot be added here",
    );
  }

  /** Removes all values of a header. */
  remove(name: string): void {
    const key = String.UTF8.encode(name);
    must(proxy_remove_header_map_value(this.map, at(key), key.byteLength), "a header cannot be removed here");
  }

  /** All of them in their order, each with its name before its value. */
  all(): string[][] {
    must(proxy_get_header_map_pairs(this.map, place, size), "headers cannot be read here");
    const bytes = given(), list: string[][] = [];
    if (bytes.byteLength < 4) return list;
    const count = load<u32>(at(bytes));
    let sizes = at(bytes) + 4, text = sizes + 8 * count;
    for (let pair: u32 = 0; pair < count; pair++, sizes += 8) {
      const name = load<u32>(sizes), value = load<u32>(sizes, 4);
      list.push([String.UTF8.decodeUnsafe(text, name), String.UTF8.decodeUnsafe(text + name + 1, value)]);
      text += name + value + 2;
    }
    return list;
  }
}

/** What can be seen of a body: what has come since the filter last let something go on. */
export class Body {
  constructor(
    private buffer: u32,
    /** Whether these bytes end the message. */
    public end: bool,
  ) {}

  get(): ArrayBuffer { return content(this.buffer, "this body cannot be read here"); }

  /** Its message must not keep a `content-length` of the old one. */
  set(bytes: ArrayBuffer): void {
    must(
      proxy_set_buffer_bytes(this.buffer, 0, u32.MAX_VALUE, at(bytes), bytes.byteLength),
      "this body cannot be changed here",
    );
  }
}

export class Request {
  headers: Headers = new Headers(REQUEST);
  constructor(
    /** The number of the exchange, the same for its response and its end. */
    public exchange: u32,
    /** Whether no body and no trailers follow. */
    public end: bool,
  ) {}

  /** Sends the request to another service: that becomes its authority, by which a route is chosen after the filters
   * have run; `x-forwarded-host` carries the one that the caller used. Only in `onRequest`. */
  sendTo(service: string): void {
    const original = this.headers.get(":authority");
    if (original !== null) this.headers.set("x-forwarded-host", original);
    this.headers.set(":authority", service);
  }

  /** Answers in place of the service: `return request.reply(403, "no\n");` */
  reply(status: u32, body: string, headers: string[][] = []): Action {
    exchanges.get(this.exchange).replied = true;
    const text = String.UTF8.encode(body), list = pairs(headers);
    must(
      proxy_send_local_response(status, 0, 0, at(text), text.byteLength, at(list), list.byteLength, -1),
      "a reply cannot be sent here",
    );
    return Action.Pause;
  }

  /** Lets a request go on, from `onAnswer`. */
  static resume(): void { must(proxy_continue_stream(0), "a request cannot go on here"); }
}

export class Response {
  headers: Headers = new Headers(RESPONSE);
  constructor(public exchange: u32, public end: bool) {}

  /** Lets a response go on, from `onAnswer`. */
  static resume(): void { must(proxy_continue_stream(1), "a response cannot go on here"); }
}

/** The answer to a call, while it is there. */
export class Answer {
  headers: Headers = new Headers(CALL);
  constructor(
    /** What `call` gave. */
    public call: u32,
    /** Whether there is one; else the call failed without an answer. */
    public came: bool,
  ) {}

  body(): ArrayBuffer {
    return this.came ? content(CALL_BODY, "this answer cannot be read here") : new ArrayBuffer(0);
  }
}

/** Calls a service over HTTP, for an exchange or (0, from `onTick` or the function of `register`) for the filter itself.
 * `headers` have `:method`, `:path` and `:authority`. Gives the number that `onAnswer` will be told, 0 if the host refuses
 * the call. */
export function call(exchange: u32, service: string, headers: string[][], body: ArrayBuffer, milliseconds: u32): u32 {
  const name = String.UTF8.encode(service), list = pairs(headers);
  const status = proxy_http_call(
    at(name), name.byteLength, at(list), list.byteLength, at(body), body.byteLength, 0, 0, milliseconds, place,
  );
  if (status != 0) return 0;
  const id = load<u32>(place);
  calls.set(id, exchange);
  return id;
}

/** A number that only grows. */
export class Counter {
  private metric: u32;
  constructor(name: string) { this.metric = define(0, name); }
  /** `offset` must be positive. */
  add(offset: i64 = 1): void { must(proxy_increment_metric(this.metric, offset), "a metric cannot be added to"); }
}

/** A number that is set. */
export class Gauge {
  private metric: u32;
  constructor(name: string) { this.metric = define(1, name); }
  set(value: u64): void { must(proxy_record_metric(this.metric, value), "a metric cannot be set"); }
}

/** Samples, whose distribution is shown. */
export class Histogram {
  private metric: u32;
  constructor(name: string) { this.metric = define(2, name); }
  record(sample: u64): void { must(proxy_record_metric(this.metric, sample), "a sample cannot be recorded"); }
}

export function log(level: Level, text: string): void {
  const bytes = String.UTF8.encode(text);
  proxy_log(level, at(bytes), bytes.byteLength);
}

/** Calls `onTick` every so many milliseconds; 0 stops it. */
export function setTick(milliseconds: u32): void {
  must(proxy_set_tick_period_milliseconds(milliseconds), "there is no timer here");
}

/** What the proxy knows by a path, as `["source", "address"]`. Numbers are 8 bytes. */
export function property(path: string[]): ArrayBuffer | null {
  const joined = String.UTF8.encode(path.join("\0"));
  return proxy_get_property(at(joined), joined.byteLength, place, size) == 0 ? given() : null;
}

/** What is shared by a name, and which version of it this is. */
export class Shared {
  constructor(public value: ArrayBuffer, public version: u32) {}
}

/** What filters of one `vm_id` share by a name, in all workers; `null` if there is nothing. */
export function shared(name: string): Shared | null {
  const key = String.UTF8.encode(name);
  if (proxy_get_shared_data(at(key), key.byteLength, place, size, version) != 0) return null;
  return new Shared(given(), load<u32>(version));
}

/** Shares a value by a name. With a `version` only if nobody has been faster since, else it gives false; 0 is any. */
export function share(name: string, value: ArrayBuffer, version: u32 = 0): bool {
  const key = String.UTF8.encode(name);
  const status = proxy_set_shared_data(at(key), key.byteLength, at(value), value.byteLength, version);
  if (status == CAS_MISMATCH) return false;
  must(status, "a value cannot be shared");
  return true;
}

/** Whether two texts are equal, in the same time wherever they differ: for secrets. */
export function equal(one: string, other: string): bool {
  if (one.length != other.length) return false;
  let differ = 0;
  for (let index = 0; index < one.length; index++) differ |= one.charCodeAt(index) ^ other.charCodeAt(index);
  return differ == 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// JSON, as much of it as a configuration needs

/** The member of a JSON object, as it is written there (`42`, `"text"`, `{…}`). Of two with one name it is the first;
 * names are compared as they are written. `null` if there is none, or the JSON is broken before it. */
export function member(json: string, name: string): string | null {
  let index = skipSpace(json, 0);
  if (json.charAt(index) != "{") return null;
  do {
    const key = skipSpace(json, index + 1);
    index = skipString(json, key);
    if (index < 0) return null;
    const found = json.substring(key + 1, index - 1);
    index = skipSpace(json, index);
    if (json.charAt(index) != ":") return null;
    const begin = skipSpace(json, index + 1);
    index = skipValue(json, begin);
    if (index < 0) return null;
    if (found == name) return json.substring(begin, index).trimEnd();
  } while (json.charAt(index) == ",");
  return null;
}

/** What a string of JSON says, `null` if it is none. */
export function unquote(json: string): string | null {
  if (skipString(json, 0) != json.length) return null;
  let text = "", index = 1;
  const end = json.length - 1;
  while (index < end) {
    const character = json.charAt(index++);
    if (character != "\\") {
      text += character;
      continue;
    }
    const escape = json.charAt(index++), which = "\"\\/bfnrt".indexOf(escape);
    if (which >= 0) {
      text += "\"\\/\b\f\n\r\t".charAt(which);
    } else {
      const digits = json.substring(index, index + 4), code = I32.parseInt(digits, 16);
      if (escape != "u" || index + 4 > end || code.toString(16).padStart(4, "0") != digits.toLowerCase()) return null;
      text += String.fromCharCode(code);
      index += 4;
    }
  }
  return text;
}

function skipSpace(json: string, index: i32): i32 {
  while (index < json.length && " \t\n\r".includes(json.charAt(index))) index++;
  return index;
}

/** Behind the string that begins here, negative if none does. */
function skipString(json: string, index: i32): i32 {
  if (json.charAt(index) != "\"") return -1;
  index++;
  while (index < json.length && json.charAt(index) != "\"") index += json.charAt(index) == "\\" ? 2 : 1;
  return index < json.length ? index + 1 : -1;
}

/** Behind the value that begins here, negative if none does. */
function skipValue(json: string, begin: i32): i32 {
  let depth = 0, index = begin;
  while (index >= 0 && index < json.length) {
    const character = json.charAt(index), closes = character == "}" || character == "]";
    if (depth == 0 && (closes || character == ",")) break;
    if (character == "\"") {
      index = skipString(json, index);
      continue;
    }
    if (character == "{" || character == "[") depth++;
    if (closes) depth--;
    index++;
  }
  return index == begin || depth > 0 ? -1 : index;
}

// ---------------------------------------------------------------------------------------------------------------------
// Callbacks, for a filter's file to export

const REQUEST: u32 = 0, RESPONSE: u32 = 2, CALL: u32 = 6;
const REQUEST_BODY: u32 = 0, RESPONSE_BODY: u32 = 1, CALL_BODY: u32 = 4, CONFIGURATION: u32 = 7;

class Exchange {
  replied: bool = false;
  constructor(public root: u32) {}
}

let maker: ((config: Config) => Filter | null) | null = null;
const filters = new Map<u32, Filter>();
const exchanges = new Map<u32, Exchange>();
/** The exchanges that wait for a call. */
const calls = new Map<u32, u32>();

export function proxy_abi_version_0_2_1(): void {}

/** The host's results are put here, and are pinned until `given` takes them. */
export function proxy_on_memory_allocate(size: usize): usize { return __pin(__new(size, idof<ArrayBuffer>())); }

export function proxy_on_context_create(id: u32, root: u32): void {
  if (root != 0) exchanges.set(id, new Exchange(root));
}

export function proxy_on_configure(id: u32, size: u32): u32 {
  const make = maker;
  if (make === null) return 0;
  const config = size == 0 ? new ArrayBuffer(0) : content(CONFIGURATION, "there is no configuration");
  const filter = make(new Config(String.UTF8.decode(config)));
  if (filter === null) return 0;
  filters.set(id, filter);
  return 1;
}

export function proxy_on_request_headers(id: u32, count: u32, end: u32): u32 {
  return owner(id).onRequest(new Request(id, end != 0));
}

export function proxy_on_request_body(id: u32, size: u32, end: u32): u32 {
  return owner(id).onRequestBody(new Request(id, end != 0), new Body(REQUEST_BODY, end != 0));
}

export function proxy_on_response_headers(id: u32, count: u32, end: u32): u32 {
  if (exchanges.get(id).replied) return Action.Continue;
  return owner(id).onResponse(new Response(id, end != 0));
}

export function proxy_on_response_body(id: u32, size: u32, end: u32): u32 {
  if (exchanges.get(id).replied) return Action.Continue;
  return owner(id).onResponseBody(new Response(id, end != 0), new Body(RESPONSE_BODY, end != 0));
}

export function proxy_on_http_call_response(root: u32, id: u32, headers: u32, size: u32, trailers: u32): void {
  if (!calls.has(id)) return;
  const exchange = calls.get(id);
  calls.delete(id);
  // Refused if the exchange is over.
  if (exchange == 0 || proxy_set_effective_context(exchange) == 0) {
    filters.get(root).onAnswer(exchange, new Answer(id, headers != 0));
  }
}

export function proxy_on_log(id: u32): void { owner(id).onLog(id); }

export function proxy_on_tick(root: u32): void { filters.get(root).onTick(); }

export function proxy_on_delete(id: u32): void {
  if (!exchanges.delete(id)) filters.delete(id);
}

/** In the place of the `abort` that AssemblyScript imports: logs and traps. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  log(Level.Critical, `${message === null ? "it aborts" : message} (${file === null ? "" : file}:${line})`);
  unreachable();
}

function owner(exchange: u32): Filter { return filters.get(exchanges.get(exchange).root); }

// ---------------------------------------------------------------------------------------------------------------------
// Host calls

const CAS_MISMATCH: u32 = 8;

/** Where the host leaves the place and the size of what it gives, and the version of what is shared. */
const place = memory.data(12), size = place + 4, version = place + 8;

function at(buffer: ArrayBuffer): usize { return changetype<usize>(buffer); }

/** What the host has just given. */
function given(): ArrayBuffer {
  const data = load<usize>(place);
  if (data == 0 || load<u32>(size) == 0) return new ArrayBuffer(0);
  __unpin(data);
  return changetype<ArrayBuffer>(data);
}

function content(buffer: u32, problem: string): ArrayBuffer {
  must(proxy_get_buffer_bytes(buffer, 0, u32.MAX_VALUE, place, size), problem);
  return given();
}

function must(status: u32, problem: string): void {
  if (status != 0) throw new Error(problem);
}

function define(kind: u32, name: string): u32 {
  const text = String.UTF8.encode(name);
  must(proxy_define_metric(kind, at(text), text.byteLength, place), "a metric cannot be defined");
  return load<u32>(place);
}

/** Header pairs as they cross: their number, the sizes, then every text with a NUL behind it. */
function pairs(list: string[][]): ArrayBuffer {
  let length = 4;
  for (let pair = 0; pair < list.length; pair++) {
    length += 8 + String.UTF8.byteLength(list[pair][0], true) + String.UTF8.byteLength(list[pair][1], true);
  }
  const out = new ArrayBuffer(length);
  store<u32>(at(out), list.length);
  let sizes = at(out) + 4, text = sizes + 8 * list.length;
  for (let pair = 0; pair < list.length; pair++) {
    for (let part = 0; part < 2; part++, sizes += 4) {
      const from = list[pair][part];
      const written = String.UTF8.encodeUnsafe(changetype<usize>(from), from.length, text, true);
      store<u32>(sizes, <u32>(written - 1));
      text += written;
    }
  }
  return out;
}

// @ts-ignore: decorator
@external("env", "proxy_log")
declare function proxy_log(level: u32, text: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_set_tick_period_milliseconds")
declare function proxy_set_tick_period_milliseconds(period: u32): u32;
// @ts-ignore: decorator
@external("env", "proxy_define_metric")
declare function proxy_define_metric(kind: u32, name: usize, size: usize, id: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_increment_metric")
declare function proxy_increment_metric(id: u32, offset: i64): u32;
// @ts-ignore: decorator
@external("env", "proxy_record_metric")
declare function proxy_record_metric(id: u32, value: u64): u32;
// @ts-ignore: decorator
@external("env", "proxy_get_shared_data")
declare function proxy_get_shared_data(key: usize, keySize: usize, value: usize, size: usize, version: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_set_shared_data")
declare function proxy_set_shared_data(key: usize, keySize: usize, value: usize, size: usize, version: u32): u32;
// @ts-ignore: decorator
@external("env", "proxy_get_property")
declare function proxy_get_property(path: usize, pathSize: usize, value: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_get_header_map_pairs")
declare function proxy_get_header_map_pairs(map: u32, data: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_get_header_map_value")
declare function proxy_get_header_map_value(map: u32, name: usize, nameSize: usize, value: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_add_header_map_value")
declare function proxy_add_header_map_value(map: u32, name: usize, nameSize: usize, value: usize, size: usize): u32;
// @ts-ignore: decorator
@external("env", "proxy_replace_header_map_value")
declare function proxy_replace_header_map_value(map: u32, name: usize, nameSize: usize, value: usize, size: usize): u32;
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
declare function proxy_http_call(
  service: usize, serviceSize: usize, headers: usize, headersSize: usize, body: usize, bodySize: usize,
  trailers: usize, trailersSize: usize, milliseconds: u32, call: usize,
): u32;
// @ts-ignore: decorator
@external("env", "proxy_set_effective_context")
declare function proxy_set_effective_context(id: u32): u32;
// @ts-ignore: decorator
@external("env", "proxy_continue_stream")
declare function proxy_continue_stream(stream: u32): u32;
// @ts-ignore: decorator
@external("env", "proxy_send_local_response")
declare function proxy_send_local_response(
  status: u32, details: usize, detailsSize: usize, body: usize, bodySize: usize, headers: usize, headersSize: usize,
  grpc: i32,
): u32;

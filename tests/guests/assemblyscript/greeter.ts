// The greeter (see ../README.md) in AssemblyScript on lacis.ts.
import {
  Action, Answer, Body, Config, Counter, Filter, Headers, Level, Request, Response, call, log, register, setTick, share, shared,
} from "../../../sdk/assemblyscript/lacis";
export {
  proxy_abi_version_0_2_1, proxy_on_memory_allocate, proxy_on_context_create, proxy_on_configure,
  proxy_on_request_headers, proxy_on_http_call_response, proxy_on_response_headers, proxy_on_response_body,
  proxy_on_log, proxy_on_tick, proxy_on_delete,
} from "../../../sdk/assemblyscript/lacis";

class Greeter extends Filter {
  greeted: Counter = new Counter("greeted");

  constructor(private greeting: string) {
    super();
    if (greeting.startsWith("tick")) setTick(20);
  }

  onTick(): void {
    setTick(0);
    if (this.fetch(0) == 0) log(Level.Error, "the call is refused");
  }

  fetch(exchange: u32): u32 {
    const headers = [[":method", "GET"], [":path", "/bytes/5"], [":authority", "helper"]];
    return call(exchange, "helper", headers, new ArrayBuffer(0), 5000);
  }

  onRequest(request: Request): Action {
    this.greeted.add();
    const sent = request.headers.get("x-name"), name = sent === null ? "nobody" : sent;
    request.headers.set("x-greeting", `${this.greeting}, ${name}`);
    if (request.headers.get("x-deny") !== null) return request.reply(403, `not ${name}\n`, [["x-why", "denied"]]);
    if (request.headers.get("x-call") === null) return Action.Continue;
    return this.fetch(request.exchange) != 0 ? Action.Pause : Action.Continue;
  }

  onAnswer(exchange: u32, answer: Answer): void {
    const status = answer.headers.get(":status");
    const text = `${status === null ? "" : status} ${answer.body().byteLength}`;
    if (exchange == 0) {
      share("fetched", String.UTF8.encode(text));
      const told = shared("fetched");
      if (told === null) return;
      const first = share("fetched", told.value, told.version), second = share("fetched", told.value, told.version);
      log(Level.Info, `shared: ${first} ${second}`);
      return log(Level.Info, "fetched: " + String.UTF8.decode(told.value));
    }
    Headers.ofRequest().set("x-helper", text);
    Request.resume();
  }

  onResponse(response: Response): Action {
    response.headers.set("x-filter", "greeter");
    response.headers.remove("content-length");
    return Action.Continue;
  }

  onResponseBody(response: Response, body: Body): Action {
    if (!body.end) return Action.Pause;
    const held = body.get(), whole = new Uint8Array(held.byteLength + 2);
    whole[0] = 0x3c;
    whole.set(Uint8Array.wrap(held), 1);
    whole[held.byteLength + 1] = 0x3e;
    body.set(whole.buffer);
    return Action.Continue;
  }

  onLog(exchange: u32): void {
    const status = Headers.ofResponse().get(":status");
    log(Level.Info, `done: ${status === null ? "" : status}`);
  }
}

register((config: Config): Filter | null => {
  log(Level.Info, "configured: " + config.all);
  return new Greeter(config.all);
});

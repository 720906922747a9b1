// Lets requests with the key in, counts them, and sends some of them to the canary.
import {
  Action, Config, Counter, Filter, Level, Request, Response, log, register,
} from "./../../sdk/assemblyscript/lacis";
export {
  proxy_abi_version_0_2_1, proxy_on_memory_allocate, proxy_on_context_create, proxy_on_configure,
  proxy_on_request_headers, proxy_on_response_headers, proxy_on_delete,
} from "./../../sdk/assemblyscript/lacis";

class Doorkeeper extends Filter {
  allowed: Counter = new Counter("requests_allowed_total");
  denied: Counter = new Counter("requests_denied_total");

  constructor(private key: string, private canary: string) { super(); }

  onRequest(request: Request): Action {
    if (!request.headers.is("x-api-key", this.key)) {
      this.denied.add();
      const challenge = ["www-authenticate", 'ApiKey header="x-api-key"'];
      return request.reply(401, "an API key is required (header x-api-key)\n", [challenge]);
    }
    this.allowed.add();
    if (request.headers.is("x-canary", "yes")) request.sendTo(this.canary);
    return Action.Continue;
  }

  onResponse(response: Response): Action {
    response.headers.set("x-checked-by", "doorkeeper");
    return Action.Continue;
  }
}

register((config: Config): Filter | null => {
  const key = config.text("key"), canary = config.text("canary");
  if (key != "" && canary != "") return new Doorkeeper(key, canary);
  log(Level.Error, "the configuration needs `key` and `canary`, two texts");
  return null;
});

// The greeter (see ../README.md) in C++ on wasi-libc and lacis.hpp.
#include "lacis.hpp"

class Greeter : public lacis::Caller {
 public:
  bool configure(const lacis::Config& config) {
    greeting = config.all();
    lacis::log(LACIS_INFO, "configured: " + greeting);
    if (greeting.compare(0, 4, "tick") == 0) proxy_set_tick_period_milliseconds(20);
    return true;
  }

  lacis::Action on_request(lacis::Request& request) {
    greeted.add();
    std::string name = request.headers.get("x-name").value_or("nobody");
    request.headers.set("x-greeting", greeting + ", " + name);
    if (request.headers.get("x-deny")) return request.reply(403, "not " + name + "\n", {{"x-why", "denied"}});
    if (!request.headers.get("x-call")) return lacis::Continue;
    lacis::Pairs headers = {{":method", "GET"}, {":path", "/bytes/5"}, {":authority", "helper"}};
    bool made = call(request.exchange, "helper", headers, "", 5000, [](lacis::Answer& answer) {
      std::string status = answer.headers.get(":status").value_or("");
      lacis::Headers(LACIS_REQUEST).set("x-helper", status + " " + std::to_string(answer.body().size()));
      lacis::Request::resume();
    });
    return made ? lacis::Pause : lacis::Continue;
  }

  void on_tick() {
    proxy_set_tick_period_milliseconds(0);
    lacis::Pairs headers = {{":method", "GET"}, {":path", "/bytes/5"}, {":authority", "helper"}};
    bool made = call(0, "helper", headers, "", 5000, [](lacis::Answer& answer) {
      std::string status = answer.headers.get(":status").value_or("");
      lacis::log(LACIS_INFO, "fetched: " + status + " " + std::to_string(answer.body().size()));
    });
    if (!made) lacis::log(LACIS_ERROR, "the call is refused");
  }

  lacis::Action on_response(lacis::Response& response) {
    response.headers.set("x-filter", "greeter");
    response.headers.remove("content-length");
    return lacis::Continue;
  }

  lacis::Action on_response_body(lacis::Response&, lacis::Body& body) {
    if (!body.end) return lacis::Pause;
    body.set("<" + body.get() + ">");
    return lacis::Continue;
  }

  void on_log(uint32_t) {
    lacis::log(LACIS_INFO, "done: " + lacis::Headers(LACIS_RESPONSE).get(":status").value_or(""));
  }

 private:
  std::string greeting;
  lacis::Counter greeted{"greeted"};
};

LACIS_FILTER(Greeter)

// lacis.hpp: filters in C++17. A filter is a class with the methods that it wants; LACIS_FILTER makes it the module,
// with those callbacks and no others. Compile with -fno-exceptions and lacis.h beside it (or -I its folder):
// clang --target=wasm32-wasi -mexec-model=reactor -std=c++17 -O2 -fno-exceptions … filter.cc -lc++ -lc++abi -o filter.wasm
//
//   class Greeter {
//    public:
//     bool configure(const lacis::Config& config);              // false refuses the configuration; must be there
//     lacis::Action on_request(lacis::Request& request);        // the head of a request
//     lacis::Action on_request_body(lacis::Request& request, lacis::Body& body);
//     lacis::Action on_response(lacis::Response& response);     // the head of a response; not for replies of its own
//     lacis::Action on_response_body(lacis::Response& response, lacis::Body& body);
//     void on_log(uint32_t exchange);                           // an exchange is over
//     void on_tick();                                           // the timer of proxy_set_tick_period_milliseconds
//   };
//   LACIS_FILTER(Greeter)                                       // once, outside any namespace
//
// One that calls other services is derived from lacis::Caller. An object of the class is one configured filter, shared
// by all exchanges that pass it; a virtual machine is never entered by two threads. What this file does not wrap can be
// called as lacis.h has it.
//
// Copyright the authors of Lacis. Apache-2.0.
#ifndef LACIS_HPP
#define LACIS_HPP

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "lacis.h"

namespace lacis {

// What becomes of a message: it goes on, or waits (for a call, or for the rest of its body).
using Action = lacis_action;
constexpr Action Continue = LACIS_CONTINUE, Pause = LACIS_PAUSE;

using Pairs = std::initializer_list<std::pair<std::string_view, std::string_view>>;

// From what is ours to what crosses, without a copy.
inline lacis_text text(std::string_view view) { return {view.data(), view.size()}; }

// From what a host has allocated, which is freed.
inline std::string owned(lacis_text text) {
  std::string string(text.data == nullptr ? "" : text.data, text.data == nullptr ? 0 : text.size);
  lacis_free(text);
  return string;
}

// Whether two texts are equal, in the same time wherever they differ: for secrets.
inline bool equal(std::string_view one, std::string_view other) { return lacis_equal(text(one), text(other)); }

inline void log(lacis_level level, std::string_view message) { lacis_log(level, text(message)); }

class Counter {
 public:
  explicit Counter(const char* name) : metric_(lacis_counter(name)) {}
  // `offset` must be positive.
  void add(int64_t offset = 1) const { lacis_count(metric_, offset); }

 private:
  uint32_t metric_;
};

class Gauge {
 public:
  explicit Gauge(const char* name) : metric_(lacis_define(LACIS_GAUGE, name)) {}
  void set(uint64_t value) const { lacis_record(metric_, value); }
  void add(int64_t offset) const { lacis_count(metric_, offset); }

 private:
  uint32_t metric_;
};

class Histogram {
 public:
  explicit Histogram(const char* name) : metric_(lacis_define(LACIS_HISTOGRAM, name)) {}
  void record(uint64_t sample) const { lacis_record(metric_, sample); }

 private:
  uint32_t metric_;
};

// The `config` of a filter.
class Config {
 public:
  explicit Config(uint32_t root) : root_(root) {}
  // All of it: JSON if it is a map in the sidecar's file.
  std::string_view all() const {
    lacis_text all = lacis_config(root_);
    return {all.data == nullptr ? "" : all.data, all.size};
  }
  // The string that a member of it is, if it is one.
  std::optional<std::string> text(const char* name) const {
    lacis_text value;
    if (!lacis_config_text(root_, name, &value)) return std::nullopt;
    return std::string(value.data, value.size);
  }

 private:
  uint32_t root_;
};

// The headers of a message, or of the response to a call. Names are matched without regard to case.
class Headers {
 public:
  explicit Headers(lacis_map map) : map_(map) {}
  // The first value of a header, if it is there.
  std::optional<std::string> get(const char* name) const {
    lacis_text value;
    if (!lacis_header(map_, name, &value)) return std::nullopt;
    return owned(value);
  }
  // Whether the first value of a header is this one; see `equal`.
  bool is(const char* name, std::string_view value) const { return lacis_header_is(map_, name, lacis::text(value)); }
  // Replaces all values of a header; adds one; removes all.
  void set(const char* name, std::string_view value) { lacis_set_header(map_, name, lacis::text(value)); }
  void add(const char* name, std::string_view value) { lacis_add_header(map_, name, lacis::text(value)); }
  void remove(const char* name) { lacis_remove_header(map_, name); }
  // All of them in their order.
  std::vector<std::pair<std::string, std::string>> all() const {
    std::vector<std::pair<std::string, std::string>> all;
    lacis_text pairs = lacis_headers(map_);
    lacis_pair pair;
    for (lacis_cursor at = lacis_each(pairs); lacis_next(&at, &pair);) {
      all.emplace_back(std::string(pair.name.data, pair.name.size), std::string(pair.value.data, pair.value.size));
    }
    lacis_free(pairs);
    return all;
  }

 private:
  lacis_map map_;
};

// What can be seen of a body: what has come since the filter last let something go on.
class Body {
 public:
  Body(lacis_buffer buffer, bool end) : end(end), buffer_(buffer) {}
  // Whether these bytes end the message.
  const bool end;
  std::string get() const { return owned(lacis_body(buffer_)); }
  // Its message must not keep a `content-length` of the old one.
  void set(std::string_view bytes) { lacis_set_body(buffer_, lacis::text(bytes)); }

 private:
  lacis_buffer buffer_;
};

inline std::vector<lacis_pair> pairs(Pairs list) {
  std::vector<lacis_pair> pairs;
  for (auto [name, value] : list) pairs.push_back({text(name), text(value)});
  return pairs;
}

class Request {
 public:
  Request(uint32_t exchange, bool end) : exchange(exchange), end(end) {}
  // The number of the exchange, the same for its response and its end.
  const uint32_t exchange;
  // Whether no body and no trailers follow.
  const bool end;
  Headers headers{LACIS_REQUEST};
  // See lacis_send_to.
  void send_to(std::string_view service) { lacis_send_to(text(service)); }
  // Answers in place of the service: `return request.reply(403, "no\n");`
  Action reply(uint32_t status, std::string_view body, Pairs headers = {}) {
    std::vector<lacis_pair> list = pairs(headers);
    return lacis_reply(exchange, status, list.data(), list.size(), text(body));
  }
  // Lets it go on, from the answer to a call.
  static void resume() { lacis_must(proxy_continue_stream(LACIS_STREAM_REQUEST), "a request cannot go on here"); }
};

class Response {
 public:
  Response(uint32_t exchange, bool end) : exchange(exchange), end(end) {}
  const uint32_t exchange;
  const bool end;
  Headers headers{LACIS_RESPONSE};
  static void resume() { lacis_must(proxy_continue_stream(LACIS_STREAM_RESPONSE), "a response cannot go on here"); }
};

// The answer to a call, while it is there.
struct Answer {
  // Whether there is one; else the call failed without an answer.
  bool came;
  Headers headers{LACIS_CALL};
  std::string body() const { return came ? owned(lacis_body(LACIS_CALL_BODY)) : std::string(); }
};

// What filters that call other services are derived from.
class Caller {
 public:
  // Calls a service over HTTP, for an exchange or (0, from `on_tick` or `configure`) for the filter itself. `headers` have
  // `:method`, `:path` and `:authority`. `then` is told the answer, with the exchange in effect, unless that is over by
  // then. False if the host refuses the call.
  bool call(uint32_t exchange, const char* service, Pairs headers, std::string_view body, uint32_t milliseconds,
            std::function<void(Answer&)> then) {
    std::vector<lacis_pair> list = pairs(headers);
    uint32_t id = lacis_call(service, list.data(), list.size(), text(body), milliseconds);
    if (id != 0) calls_[id] = {exchange, std::move(then)};
    return id != 0;
  }
  // For the callback; not the filter's to call.
  void answered(uint32_t id, bool came) {
    auto found = calls_.find(id);
    if (found == calls_.end()) return;
    auto [exchange, then] = std::move(found->second);
    calls_.erase(found);
    Answer answer{came};
    // Refused if the exchange is over.
    if (exchange == 0 || proxy_set_effective_context(exchange) == LACIS_OK) then(answer);
  }

 private:
  std::map<uint32_t, std::pair<uint32_t, std::function<void(Answer&)>>> calls_;
};

// The filter that a context belongs to; made when it is first asked for, which is when it is configured.
template <class F>
F& filter(uint32_t id) {
  lacis_context* root = lacis_find(lacis_find(id)->root);
  if (root->state == nullptr) {
    root->state = new F();
    root->drop = [](void* state) { delete static_cast<F*>(state); };
  }
  return *static_cast<F*>(root->state);
}

// One struct for each callback; a filter without the method gets an empty one, and the module no such export.
namespace exports {

#define LACIS_CALLBACK(type, method) \
  template <class F, class = void>   \
  struct type {};                    \
  template <class F>                 \
  struct type<F, std::void_t<decltype(&F::method)>>

template <class F>
struct Configure {
  LACIS_EXPORT(proxy_on_configure) static bool call(uint32_t root, size_t) {
    return filter<F>(root).configure(Config(root));
  }
};
LACIS_CALLBACK(Answered, answered){
    LACIS_EXPORT(proxy_on_http_call_response) static void call(uint32_t root, uint32_t call, uint32_t headers, size_t,
                                                               uint32_t){filter<F>(root).answered(call, headers != 0);
}  // namespace exports
};  // namespace lacis
LACIS_CALLBACK(Request,
               on_request){LACIS_EXPORT(proxy_on_request_headers) static Action call(uint32_t id, uint32_t, bool end){
    lacis::Request request(id, end);
return filter<F>(id).on_request(request);
}
}
;
LACIS_CALLBACK(RequestBody,
               on_request_body){LACIS_EXPORT(proxy_on_request_body) static Action call(uint32_t id, size_t, bool end){
    lacis::Request request(id, end);
Body body(LACIS_REQUEST_BODY, end);
return filter<F>(id).on_request_body(request, body);
}
}
;
LACIS_CALLBACK(Response,
               on_response){LACIS_EXPORT(proxy_on_response_headers) static Action call(uint32_t id, uint32_t, bool end){
    if (lacis_replied(id)) return Continue;
lacis::Response response(id, end);
return filter<F>(id).on_response(response);
}
}
;
LACIS_CALLBACK(ResponseBody,
               on_response_body){LACIS_EXPORT(proxy_on_response_body) static Action call(uint32_t id, size_t, bool end){
    if (lacis_replied(id)) return Continue;
lacis::Response response(id, end);
Body body(LACIS_RESPONSE_BODY, end);
return filter<F>(id).on_response_body(response, body);
}
}
;
LACIS_CALLBACK(Log, on_log){LACIS_EXPORT(proxy_on_log) static void call(uint32_t id){filter<F>(id).on_log(id);
}
}
;
LACIS_CALLBACK(Tick, on_tick){LACIS_EXPORT(proxy_on_tick) static void call(uint32_t root){filter<F>(root).on_tick();
}
}
;

#undef LACIS_CALLBACK

}  // namespace exports
}  // namespace lacis

#define LACIS_FILTER(F)                            \
  template struct lacis::exports::Configure<F>;    \
  template struct lacis::exports::Answered<F>;     \
  template struct lacis::exports::Request<F>;      \
  template struct lacis::exports::RequestBody<F>;  \
  template struct lacis::exports::Response<F>;     \
  template struct lacis::exports::ResponseBody<F>; \
  template struct lacis::exports::Log<F>;          \
  template struct lacis::exports::Tick<F>;

#endif

// What the greeter needs of Proxy-Wasm ABI 0.2.1, as a host defines it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#define EXPORT(name) extern "C" __attribute__((export_name(#name)))
#define IMPORT(name) extern "C" __attribute__((import_module("env"), import_name(#name)))

enum Level : uint32_t { Info = 2 };
enum Action : uint32_t { Continue = 0, Pause = 1 };
enum Map : uint32_t { RequestHeaders = 0, ResponseHeaders = 2, CallResponseHeaders = 6 };
enum Buffer : uint32_t { ResponseBody = 1, CallResponseBody = 4, PluginConfiguration = 7 };

IMPORT(proxy_log) uint32_t proxy_log(uint32_t, const char*, size_t);
IMPORT(proxy_define_metric) uint32_t proxy_define_metric(uint32_t, const char*, size_t, uint32_t*);
IMPORT(proxy_increment_metric) uint32_t proxy_increment_metric(uint32_t, int64_t);
IMPORT(proxy_get_header_map_value)
uint32_t proxy_get_header_map_value(uint32_t, const char*, size_t, char**, size_t*);
IMPORT(proxy_replace_header_map_value)
uint32_t proxy_replace_header_map_value(uint32_t, const char*, size_t, const char*, size_t);
IMPORT(proxy_remove_header_map_value) uint32_t proxy_remove_header_map_value(uint32_t, const char*, size_t);
IMPORT(proxy_get_buffer_bytes) uint32_t proxy_get_buffer_bytes(uint32_t, size_t, size_t, char**, size_t*);
IMPORT(proxy_set_buffer_bytes) uint32_t proxy_set_buffer_bytes(uint32_t, size_t, size_t, const char*, size_t);
IMPORT(proxy_http_call)
uint32_t proxy_http_call(const char*, size_t, const char*, size_t, const char*, size_t, const char*, size_t, uint32_t,
                         uint32_t*);
IMPORT(proxy_set_effective_context) uint32_t proxy_set_effective_context(uint32_t);
IMPORT(proxy_continue_stream) uint32_t proxy_continue_stream(uint32_t);
IMPORT(proxy_send_local_response)
uint32_t proxy_send_local_response(uint32_t, const char*, size_t, const char*, size_t, const char*, size_t, int32_t);

// A host call that must succeed.
inline void must(uint32_t status) {
  if (status != 0) abort();
}

inline void log(std::string_view text) { must(proxy_log(Info, text.data(), text.size())); }

// Takes over what the host has allocated here.
inline std::string owned(char* data, size_t size) {
  std::string text(data == nullptr ? "" : data, data == nullptr ? 0 : size);
  free(data);
  return text;
}

// Whether there is such a header, and its value.
inline std::pair<bool, std::string> header(Map map, std::string_view name) {
  char* data = nullptr;
  size_t size = 0;
  bool found = proxy_get_header_map_value(map, name.data(), name.size(), &data, &size) == 0 && data != nullptr;
  return {found, owned(data, size)};
}

inline void set_header(Map map, std::string_view name, std::string_view value) {
  must(proxy_replace_header_map_value(map, name.data(), name.size(), value.data(), value.size()));
}

inline std::string buffer(Buffer which) {
  char* data = nullptr;
  size_t size = 0;
  must(proxy_get_buffer_bytes(which, 0, SIZE_MAX, &data, &size));
  return owned(data, size);
}

// Header pairs as they cross: their number, the sizes, then every text with a NUL behind it.
inline std::string pairs(const std::vector<std::pair<std::string_view, std::string_view>>& list) {
  auto number = [](size_t value) {
    auto bytes = static_cast<uint32_t>(value);
    return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes);
  };
  std::string sizes = number(list.size()), texts;
  for (auto [name, value] : list) {
    sizes += number(name.size()) + number(value.size());
    texts.append(name).push_back('\0');
    texts.append(value).push_back('\0');
  }
  return sizes + texts;
}

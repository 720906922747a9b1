// lacis.h: filters in C99 and later, and in C++ (lacis.hpp makes that nicer). A filter is a WebAssembly module that
// speaks Proxy-Wasm 0.2.1, so it runs in Lacis, in Envoy and wherever else that is spoken.
//
// A filter defines the callbacks that it wants (see "Callbacks" below) and calls what is declared here. Copy this file
// beside it, or name its folder: clang --target=wasm32-wasi -mexec-model=reactor -O2 -I… filter.c -o filter.wasm
//
// Contexts. Every callback is told a context: that of the filter (one for each `filters` section of the sidecar that
// names the module), or that of one exchange that passes it. Several filters, and an old and a new configuration of
// one, may live in one virtual machine: keep what belongs to a filter in lacis_filter, never in a global variable.
//
// Memory. A `lacis_text` that is given to a function is only read. One that comes from a function is
//   - kept: valid until its context ends, nothing to do (lacis_config, lacis_config_text, lacis_json_text, lacis_keep);
//   - yours: to be freed by lacis_free (lacis_header, lacis_headers, lacis_property, lacis_body, lacis_pairs).
// Each function says which. Where memory ends, or a host breaks its word, the filter logs and traps (lacis_fail).
//
// Copyright the authors of Lacis. Apache-2.0.
#ifndef LACIS_H
#define LACIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LACIS_IMPORT(name) __attribute__((import_module("env"), import_name(#name)))
#define LACIS_EXPORT(name) __attribute__((export_name(#name)))
// Defined once however many files of a filter include this one.
#define LACIS_SHARED __attribute__((weak))

// ---------------------------------------------------------------------------------------------------------------------
// Words of the ABI

// What a host call answers.
typedef enum {
  LACIS_OK = 0,
  LACIS_NOT_FOUND = 1,
  LACIS_BAD_ARGUMENT = 2,
  LACIS_SERIALIZATION_FAILURE = 3,
  LACIS_PARSE_FAILURE = 4,
  LACIS_INVALID_MEMORY_ACCESS = 6,
  LACIS_EMPTY = 7,
  LACIS_CAS_MISMATCH = 8,
  LACIS_INTERNAL_FAILURE = 10,
  LACIS_UNIMPLEMENTED = 12
} lacis_status;

// What becomes of a message after a callback has seen it.
typedef enum {
  LACIS_CONTINUE = 0,  // It goes on to the next filter.
  LACIS_PAUSE = 1      // It waits for proxy_continue_stream; of a body, this part is shown again with the next one.
} lacis_action;

typedef enum {
  LACIS_TRACE = 0,
  LACIS_DEBUG = 1,
  LACIS_INFO = 2,
  LACIS_WARN = 3,
  LACIS_ERROR = 4,
  LACIS_CRITICAL = 5
} lacis_level;

typedef enum {
  LACIS_REQUEST_BODY = 0,
  LACIS_RESPONSE_BODY = 1,
  LACIS_DOWNSTREAM_DATA = 2,
  LACIS_UPSTREAM_DATA = 3,
  LACIS_CALL_BODY = 4,
  LACIS_GRPC_MESSAGE = 5,
  LACIS_VM_CONFIGURATION = 6,
  LACIS_PLUGIN_CONFIGURATION = 7,
  LACIS_CALL_DATA = 8
} lacis_buffer;

typedef enum {
  LACIS_REQUEST = 0,
  LACIS_REQUEST_TRAILERS = 1,
  LACIS_RESPONSE = 2,
  LACIS_RESPONSE_TRAILERS = 3,
  LACIS_GRPC_INITIAL_METADATA = 4,
  LACIS_GRPC_TRAILING_METADATA = 5,
  LACIS_CALL = 6,  // The response to a call.
  LACIS_CALL_TRAILERS = 7
} lacis_map;

typedef enum {
  LACIS_STREAM_REQUEST = 0,
  LACIS_STREAM_RESPONSE = 1,
  LACIS_STREAM_DOWNSTREAM = 2,
  LACIS_STREAM_UPSTREAM = 3
} lacis_stream;

typedef enum {
  LACIS_COUNTER = 0,
  LACIS_GAUGE = 1,
  LACIS_HISTOGRAM = 2
} lacis_metric;

typedef enum {
  LACIS_PEER_UNKNOWN = 0,
  LACIS_PEER_LOCAL = 1,
  LACIS_PEER_REMOTE = 2
} lacis_peer;

// ---------------------------------------------------------------------------------------------------------------------
// Callbacks: define those that the filter wants, and leave out the others, which then cost nothing.
// (`proxy_on_context_create`, `proxy_on_delete` and the allocator are defined below.)

// When a virtual machine begins, and when a filter is configured; `false` refuses. lacis_config gives the
// configuration.
LACIS_EXPORT(proxy_on_vm_start) bool proxy_on_vm_start(uint32_t root, size_t configuration_size);
LACIS_EXPORT(proxy_on_configure) bool proxy_on_configure(uint32_t root, size_t configuration_size);
// The head of a request, of its response: how many headers it has, whether that is the whole message.
LACIS_EXPORT(proxy_on_request_headers)
lacis_action proxy_on_request_headers(uint32_t context, uint32_t count, bool end);
LACIS_EXPORT(proxy_on_response_headers)
lacis_action proxy_on_response_headers(uint32_t context, uint32_t count, bool end);
// A part of a body: how many bytes can be seen, whether they end the message.
LACIS_EXPORT(proxy_on_request_body) lacis_action proxy_on_request_body(uint32_t context, size_t size, bool end);
LACIS_EXPORT(proxy_on_response_body) lacis_action proxy_on_response_body(uint32_t context, size_t size, bool end);
LACIS_EXPORT(proxy_on_request_trailers) lacis_action proxy_on_request_trailers(uint32_t context, uint32_t count);
LACIS_EXPORT(proxy_on_response_trailers) lacis_action proxy_on_response_trailers(uint32_t context, uint32_t count);
// A TCP connection, its bytes, its end.
LACIS_EXPORT(proxy_on_new_connection) lacis_action proxy_on_new_connection(uint32_t context);
LACIS_EXPORT(proxy_on_downstream_data) lacis_action proxy_on_downstream_data(uint32_t context, size_t size, bool end);
LACIS_EXPORT(proxy_on_upstream_data) lacis_action proxy_on_upstream_data(uint32_t context, size_t size, bool end);
LACIS_EXPORT(proxy_on_downstream_connection_close)
void proxy_on_downstream_connection_close(uint32_t context, lacis_peer peer);
LACIS_EXPORT(proxy_on_upstream_connection_close)
void proxy_on_upstream_connection_close(uint32_t context, lacis_peer peer);
// An exchange is over (the log phase: headers can be read), and after it the context. Of a filter, `false` puts its end
// off until proxy_done.
LACIS_EXPORT(proxy_on_log) void proxy_on_log(uint32_t context);
LACIS_EXPORT(proxy_on_done) bool proxy_on_done(uint32_t context);
// The timer of proxy_set_tick_period_milliseconds; a message in a queue.
LACIS_EXPORT(proxy_on_tick) void proxy_on_tick(uint32_t root);
LACIS_EXPORT(proxy_on_queue_ready) void proxy_on_queue_ready(uint32_t root, uint32_t queue);
// The answer to a call, by its id; all zero where there is none. To touch the exchange that made it:
// proxy_set_effective_context.
LACIS_EXPORT(proxy_on_http_call_response)
void proxy_on_http_call_response(uint32_t root, uint32_t call, uint32_t headers, size_t body, uint32_t trailers);
LACIS_EXPORT(proxy_on_grpc_receive_initial_metadata)
void proxy_on_grpc_receive_initial_metadata(uint32_t root, uint32_t call, uint32_t count);
LACIS_EXPORT(proxy_on_grpc_receive) void proxy_on_grpc_receive(uint32_t root, uint32_t call, size_t size);
LACIS_EXPORT(proxy_on_grpc_receive_trailing_metadata)
void proxy_on_grpc_receive_trailing_metadata(uint32_t root, uint32_t call, uint32_t count);
LACIS_EXPORT(proxy_on_grpc_close) void proxy_on_grpc_close(uint32_t root, uint32_t call, uint32_t status);
LACIS_EXPORT(proxy_on_foreign_function)
void proxy_on_foreign_function(uint32_t context, uint32_t function, size_t size);

// Defined below.
LACIS_EXPORT(proxy_abi_version_0_2_1) void proxy_abi_version_0_2_1(void);
LACIS_EXPORT(proxy_on_memory_allocate) void *proxy_on_memory_allocate(size_t size);
LACIS_EXPORT(proxy_on_context_create) void proxy_on_context_create(uint32_t context, uint32_t root);
LACIS_EXPORT(proxy_on_delete) void proxy_on_delete(uint32_t context);

// ---------------------------------------------------------------------------------------------------------------------
// Host calls, as the ABI has them. What a host puts into `char **` is from malloc, and the caller's to free; nothing of
// size 0 is NULL.

LACIS_IMPORT(proxy_log) lacis_status proxy_log(lacis_level level, const char *text, size_t size);
LACIS_IMPORT(proxy_get_log_level) lacis_status proxy_get_log_level(lacis_level *level);
LACIS_IMPORT(proxy_get_current_time_nanoseconds) lacis_status proxy_get_current_time_nanoseconds(uint64_t *time);
LACIS_IMPORT(proxy_set_tick_period_milliseconds) lacis_status proxy_set_tick_period_milliseconds(uint32_t period);
LACIS_IMPORT(proxy_get_buffer_bytes)
lacis_status proxy_get_buffer_bytes(lacis_buffer buffer, size_t start, size_t length, char **data, size_t *size);
LACIS_IMPORT(proxy_get_buffer_status)
lacis_status proxy_get_buffer_status(lacis_buffer buffer, size_t *length, uint32_t *flags);
LACIS_IMPORT(proxy_set_buffer_bytes)
lacis_status proxy_set_buffer_bytes(lacis_buffer buffer, size_t start, size_t length, const char *data, size_t size);
LACIS_IMPORT(proxy_get_header_map_size) lacis_status proxy_get_header_map_size(lacis_map map, size_t *size);
LACIS_IMPORT(proxy_get_header_map_pairs)
lacis_status proxy_get_header_map_pairs(lacis_map map, char **pairs, size_t *size);
LACIS_IMPORT(proxy_set_header_map_pairs)
lacis_status proxy_set_header_map_pairs(lacis_map map, const char *pairs, size_t size);
LACIS_IMPORT(proxy_get_header_map_value)
lacis_status proxy_get_header_map_value(lacis_map map, const char *name, size_t name_size, char **value, size_t *size);
LACIS_IMPORT(proxy_add_header_map_value)
lacis_status proxy_add_header_map_value(lacis_map map, const char *name, size_t name_size, const char *value,
                                        size_t size);
LACIS_IMPORT(proxy_replace_header_map_value)
lacis_status proxy_replace_header_map_value(lacis_map map, const char *name, size_t name_size, const char *value,
                                            size_t size);
LACIS_IMPORT(proxy_remove_header_map_value)
lacis_status proxy_remove_header_map_value(lacis_map map, const char *name, size_t name_size);
LACIS_IMPORT(proxy_continue_stream) lacis_status proxy_continue_stream(lacis_stream stream);
LACIS_IMPORT(proxy_close_stream) lacis_status proxy_close_stream(lacis_stream stream);
// `headers` are pairs (lacis_pairs); `grpc_status` is -1 where there is none.
LACIS_IMPORT(proxy_send_local_response)
lacis_status proxy_send_local_response(uint32_t status, const char *details, size_t details_size, const char *body,
                                       size_t body_size, const char *headers, size_t headers_size, int32_t grpc_status);
LACIS_IMPORT(proxy_http_call)
lacis_status proxy_http_call(const char *service, size_t service_size, const char *headers, size_t headers_size,
                             const char *body, size_t body_size, const char *trailers, size_t trailers_size,
                             uint32_t milliseconds, uint32_t *call);
LACIS_IMPORT(proxy_grpc_call)
lacis_status proxy_grpc_call(const char *upstream, size_t upstream_size, const char *service, size_t service_size,
                             const char *method, size_t method_size, const char *metadata, size_t metadata_size,
                             const char *message, size_t message_size, uint32_t milliseconds, uint32_t *call);
LACIS_IMPORT(proxy_grpc_stream)
lacis_status proxy_grpc_stream(const char *upstream, size_t upstream_size, const char *service, size_t service_size,
                               const char *method, size_t method_size, const char *metadata, size_t metadata_size,
                               uint32_t *call);
LACIS_IMPORT(proxy_grpc_send) lacis_status proxy_grpc_send(uint32_t call, const char *message, size_t size, bool end);
LACIS_IMPORT(proxy_grpc_cancel) lacis_status proxy_grpc_cancel(uint32_t call);
LACIS_IMPORT(proxy_grpc_close) lacis_status proxy_grpc_close(uint32_t call);
LACIS_IMPORT(proxy_get_status) lacis_status proxy_get_status(uint32_t *status, char **message, size_t *size);
LACIS_IMPORT(proxy_set_effective_context) lacis_status proxy_set_effective_context(uint32_t context);
LACIS_IMPORT(proxy_done) lacis_status proxy_done(void);
// `cas` is 0 for "whatever is there".
LACIS_IMPORT(proxy_set_shared_data)
lacis_status proxy_set_shared_data(const char *key, size_t key_size, const char *value, size_t size, uint32_t cas);
LACIS_IMPORT(proxy_get_shared_data)
lacis_status proxy_get_shared_data(const char *key, size_t key_size, char **value, size_t *size, uint32_t *cas);
LACIS_IMPORT(proxy_register_shared_queue)
lacis_status proxy_register_shared_queue(const char *name, size_t size, uint32_t *queue);
LACIS_IMPORT(proxy_resolve_shared_queue)
lacis_status proxy_resolve_shared_queue(const char *vm, size_t vm_size, const char *name, size_t size, uint32_t *queue);
LACIS_IMPORT(proxy_enqueue_shared_queue)
lacis_status proxy_enqueue_shared_queue(uint32_t queue, const char *data, size_t size);
LACIS_IMPORT(proxy_dequeue_shared_queue)
lacis_status proxy_dequeue_shared_queue(uint32_t queue, char **data, size_t *size);
LACIS_IMPORT(proxy_define_metric)
lacis_status proxy_define_metric(lacis_metric kind, const char *name, size_t size, uint32_t *metric);
LACIS_IMPORT(proxy_increment_metric) lacis_status proxy_increment_metric(uint32_t metric, int64_t offset);
LACIS_IMPORT(proxy_record_metric) lacis_status proxy_record_metric(uint32_t metric, uint64_t value);
LACIS_IMPORT(proxy_get_metric) lacis_status proxy_get_metric(uint32_t metric, uint64_t *value);
// A path is its elements with NUL between them.
LACIS_IMPORT(proxy_get_property)
lacis_status proxy_get_property(const char *path, size_t path_size, char **value, size_t *size);
LACIS_IMPORT(proxy_set_property)
lacis_status proxy_set_property(const char *path, size_t path_size, const char *value, size_t size);
LACIS_IMPORT(proxy_call_foreign_function)
lacis_status proxy_call_foreign_function(const char *name, size_t name_size, const char *argument, size_t argument_size,
                                         char **result, size_t *size);

// ---------------------------------------------------------------------------------------------------------------------
// Texts: bytes with a length, without a NUL at the end, of any content.

typedef struct {
  const char *data;
  size_t size;
} lacis_text;

// A header, or whatever else has a name and a value.
typedef struct {
  lacis_text name, value;
} lacis_pair;

// Of a literal, also where only constants may stand.
#define LACIS_TEXT(literal) \
  { literal, sizeof(literal) - 1 }
#define LACIS_PAIR(name, value) \
  { LACIS_TEXT(name), LACIS_TEXT(value) }

// Of a string with a NUL at its end.
static inline lacis_text lacis_of(const char *string) {
  lacis_text text = {string, strlen(string)};
  return text;
}

// Whether two texts are equal. Takes the same time wherever they differ, so that it tells nobody a secret.
static inline bool lacis_equal(lacis_text one, lacis_text other) {
  unsigned char differ = 0;
  if (one.size != other.size) return false;
  for (size_t at = 0; at < one.size; at++) differ |= (unsigned char)(one.data[at] ^ other.data[at]);
  return differ == 0;
}

// Frees a text that is yours.
static inline void lacis_free(lacis_text text) { free((void *)text.data); }

// ---------------------------------------------------------------------------------------------------------------------
// Log, and the end

static inline void lacis_log(lacis_level level, lacis_text text) { proxy_log(level, text.data, text.size); }

// Logs a text and traps: the host answers for the exchange (`failure` in the sidecar's file) and replaces the machine.
__attribute__((noreturn)) static inline void lacis_fail(const char *text) {
  lacis_log(LACIS_CRITICAL, lacis_of(text));
  __builtin_trap();
}

// A host call that can only fail if the filter is wrong.
static inline void lacis_must(lacis_status status, const char *call) {
  if (status != LACIS_OK) lacis_fail(call);
}

// ---------------------------------------------------------------------------------------------------------------------
// Memory that lives as long as a context

// A piece of memory of a context, before what it is used for.
typedef union lacis_block {
  union lacis_block *next;
  long double aligned;
} lacis_block;

typedef struct lacis_context {
  struct lacis_context *next;  // In its chain of the table.
  uint32_t id, root;           // `root` is the context of its filter; of a filter's own it is `id`.
  bool replied;
  lacis_text config;
  void *state;
  void (*drop)(void *state);  // For C++: ends what is in `state`.
  lacis_block *blocks;
} lacis_context;

// All contexts there are: chains by the low bits of the id. A host counts ids up, so chains stay short.
typedef struct {
  lacis_context **chains;
  size_t mask, count;
} lacis_table;

LACIS_SHARED lacis_table lacis_contexts = {NULL, 0, 0};

static inline void *lacis_allocate(size_t size) {
  void *memory = calloc(1, size);
  if (memory == NULL) lacis_fail("no memory is left");
  return memory;
}

static inline lacis_context *lacis_find(uint32_t id) {
  lacis_context *context = lacis_contexts.chains == NULL ? NULL : lacis_contexts.chains[id & lacis_contexts.mask];
  while (context != NULL && context->id != id) context = context->next;
  if (context == NULL) lacis_fail("there is no such context");
  return context;
}

static inline void lacis_grow(void) {
  size_t old = lacis_contexts.chains == NULL ? 0 : lacis_contexts.mask + 1, size = old == 0 ? 64 : old * 2;
  lacis_context **chains = (lacis_context **)lacis_allocate(size * sizeof *chains);
  for (size_t at = 0; at < old; at++) {
    for (lacis_context *context = lacis_contexts.chains[at], *next; context != NULL; context = next) {
      next = context->next;
      context->next = chains[context->id & (size - 1)];
      chains[context->id & (size - 1)] = context;
    }
  }
  free(lacis_contexts.chains);
  lacis_contexts.chains = chains;
  lacis_contexts.mask = size - 1;
}

LACIS_SHARED void proxy_on_context_create(uint32_t id, uint32_t root) {
  if (lacis_contexts.chains == NULL || lacis_contexts.count > lacis_contexts.mask) lacis_grow();
  lacis_context *context = (lacis_context *)lacis_allocate(sizeof *context),
                **chain = &lacis_contexts.chains[id & lacis_contexts.mask];
  context->id = id;
  context->root = root == 0 ? id : root;
  context->next = *chain;
  *chain = context;
  lacis_contexts.count++;
}

LACIS_SHARED void proxy_on_delete(uint32_t id) {
  lacis_context *context = lacis_find(id), **link = &lacis_contexts.chains[id & lacis_contexts.mask];
  while (*link != context) link = &(*link)->next;
  *link = context->next;
  lacis_contexts.count--;
  if (context->drop != NULL) context->drop(context->state);
  for (lacis_block *block = context->blocks, *next; block != NULL; block = next) {
    next = block->next;
    free(block);
  }
  lacis_free(context->config);
  free(context);
}

LACIS_SHARED void proxy_abi_version_0_2_1(void) {}
LACIS_SHARED void *proxy_on_memory_allocate(size_t size) { return malloc(size); }

// Memory of zeros, kept until the context ends.
static inline void *lacis_keep(uint32_t id, size_t size) {
  lacis_context *context = lacis_find(id);
  lacis_block *block = (lacis_block *)lacis_allocate(sizeof *block + size);
  block->next = context->blocks;
  context->blocks = block;
  return block + 1;
}

// What a context remembers: `size` bytes, zeros at first, the same ones at every call.
static inline void *lacis_state(uint32_t id, size_t size) {
  lacis_context *context = lacis_find(id);
  if (context->state == NULL) context->state = lacis_keep(id, size);
  return context->state;
}

// What a filter remembers, found by its own context or by that of an exchange: usually a struct, filled in by
// proxy_on_configure.
static inline void *lacis_filter(uint32_t id, size_t size) { return lacis_state(lacis_find(id)->root, size); }

// ---------------------------------------------------------------------------------------------------------------------
// Headers

// The first value of a header, if it is there. Yours. Names are matched without regard to case; a request has
// `:method`, `:path`, `:authority` and `:scheme`, a response `:status`.
static inline bool lacis_header(lacis_map map, const char *name, lacis_text *value) {
  char *data = NULL;
  size_t size = 0;
  bool found = proxy_get_header_map_value(map, name, strlen(name), &data, &size) == LACIS_OK;
  value->data = data;
  value->size = size;
  return found;
}

// Whether the first value of a header is this one (see lacis_equal).
static inline bool lacis_header_is(lacis_map map, const char *name, lacis_text expected) {
  lacis_text value;
  bool found = lacis_header(map, name, &value), equal = found && lacis_equal(value, expected);
  lacis_free(value);
  return equal;
}

// Replaces all values of a header by one; adds one; removes all.
static inline void lacis_set_header(lacis_map map, const char *name, lacis_text value) {
  lacis_must(proxy_replace_header_map_value(map, name, strlen(name), value.data, value.size),
             "a header cannot be set here");
}
static inline void lacis_add_header(lacis_map map, const char *name, lacis_text value) {
  lacis_must(proxy_add_header_map_value(map, name, strlen(name), value.data, value.size),
             "a header cannot be added here");
}
static inline void lacis_remove_header(lacis_map map, const char *name) {
  lacis_must(proxy_remove_header_map_value(map, name, strlen(name)), "a header cannot be removed here");
}

// All headers as pairs; see lacis_each. Yours.
static inline lacis_text lacis_headers(lacis_map map) {
  char *data = NULL;
  size_t size = 0;
  lacis_must(proxy_get_header_map_pairs(map, &data, &size), "headers cannot be read here");
  lacis_text pairs = {data, size};
  return pairs;
}

static inline uint32_t lacis_number(const char *bytes) {
  uint32_t number;
  memcpy(&number, bytes, sizeof number);
  return number;
}

// Goes through pairs: `for (lacis_cursor at = lacis_each(pairs); lacis_next(&at, &pair);)`. What it gives is a part of
// them.
typedef struct {
  const char *sizes, *text;
  uint32_t left;
} lacis_cursor;

static inline lacis_cursor lacis_each(lacis_text pairs) {
  lacis_cursor cursor = {NULL, NULL, pairs.size < 4 ? 0 : lacis_number(pairs.data)};
  if (cursor.left > 0) {
    cursor.sizes = pairs.data + 4;
    cursor.text = cursor.sizes + 8 * cursor.left;
  }
  return cursor;
}

static inline bool lacis_next(lacis_cursor *cursor, lacis_pair *pair) {
  if (cursor->left == 0) return false;
  pair->name.data = cursor->text;
  pair->name.size = lacis_number(cursor->sizes);
  pair->value.data = cursor->text + pair->name.size + 1;
  pair->value.size = lacis_number(cursor->sizes + 4);
  cursor->text = pair->value.data + pair->value.size + 1;
  cursor->sizes += 8;
  cursor->left--;
  return true;
}

// Pairs as they cross to the host: their number, the sizes, then every text with a NUL behind it. Yours.
static inline lacis_text lacis_pairs(const lacis_pair *list, size_t count) {
  size_t size = 4 + 8 * count;
  for (size_t at = 0; at < count; at++) size += list[at].name.size + list[at].value.size + 2;
  char *data = (char *)lacis_allocate(size), *sizes = data + 4, *text = sizes + 8 * count;
  uint32_t number = (uint32_t)count;
  memcpy(data, &number, 4);
  for (size_t at = 0; at < count; at++, sizes += 8) {
    uint32_t both[2] = {(uint32_t)list[at].name.size, (uint32_t)list[at].value.size};
    memcpy(sizes, both, 8);
    memcpy(text, list[at].name.data, both[0]);
    memcpy(text + both[0] + 1, list[at].value.data, both[1]);
    text += both[0] + both[1] + 2;
  }
  lacis_text pairs = {data, size};
  return pairs;
}

// Sends the request to another service: that becomes its authority, by which a route is chosen after the filters have
// run; `x-forwarded-host` carries the one that the caller used. Only in proxy_on_request_headers.
static inline void lacis_send_to(lacis_text service) {
  lacis_text original;
  if (lacis_header(LACIS_REQUEST, ":authority", &original))
    lacis_set_header(LACIS_REQUEST, "x-forwarded-host", original);
  lacis_free(original);
  lacis_set_header(LACIS_REQUEST, ":authority", service);
}

// Answers in place of the service. Use it as `return lacis_reply(context, 403, NULL, 0, lacis_of("no\n"));`
// The reply passes the response callbacks of this filter, too: see lacis_replied.
static inline lacis_action lacis_reply(uint32_t context, uint32_t status, const lacis_pair *headers, size_t count,
                                       lacis_text body) {
  lacis_text pairs = lacis_pairs(headers, count);
  lacis_find(context)->replied = true;
  lacis_must(proxy_send_local_response(status, "", 0, body.data, body.size, pairs.data, pairs.size, -1),
             "a reply cannot be sent here");
  lacis_free(pairs);
  return LACIS_PAUSE;
}

// Whether the response of an exchange is this filter's own reply.
static inline bool lacis_replied(uint32_t context) { return lacis_find(context)->replied; }

// ---------------------------------------------------------------------------------------------------------------------
// Bodies, properties, calls

// What can be seen of a body, or of another buffer. Yours.
static inline lacis_text lacis_body(lacis_buffer buffer) {
  char *data = NULL;
  size_t size = 0;
  lacis_must(proxy_get_buffer_bytes(buffer, 0, SIZE_MAX, &data, &size), "this buffer cannot be read here");
  lacis_text body = {data, size};
  return body;
}

// Replaces what can be seen of a body. Its message must not keep a `content-length` of the old one.
static inline void lacis_set_body(lacis_buffer buffer, lacis_text body) {
  lacis_must(proxy_set_buffer_bytes(buffer, 0, SIZE_MAX, body.data, body.size), "this buffer cannot be changed here");
}

// What the proxy knows by a path of `count` elements, as `(const char *[]){"source", "address"}`; false if it knows
// nothing. Yours. Numbers are 8 bytes.
static inline bool lacis_property(const char *const *path, size_t count, lacis_text *value) {
  size_t size = 0;
  for (size_t at = 0; at < count; at++) size += strlen(path[at]) + 1;
  char *joined = (char *)lacis_allocate(size + 1), *end = joined, *data = NULL;
  for (size_t at = 0; at < count; at++, end++) {
    memcpy(end, path[at], strlen(path[at]));
    end += strlen(path[at]);
  }
  bool found = proxy_get_property(joined, size == 0 ? 0 : size - 1, &data, &value->size) == LACIS_OK;
  free(joined);
  value->data = data;
  if (data == NULL) value->size = 0;
  return found;
}

// Calls a service over HTTP: its name, headers with `:method`, `:path` and `:authority`, a body, at most how long.
// Gives the id that proxy_on_http_call_response will be told, or 0 if the host refuses the call (no such service, no
// right).
static inline uint32_t lacis_call(const char *service, const lacis_pair *headers, size_t count, lacis_text body,
                                  uint32_t milliseconds) {
  uint32_t call = 0;
  lacis_text pairs = lacis_pairs(headers, count);
  lacis_status status = proxy_http_call(service, strlen(service), pairs.data, pairs.size, body.data, body.size, NULL, 0,
                                        milliseconds, &call);
  lacis_free(pairs);
  return status == LACIS_OK ? call : 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Metrics, each with a name: counters only grow, gauges are set, histograms are given samples. The same name is the
// same metric in every machine.

static inline uint32_t lacis_define(lacis_metric kind, const char *name) {
  uint32_t metric = 0;
  lacis_must(proxy_define_metric(kind, name, strlen(name), &metric), "a metric cannot be defined");
  return metric;
}
static inline uint32_t lacis_counter(const char *name) { return lacis_define(LACIS_COUNTER, name); }

// Adds to a counter or a gauge; sets a gauge or gives a histogram a sample.
static inline void lacis_count(uint32_t metric, int64_t offset) {
  lacis_must(proxy_increment_metric(metric, offset), "a metric cannot be added to");
}
static inline void lacis_record(uint32_t metric, uint64_t value) {
  lacis_must(proxy_record_metric(metric, value), "a metric cannot be recorded");
}

// ---------------------------------------------------------------------------------------------------------------------
// Configuration: `config` of the sidecar's file. A map there is JSON here, a text is as it is.

// All of it, kept. Must be asked for first in proxy_on_configure; afterwards it may be asked for at any time.
static inline lacis_text lacis_config(uint32_t id) {
  lacis_context *root = lacis_find(lacis_find(id)->root);
  if (root->config.data == NULL) {
    char *data = NULL;
    if (proxy_get_buffer_bytes(LACIS_PLUGIN_CONFIGURATION, 0, SIZE_MAX, &data, &root->config.size) != LACIS_OK ||
        data == NULL) {
      root->config.size = 0;
    }
    root->config.data = data;
  }
  return root->config;
}

static inline const char *lacis_json_space(const char *at, const char *end) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
  return at;
}

// Behind the string that begins here, NULL if none does.
static inline const char *lacis_json_string(const char *at, const char *end) {
  if (at == end || *at++ != '"') return NULL;
  while (at < end && *at != '"') at += *at == '\\' ? 2 : 1;
  return at < end ? at + 1 : NULL;
}

// Behind the value that begins here, NULL if none does.
static inline const char *lacis_json_value(const char *at, const char *end) {
  size_t depth = 0;
  const char *begin = at;
  for (; at != NULL && at < end;) {
    bool closes = *at == '}' || *at == ']';
    if (depth == 0 && (closes || *at == ',')) break;
    if (*at == '"') {
      at = lacis_json_string(at, end);
      continue;
    }
    if (*at == '{' || *at == '[') depth++;
    if (closes) depth--;
    at++;
  }
  return at == begin || depth > 0 ? NULL : at;
}

// The member of a JSON object, as it is written there (`42`, `"text"`, `{…}`), a part of `json`. Of two with one name
// it is the first. Names are compared as they are written. False if there is none, or the JSON is broken before it.
static inline bool lacis_json_member(lacis_text json, const char *name, lacis_text *value) {
  const char *end = json.data + json.size, *at = lacis_json_space(json.data, end);
  if (json.data == NULL || at == end || *at != '{') return false;
  do {
    const char *key = lacis_json_space(at + 1, end);
    if ((at = lacis_json_string(key, end)) == NULL) return false;
    lacis_text found = {key + 1, (size_t)(at - key) - 2};
    at = lacis_json_space(at, end);
    if (at == end || *at != ':') return false;
    value->data = lacis_json_space(at + 1, end);
    if ((at = lacis_json_value(value->data, end)) == NULL) return false;
    value->size = (size_t)(at - value->data);
    while (value->size > 0 && lacis_json_space(value->data + value->size - 1, at) == at) value->size--;
    if (lacis_equal(found, lacis_of(name))) return true;
  } while (at < end && *at == ',');
  return false;
}

// The number of four hexadecimal digits, -1 if they are not that.
static inline int32_t lacis_json_hex(const char *at, const char *end) {
  int32_t number = 0;
  for (int digit = 0; digit < 4; digit++, at++) {
    if (at >= end) return -1;
    if (*at >= '0' && *at <= '9')
      number = number * 16 + (*at - '0');
    else if ((*at | 32) >= 'a' && (*at | 32) <= 'f')
      number = number * 16 + ((*at | 32) - 'a' + 10);
    else
      return -1;
  }
  return number;
}

// Writes what an escape (`at` is behind its backslash) stands for in UTF-8. Gives the place behind it, NULL if it is
// none.
static inline const char *lacis_json_escape(const char *at, const char *end, char **out) {
  static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
  for (const char *escape = escapes; *escape != 0; escape += 2) {
    if (*at == *escape) {
      *(*out)++ = escape[1];
      return at + 1;
    }
  }
  int32_t code = *at == 'u' ? lacis_json_hex(at + 1, end) : -1, low = -1;
  at += 5;
  if (code >= 0xd800 && code < 0xdc00) {
    if (at + 1 < end && at[0] == '\\' && at[1] == 'u') low = lacis_json_hex(at + 2, end);
    if (low < 0xdc00 || low > 0xdfff) return NULL;
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    at += 6;
  } else if (code < 0 || (code >= 0xdc00 && code < 0xe000)) {
    return NULL;
  }
  int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
  *(*out)++ = (char)(first[more] | (code >> (6 * more)));
  while (more-- > 0) *(*out)++ = (char)(0x80 | ((code >> (6 * more)) & 0x3f));
  return at;
}

// The text of a member of a JSON object, kept by a context. False if there is no such member, or it is no string.
static inline bool lacis_json_text(uint32_t context, lacis_text json, const char *name, lacis_text *value) {
  lacis_text raw;
  if (!lacis_json_member(json, name, &raw) || raw.size < 2 || *raw.data != '"') return false;
  const char *at = raw.data + 1, *end = raw.data + raw.size - 1;
  if (lacis_json_string(raw.data, end + 1) != end + 1) return false;
  // An escape is never shorter than what it stands for.
  char *text = (char *)lacis_keep(context, raw.size), *out = text;
  while (at != NULL && at < end) {
    if (*at == '\\')
      at = lacis_json_escape(at + 1, end, &out);
    else
      *out++ = *at++;
  }
  value->data = text;
  value->size = (size_t)(out - text);
  return at != NULL;
}

// The text of a member of the configuration, kept as long as the filter; see lacis_config and lacis_json_text.
static inline bool lacis_config_text(uint32_t root, const char *name, lacis_text *value) {
  return lacis_json_text(root, lacis_config(root), name, value);
}

#ifdef __cplusplus
}
#endif
#endif

// Lets requests with the key in, counts them, and sends some of them to the canary.
#include "lacis.h"

typedef struct {
  lacis_text key, canary;
  uint32_t allowed, denied;
} filter;

bool proxy_on_configure(uint32_t root, size_t size) {
  (void)size;
  filter *self = lacis_filter(root, sizeof *self);
  bool complete = lacis_config_text(root, "key", &self->key) && lacis_config_text(root, "canary", &self->canary);
  if (!complete || self->key.size == 0 || self->canary.size == 0) {
    lacis_log(LACIS_ERROR, lacis_of("the configuration needs `key` and `canary`, two texts"));
    return false;
  }
  self->allowed = lacis_counter("requests_allowed_total");
  self->denied = lacis_counter("requests_denied_total");
  return true;
}

lacis_action proxy_on_request_headers(uint32_t exchange, uint32_t count, bool end) {
  (void)count, (void)end;
  filter *self = lacis_filter(exchange, sizeof *self);
  if (!lacis_header_is(LACIS_REQUEST, "x-api-key", self->key)) {
    lacis_count(self->denied, 1);
    lacis_pair challenge = LACIS_PAIR("www-authenticate", "ApiKey header=\"x-api-key\"");
    return lacis_reply(exchange, 401, &challenge, 1, lacis_of("an API key is required (header x-api-key)\n"));
  }
  lacis_count(self->allowed, 1);
  if (lacis_header_is(LACIS_REQUEST, "x-canary", lacis_of("yes"))) lacis_send_to(self->canary);
  return LACIS_CONTINUE;
}

lacis_action proxy_on_response_headers(uint32_t exchange, uint32_t count, bool end) {
  (void)count, (void)end;
  if (!lacis_replied(exchange)) lacis_set_header(LACIS_RESPONSE, "x-checked-by", lacis_of("doorkeeper"));
  return LACIS_CONTINUE;
}

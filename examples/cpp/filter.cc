// Lets requests with the key in, counts them, and sends some of them to the canary.
#include "lacis.hpp"

class Doorkeeper {
 public:
  bool configure(const lacis::Config& config) {
    key = config.text("key").value_or("");
    canary = config.text("canary").value_or("");
    if (!key.empty() && !canary.empty()) return true;
    lacis::log(LACIS_ERROR, "the configuration needs `key` and `canary`, two texts");
    return false;
  }

  lacis::Action on_request(lacis::Request& request) {
    if (!request.headers.is("x-api-key", key)) {
      denied.add();
      return request.reply(401, "an API key is required (header x-api-key)\n",
                           {{"www-authenticate", "ApiKey header=\"x-api-key\""}});
    }
    allowed.add();
    if (request.headers.is("x-canary", "yes")) request.send_to(canary);
    return lacis::Continue;
  }

  lacis::Action on_response(lacis::Response& response) {
    response.headers.set("x-checked-by", "doorkeeper");
    return lacis::Continue;
  }

 private:
  std::string key, canary;
  lacis::Counter allowed{"requests_allowed_total"}, denied{"requests_denied_total"};
};

LACIS_FILTER(Doorkeeper)

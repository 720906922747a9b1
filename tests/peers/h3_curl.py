"""libcurl over HTTP/3 (ngtcp2, nghttp3), by way of curl_cffi: a large GET, a large POST, and a body that is cut."""

import argparse
import json

from curl_cffi import CurlHttpVersion, requests
from curl_cffi.requests.exceptions import RequestException

parser = argparse.ArgumentParser()
parser.add_argument("--cert", required=True)
parser.add_argument("--key", required=True)
parser.add_argument("--ca")
parser.add_argument("url")
options = parser.parse_args()

# The certificate has no host name; other peers check the server's identity.
session = requests.Session(
    cert=(options.cert, options.key), verify=False, http_version=CurlHttpVersion.V3ONLY, timeout=40, trust_env=False
)

get = session.get(options.url + "/bytes/3000000")
post = session.post(options.url + "/drain", data=b"x" * 2_000_000)
try:
    session.get(options.url + "/truncate")
    cut = False
except RequestException:
    cut = True
print(
    json.dumps(
        {
            "get": [get.status_code, get.http_version, len(get.content)],
            "post": [post.status_code, post.http_version, post.text],
            "cut": cut,
        }
    )
)

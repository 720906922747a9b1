// Lets requests with the key in, counts them, and sends some of them to the canary.
package main

import (
	"crypto/subtle"
	"encoding/json"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func main() {}

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{} })
}

type plugin struct {
	types.DefaultPluginContext
	Key, Canary     string
	allowed, denied proxywasm.MetricCounter
}

func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	config, err := proxywasm.GetPluginConfiguration()
	if err != nil || json.Unmarshal(config, p) != nil || p.Key == "" || p.Canary == "" {
		proxywasm.LogError("the configuration needs `key` and `canary`, two texts")
		return types.OnPluginStartStatusFailed
	}
	p.allowed = proxywasm.DefineCounterMetric("requests_allowed_total")
	p.denied = proxywasm.DefineCounterMetric("requests_denied_total")
	return types.OnPluginStartStatusOK
}

func (p *plugin) NewHttpContext(uint32) types.HttpContext { return &exchange{plugin: p} }

type exchange struct {
	types.DefaultHttpContext
	*plugin
	replied bool
}

func (e *exchange) OnHttpRequestHeaders(int, bool) types.Action {
	key, _ := proxywasm.GetHttpRequestHeader("x-api-key")
	if subtle.ConstantTimeCompare([]byte(key), []byte(e.Key)) == 0 {
		e.denied.Increment(1)
		e.replied = true
		challenge := [][2]string{{"www-authenticate", `ApiKey header="x-api-key"`}}
		must(proxywasm.SendHttpResponse(401, challenge, []byte("an API key is required (header x-api-key)\n"), -1))
		return types.ActionPause
	}
	e.allowed.Increment(1)
	if canary, _ := proxywasm.GetHttpRequestHeader("x-canary"); canary == "yes" {
		authority, _ := proxywasm.GetHttpRequestHeader(":authority")
		must(proxywasm.ReplaceHttpRequestHeader("x-forwarded-host", authority))
		must(proxywasm.ReplaceHttpRequestHeader(":authority", e.Canary))
	}
	return types.ActionContinue
}

func (e *exchange) OnHttpResponseHeaders(int, bool) types.Action {
	if !e.replied {
		must(proxywasm.ReplaceHttpResponseHeader("x-checked-by", "doorkeeper"))
	}
	return types.ActionContinue
}

// A panic ends the virtual machine; the host answers, and starts another one.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

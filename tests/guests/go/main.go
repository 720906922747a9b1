// The greeter (see ../README.md) on the Go SDK, built as a reactor: GOOS=wasip1 GOARCH=wasm -buildmode=c-shared.
package main

import (
	"fmt"
	"strings"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func main() {}

func init() {
	proxywasm.SetPluginContext(func(uint32) types.PluginContext { return &plugin{} })
}

type plugin struct {
	types.DefaultPluginContext
	greeting string
	requests proxywasm.MetricCounter
}

func (p *plugin) OnPluginStart(int) types.OnPluginStartStatus {
	configuration, err := proxywasm.GetPluginConfiguration()
	if err != nil {
		proxywasm.LogCriticalf("no configuration: %v", err)
		return types.OnPluginStartStatusFailed
	}
	p.greeting = string(configuration)
	p.requests = proxywasm.DefineCounterMetric("greeted")
	proxywasm.LogInfo("configured: " + p.greeting)
	return types.OnPluginStartStatusOK
}

// With a greeting that begins with "tcp" it is a filter of connections.
func (p *plugin) seesConnections() bool { return strings.HasPrefix(p.greeting, "tcp") }

func (p *plugin) NewHttpContext(uint32) types.HttpContext {
	if p.seesConnections() {
		return nil
	}
	return &exchange{plugin: p}
}

func (p *plugin) NewTcpContext(uint32) types.TcpContext {
	if !p.seesConnections() {
		return nil
	}
	return &connection{plugin: p}
}

// Greets at the first line of a server, and counts what passes.
type connection struct {
	types.DefaultTcpContext
	plugin   *plugin
	greeted  bool
	down, up int
}

func (c *connection) OnNewConnection() types.Action {
	c.plugin.requests.Increment(1)
	proxywasm.LogInfo("connected")
	return types.ActionContinue
}

func (c *connection) OnDownstreamData(size int, end bool) types.Action {
	c.down += size
	if size == 0 {
		return types.ActionContinue
	}
	data, err := proxywasm.GetDownstreamData(0, size)
	must(err)
	// Whole lines only.
	if data[len(data)-1] != '\n' {
		c.down -= size
		return types.ActionPause
	}
	must(proxywasm.ReplaceDownstreamData([]byte(strings.ToUpper(string(data)))))
	return types.ActionContinue
}

func (c *connection) OnUpstreamData(size int, end bool) types.Action {
	c.up += size
	if size > 0 && !c.greeted {
		c.greeted = true
		must(proxywasm.PrependUpstreamData([]byte(c.plugin.greeting + ", ")))
	}
	return types.ActionContinue
}

func (c *connection) OnDownstreamClose(by types.PeerType) {
	proxywasm.LogInfof("downstream closed by %d", by)
}

func (c *connection) OnUpstreamClose(by types.PeerType) {
	proxywasm.LogInfof("upstream closed by %d", by)
}

func (c *connection) OnStreamDone() {
	proxywasm.LogInfof("done: %d down, %d up", c.down, c.up)
}

type exchange struct {
	types.DefaultHttpContext
	plugin *plugin
}

func (e *exchange) OnHttpRequestHeaders(int, bool) types.Action {
	e.plugin.requests.Increment(1)
	name, err := proxywasm.GetHttpRequestHeader("x-name")
	if err != nil {
		name = "nobody"
	}
	must(proxywasm.ReplaceHttpRequestHeader("x-greeting", e.plugin.greeting+", "+name))
	if _, err := proxywasm.GetHttpRequestHeader("x-deny"); err == nil {
		must(proxywasm.SendHttpResponse(403, [][2]string{{"x-why", "denied"}}, []byte("not "+name+"\n"), -1))
		return types.ActionPause
	}
	if _, err := proxywasm.GetHttpRequestHeader("x-call"); err == nil {
		headers := [][2]string{{":method", "GET"}, {":path", "/bytes/5"}, {":authority", "helper"}}
		_, err := proxywasm.DispatchHttpCall("helper", headers, nil, nil, 5000, called)
		must(err)
		return types.ActionPause
	}
	return types.ActionContinue
}

func called(_, size, _ int) {
	headers, err := proxywasm.GetHttpCallResponseHeaders()
	must(err)
	status := ""
	for _, header := range headers {
		if header[0] == ":status" {
			status = header[1]
		}
	}
	body, err := proxywasm.GetHttpCallResponseBody(0, size)
	must(err)
	must(proxywasm.ReplaceHttpRequestHeader("x-helper", fmt.Sprintf("%s %d", status, len(body))))
	must(proxywasm.ResumeHttpRequest())
}

func (e *exchange) OnHttpResponseHeaders(int, bool) types.Action {
	must(proxywasm.ReplaceHttpResponseHeader("x-filter", "greeter"))
	must(proxywasm.RemoveHttpResponseHeader("content-length"))
	return types.ActionContinue
}

func (e *exchange) OnHttpResponseBody(size int, end bool) types.Action {
	if !end {
		return types.ActionPause
	}
	body, err := proxywasm.GetHttpResponseBody(0, size)
	if err != nil {
		body = nil // An empty one is an error in this SDK.
	}
	must(proxywasm.ReplaceHttpResponseBody([]byte("<" + string(body) + ">")))
	return types.ActionContinue
}

func (e *exchange) OnHttpStreamDone() {
	status, err := proxywasm.GetHttpResponseHeader(":status")
	must(err)
	proxywasm.LogInfo("done: " + status)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

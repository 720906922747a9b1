// Command quicgo is an HTTP/3 client made of quic-go: it sends requests over one connection, with a client certificate,
// to a server that it knows by its SPIFFE identity, and prints one JSON line for each.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

type outcome struct {
	Status   int         `json:"status,omitempty"`
	Proto    string      `json:"proto,omitempty"`
	Headers  http.Header `json:"headers,omitempty"`
	Length   int64       `json:"length"`
	Sha256   string      `json:"sha256,omitempty"`
	Trailers http.Header `json:"trailers,omitempty"`
	Error    string      `json:"error,omitempty"`
}

type fields []string

func (f *fields) String() string     { return strings.Join(*f, ", ") }
func (f *fields) Set(v string) error { *f = append(*f, v); return nil }

func main() {
	address := flag.String("address", "", "HOST:PORT to send to")
	authority := flag.String("authority", "delta", "authority of the requests")
	path := flag.String("path", "/", "path of the requests")
	method := flag.String("method", "GET", "method of the requests")
	body := flag.Int64("body", 0, "bytes of request body, the letter x")
	count := flag.Int("count", 1, "requests, all at once on one connection")
	ca := flag.String("ca", "", "trust bundle in PEM")
	cert := flag.String("cert", "", "client certificate chain in PEM")
	key := flag.String("key", "", "its private key in PEM")
	identity := flag.String("identity", "", "SPIFFE identity that the server must have")
	timeout := flag.Duration("timeout", 10*time.Second, "bound of the whole run")
	var headers, trailers fields
	flag.Var(&headers, "header", "NAME:VALUE, may repeat")
	flag.Var(&trailers, "trailer", "NAME:VALUE, may repeat")
	flag.Parse()

	settings, err := tlsSettings(*ca, *cert, *key, *identity)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	transport := &http3.Transport{
		TLSClientConfig: settings,
		Dial: func(ctx context.Context, _ string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, *address, t, q)
		},
	}
	defer transport.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()

	outcomes := make([]outcome, *count)
	var all sync.WaitGroup
	for i := range outcomes {
		all.Go(func() {
			request, err := http.NewRequestWithContext(ctx, *method, "https://"+*authority+*path, nil)
			if err != nil {
				outcomes[i].Error = err.Error()
				return
			}
			if *body > 0 {
				request.Body = io.NopCloser(io.LimitReader(xs{}, *body))
				request.ContentLength = *body
			}
			for _, field := range headers {
				name, value, _ := strings.Cut(field, ":")
				request.Header.Add(name, value)
			}
			if len(trailers) > 0 {
				request.ContentLength = -1
				request.Trailer = http.Header{}
				for _, field := range trailers {
					name, value, _ := strings.Cut(field, ":")
					request.Trailer.Add(name, value)
				}
			}
			outcomes[i] = exchange(transport, request)
		})
	}
	all.Wait()
	printer := json.NewEncoder(os.Stdout)
	for _, o := range outcomes {
		_ = printer.Encode(o)
	}
}

func exchange(transport *http3.Transport, request *http.Request) outcome {
	response, err := transport.RoundTrip(request)
	if err != nil {
		return outcome{Error: err.Error()}
	}
	defer response.Body.Close()
	hash := sha256.New()
	length, err := io.Copy(hash, response.Body)
	o := outcome{
		Status:   response.StatusCode,
		Proto:    response.Proto,
		Headers:  response.Header,
		Length:   length,
		Sha256:   hex.EncodeToString(hash.Sum(nil)),
		Trailers: response.Trailer,
	}
	if err != nil {
		o.Error = err.Error()
	}
	return o
}

// A SPIFFE certificate has no host name, so the chain and the URI are checked here and not by crypto/tls.
func tlsSettings(ca, cert, key, identity string) (*tls.Config, error) {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New(ca + ": no certificate in it")
	}
	settings := &tls.Config{
		NextProtos:         []string{http3.NextProtoH3},
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			intermediates := x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				intermediates.AddCert(c)
			}
			leaf := state.PeerCertificates[0]
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
				return err
			}
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != identity {
				return fmt.Errorf("the server is %v, wanted %s", leaf.URIs, identity)
			}
			return nil
		},
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	return settings, nil
}

type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

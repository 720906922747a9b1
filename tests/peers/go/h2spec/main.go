// Command h2spec runs summerwind/h2spec with a client certificate, which its own command line cannot give.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	port := flag.Int("port", 0, "port on 127.0.0.1")
	cert := flag.String("cert", "", "client certificate chain in PEM; absent: no TLS")
	key := flag.String("key", "", "its private key in PEM")
	report := flag.String("report", "", "where the JUnit report goes")
	timeout := flag.Duration("timeout", 2*time.Second, "how long a case waits for the server")
	flag.Parse()

	passed, err := h2spec.Run(&config.Config{
		Host:    "127.0.0.1",
		Port:    *port,
		Path:    "/",
		Timeout: *timeout,
		// Case http2/4.2/3 sends five of them in one frame, which has to be larger than any SETTINGS_MAX_FRAME_SIZE of ours
		// (64 KiB), even in Huffman code; the others send one, which has to fit in 16 KiB.
		MaxHeaderLen: 16000,
		JUnitReport:  *report,
		Strict:       true,
		TLS:          *cert != "",
		Insecure:     true,
		CertFile:     *cert,
		CertKeyFile:  *key,
		Sections:     flag.Args(),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if !passed {
		os.Exit(1)
	}
}

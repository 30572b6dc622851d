//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"testing"
)

// bridgeAddresses are the testbed's own addresses on the underlay: a host that is no node.
var bridgeAddresses = []netip.Addr{netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("fd00:c8::1")}

// startOutside serves, on the underlay bridge, a page that tells the caller's address.
func startOutside(t *testing.T) []netip.AddrPort {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.RemoteAddr)
	})}
	t.Cleanup(func() { _ = server.Close() })
	var targets []netip.AddrPort
	for _, addr := range bridgeAddresses {
		listener, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.Serve(listener) }()
		targets = append(targets, listener.Addr().(*net.TCPAddr).AddrPort())
	}
	return targets
}

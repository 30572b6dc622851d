//go:build netns

package nflog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/nstest"
)

const group = 4711

// TestReader sends packets that rules log and drop, and reads what comes of them.
func TestReader(t *testing.T) {
	ns := nstest.New(t)
	var r *Reader
	var err, second error
	ns.Do(t, func() {
		rules := fmt.Sprintf(`table inet t {
		chain c {
			type filter hook output priority 0
			udp dport 7000 log group %[1]d prefix "v=drop p=one" drop
			tcp dport 7001 log group %[1]d prefix "v=drop p=two" reject with tcp reset
		}
		}`, group)
		var out []byte
		if out, err = exec.Command("nft", rules).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
			return
		}
		if r, err = New(group); err == nil {
			_, second = New(group)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(second, ErrTaken) {
		t.Errorf("a second reader of the group: error %v, want %v", second, ErrTaken)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, done := make(chan Packet, 64), make(chan error, 1)
	go func() { done <- r.Run(ctx, func(p Packet) { got <- p }) }()
	ns.Do(t, func() {
		for _, host := range []string{"127.0.0.1", "[::1]"} {
			if c, err := net.Dial("udp", host+":7000"); err == nil {
				_, _ = c.Write([]byte("x")) // refused with EPERM: the rule drops it
				_ = c.Close()
			}
			if c, err := net.Dial("tcp", host+":7001"); err == nil {
				t.Error("a refused connection was made")
				_ = c.Close()
			}
		}
	})
	want := map[netip.AddrPort]string{}
	for _, host := range []string{"127.0.0.1", "::1"} {
		want[netip.AddrPortFrom(netip.MustParseAddr(host), 7000)] = "v=drop p=one"
		want[netip.AddrPortFrom(netip.MustParseAddr(host), 7001)] = "v=drop p=two"
	}
	for len(want) > 0 {
		select {
		case p := <-got:
			if prefix, ok := want[p.Dst]; ok {
				proto := map[string]uint8{"v=drop p=one": unix.IPPROTO_UDP, "v=drop p=two": unix.IPPROTO_TCP}[prefix]
				if p.Prefix != prefix || p.Protocol != proto || p.Src.Addr() != p.Dst.Addr() || p.Src.Port() == 0 || p.OutLink == 0 {
					t.Errorf("read %+v, want prefix %q and protocol %d", p, prefix, proto)
				}
				delete(want, p.Dst)
			}
		case <-ctx.Done():
			t.Fatalf("nothing was read of %v", want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

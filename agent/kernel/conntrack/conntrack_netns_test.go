//go:build netns

package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestDelete makes flows over the loopback and deletes some of them.
func TestDelete(t *testing.T) {
	ns := nstest.New(t)
	var k *Kernel
	var err error
	ns.Do(t, func() {
		// Conntrack begins to look when a rule needs it.
		script := `table inet t {
			chain c { type filter hook output priority 0; ct state new accept; }
			chain d { type nat hook output priority -100;
				udp dport 7000 ip daddr 127.0.0.1 dnat to 127.0.0.2:7100
				udp dport 7000 ip6 daddr ::1 dnat to [::1]:7100
			}
		}`
		var out []byte
		if out, err = exec.Command("nft", script).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
			return
		}
		k, err = New()
		for _, to := range []string{"127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.3:7000", "[::1]:7000", "[::1]:7001"} {
			err = errors.Join(err, send(to))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	list := func() map[string]bool {
		flows, err := k.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, f := range flows {
			if f.Original.Protocol == state.ProtoUDP {
				out[f.Original.Dst.String()] = true
			}
		}
		return out
	}
	expect := func(what string, want ...string) {
		t.Helper()
		got := list()
		if len(got) != len(want) {
			t.Errorf("%s: flows to %v, want %v", what, got, want)
		}
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s: no flow to %s in %v", what, w, got)
			}
		}
	}
	expect("at first", "127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.3:7000", "[::1]:7000", "[::1]:7001")
	remove := func(want int, filters ...Filter) {
		t.Helper()
		n, err := k.Delete(t.Context(), filters...)
		if err != nil || n != want {
			t.Errorf("deleted %d flows, want %d; error %v", n, want, err)
		}
	}
	remove(1, HostPortOpened(7000, netip.Addr{}, netip.MustParseAddr("10.0.0.1")))
	expect("host port opened", "127.0.0.1:7000", "127.0.0.1:7001", "[::1]:7000", "[::1]:7001")
	remove(0, HostPortClosed(7000, netip.MustParseAddr("127.0.0.9")))
	remove(1, HostPortClosed(7000, netip.MustParseAddr("127.0.0.2")))
	expect("host port closed", "127.0.0.1:7001", "[::1]:7000", "[::1]:7001")
	remove(2, Filter{Dst: netip.MustParseAddr("::1")})
	expect("IPv6 by destination", "127.0.0.1:7001")
	remove(0)
	if _, err := k.Delete(t.Context(), Filter{}); !errors.Is(err, ErrMatchesAll) {
		t.Errorf("error is %v, want %v", err, ErrMatchesAll)
	}
	expect("at last", "127.0.0.1:7001")
}

func send(to string) error {
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("x"))
	return errors.Join(err, c.Close())
}

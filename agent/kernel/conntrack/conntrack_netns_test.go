//go:build netns

package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

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

// TestDeleteWhere has flows of two protocols, of which the kernel lists one.
func TestDeleteWhere(t *testing.T) {
	ns := nstest.New(t)
	var k *Kernel
	var err error
	ns.Do(t, func() {
		var out []byte
		if out, err = exec.Command("nft", "table inet t {\n chain c {\n type filter hook output priority 0; ct state new accept\n }\n }\n").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
			return
		}
		k, err = New()
		for _, to := range []string{"127.0.0.1:7000", "127.0.0.1:7001", "[::1]:7000"} {
			err = errors.Join(err, send(to))
		}
		l, fault := net.Listen("tcp", "127.0.0.1:7000")
		if err = errors.Join(err, fault); err != nil {
			return
		}
		c, fault := net.Dial("tcp", l.Addr().String())
		err = errors.Join(err, fault, c.Close(), l.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := k.visit(t.Context(), family, filterOf(state.ProtoUDP), func(attrs []byte) error {
			if got := decodeFlow(attrs); got.Original.Protocol != state.ProtoUDP {
				t.Errorf("asked for UDP, the kernel lists %v", got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	n, err := k.DeleteWhere(t.Context(), state.ProtoUDP, func(f Flow) bool {
		seen = append(seen, f.Original.Dst.String())
		return f.Original.Dst.Port() == 7000
	})
	if err != nil || n != 2 || len(seen) != 3 {
		t.Errorf("deleted %d of %v, error %v", n, seen, err)
	}
	flows, err := k.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	count := map[uint8]int{}
	for _, f := range flows {
		count[f.Original.Protocol]++
	}
	if count[state.ProtoUDP] != 1 || count[state.ProtoTCP] == 0 {
		t.Errorf("flows left: %v", flows)
	}
}

func send(to string) error {
	c, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("x"))
	return errors.Join(err, c.Close())
}

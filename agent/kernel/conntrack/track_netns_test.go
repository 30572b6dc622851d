//go:build netns

package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/poll"
)

// TestMark lists flows by their addresses and marks some of them.
func TestMark(t *testing.T) {
	ns := nstest.New(t)
	var k *Kernel
	var err error
	ns.Do(t, func() {
		script := `table inet t {
			chain c { type filter hook output priority 0; ct state new ct mark set 0x300; }
			chain d { type nat hook output priority -100;
				udp dport 7000 ip daddr 127.0.0.1 dnat to 127.0.0.2:7100
			}
		}`
		var out []byte
		if out, err = exec.Command("nft", script).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
			return
		}
		for _, a := range []string{"fd00::1", "fd00::2"} {
			err = errors.Join(err, exec.Command("ip", "addr", "add", a+"/128", "dev", "lo", "nodad").Run())
		}
		// The kernel makes the local route of an IPv6 address on its own time, even without duplicate
		// address detection; until then what is sent there is refused behind the back of the sender.
		poll.Until(t, time.Minute, "local routes", func() error {
			for _, a := range []string{"fd00::1", "fd00::2"} {
				out, err := exec.Command("ip", "-6", "route", "get", a).CombinedOutput()
				if err != nil || !strings.HasPrefix(string(out), "local ") {
					return fmt.Errorf("%s: %w: %s", a, err, out)
				}
			}
			return nil
		})
		var fault error
		k, fault = New()
		err = errors.Join(err, fault)
		for _, to := range []string{"127.0.0.1:7000", "127.0.0.3:7001", "127.0.0.4:7002", "[fd00::1]:7000", "[fd00::2]:7001"} {
			err = errors.Join(err, send(to))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	list := func(addrs ...string) (flows []Tracked, to []string) {
		t.Helper()
		var of []netip.Addr
		for _, a := range addrs {
			of = append(of, netip.MustParseAddr(a))
		}
		err := k.Visit(t.Context(), of, func(all []Tracked) error {
			for _, f := range all {
				if f.Original.Protocol == state.ProtoUDP {
					flows, to = append(flows, f), append(to, fmt.Sprintf("%s %#x", f.Original.Dst, f.Mark))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(to)
		return flows, to
	}
	expect := func(have []string, want ...string) {
		t.Helper()
		if !slices.Equal(have, want) {
			t.Errorf("flows to %q, want %q", have, want)
		}
	}
	everything := []string{"127.0.0.1:7000 0x300", "127.0.0.3:7001 0x300", "127.0.0.4:7002 0x300", "[fd00::1]:7000 0x300", "[fd00::2]:7001 0x300"}
	_, all := list()
	expect(all, everything...)
	_, some := list("fd00::1")
	expect(some, "[fd00::1]:7000 0x300")
	_, some = list("127.0.0.2") // who answers after translation
	expect(some, "127.0.0.1:7000 0x300")
	_, some = list("127.0.0.1", "127.0.0.2") // one of them began it, the other answers: found once
	expect(some, everything[0], everything[1], everything[2])
	_, some = list("127.0.0.3", "fd00::2", "fd00::1")
	expect(some, "127.0.0.3:7001 0x300", "[fd00::1]:7000 0x300", "[fd00::2]:7001 0x300")
	_, some = list("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "fd00::2") // more than the kernel is asked for one by one
	expect(some, "127.0.0.1:7000 0x300", "127.0.0.3:7001 0x300", "127.0.0.4:7002 0x300", "[fd00::2]:7001 0x300")
	flows, _ := list("127.0.0.2", "fd00::2")
	gone, _ := list("127.0.0.4")
	if n, err := k.Delete(t.Context(), Filter{Dst: netip.MustParseAddr("127.0.0.4")}); n != 1 || err != nil {
		t.Fatalf("deleted %d flows: %v", n, err)
	}
	if n, err := k.SetMark(t.Context(), append(flows, gone...), 0x10100, 0x10000); n != 2 || err != nil {
		t.Errorf("marked %d flows: %v", n, err)
	}
	_, all = list()
	expect(all, "127.0.0.1:7000 0x10300", "127.0.0.3:7001 0x300", "[fd00::1]:7000 0x300", "[fd00::2]:7001 0x10300")
	if n, err := k.SetMark(t.Context(), flows, 0, 0x10000); n != 2 || err != nil {
		t.Errorf("unmarked %d flows: %v", n, err)
	}
	_, all = list()
	expect(all, "127.0.0.1:7000 0x300", "127.0.0.3:7001 0x300", "[fd00::1]:7000 0x300", "[fd00::2]:7001 0x300")
}

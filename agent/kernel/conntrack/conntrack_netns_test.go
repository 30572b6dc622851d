//go:build netns

package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
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

// TestDeleteUnanswered has connections that are answered, that are not, and that are translated.
func TestDeleteUnanswered(t *testing.T) {
	ns := nstest.New(t)
	var k *Kernel
	var err error
	begin := func(to netip.AddrPort) {
		family, to16 := unix.AF_INET6, to.Addr().As16()
		var at unix.Sockaddr = &unix.SockaddrInet6{Addr: to16, Port: int(to.Port())}
		if to.Addr().Is4() {
			family, at = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
		}
		fd, fault := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if fault != nil {
			err = errors.Join(err, fault)
			return
		}
		if fault := unix.Connect(fd, at); !errors.Is(fault, unix.EINPROGRESS) {
			err = errors.Join(err, fmt.Errorf("connect to %s: %w", to, fault))
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
	}
	ns.Do(t, func() {
		for _, args := range [][]string{
			{"ip", "link", "add", "out", "arp", "off", "type", "veth", "peer", "lost"}, {"ip", "link", "set", "lost", "up"}, {"ip", "link", "set", "out", "up"},
			{"ip", "addr", "add", "192.0.2.9/24", "dev", "out"}, {"ip", "addr", "add", "fd02::9/64", "dev", "out", "nodad"},
			{"nft", "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; chain d { type nat hook output priority -100; ip daddr 192.0.2.3 dnat ip to 192.0.2.4; }; }"},
		} {
			if out, fault := exec.Command(args[0], args[1:]...).CombinedOutput(); fault != nil {
				err = errors.Join(err, fmt.Errorf("%v: %w: %s", args, fault, out))
			}
		}
		for _, to := range []string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80", "[fd02::1]:80"} {
			begin(netip.MustParseAddrPort(to))
		}
		l, fault := net.Listen("tcp", "127.0.0.1:80")
		if err = errors.Join(err, fault); err != nil {
			return
		}
		c, fault := net.Dial("tcp", l.Addr().String())
		if err = errors.Join(err, fault); err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close(); _ = l.Close() })
		k, err = New()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	var seen []string
	n, err := k.DeleteUnanswered(t.Context(), state.ProtoTCP, func(f Flow) bool {
		seen = append(seen, f.Original.Dst.String())
		return f.Original.Dst.Addr() != netip.MustParseAddr("192.0.2.2")
	})
	slices.Sort(seen)
	if want := []string{"192.0.2.1:80", "192.0.2.2:80", "[fd02::1]:80"}; err != nil || n != 2 || !slices.Equal(seen, want) {
		t.Errorf("deleted %d of %v, error %v; want 2 of %v", n, seen, err, want)
	}
	if n, err := k.DeleteUnanswered(t.Context(), state.ProtoSCTP, func(Flow) bool { return true }); err != nil || n != 0 {
		t.Errorf("deleted %d flows of SCTP, error %v", n, err)
	}
	flows, err := k.List(t.Context())
	if err != nil || len(flows) != 3 {
		t.Errorf("left: %v, error %v; want 3", flows, err)
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

//go:build linux && netns

package flow

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// exchanges of a test; the first few take the ordinary way.
const exchanges = 200

var families = []string{"IPv4", "IPv6"}

// TestWays: TCP and UDP of both families take the fast path once they are established.
func TestWays(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	for i, family := range families {
		for _, network := range []string{"tcp", "udp"} {
			c := l.open(0, 1, network, i)
			before := l.stats()
			for range exchanges {
				exchange(t, c)
			}
			// One packet each way, at least. A first packet of UDP is a request, and the second its reply.
			if took := l.stats().Fast - before.Fast; took < 2*exchanges-4 {
				t.Errorf("%s over %s: %d packets of %d took the fast path", network, family, took, 2*exchanges)
			}
		}
	}
}

// TestHops: the fast path counts as a hop, like the ordinary way.
func TestHops(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	for i, header := range []string{"ip ttl", "ip6 hoplimit"} {
		l.run(l.spaces[1], `nft add table inet hops; nft add counter inet hops other; nft 'add chain inet hops c { type filter hook prerouting priority 0; }'
			nft add rule inet hops c meta l4proto udp `+header+` != 63 counter name other`)
		l.takes("a plain packet", l.open(0, 1, "udp", i))
	}
	if out := l.run(l.spaces[1], "nft list counter inet hops other"); !strings.Contains(out, "packets 0 ") {
		t.Errorf("packets arrived with another hop limit than 63: %s", out)
	}
}

// TestTransfer: much data arrives whole, and the end of the connection reaches connection tracking.
func TestTransfer(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	data := make([]byte, 64<<20)
	for i := range data {
		data[i] = byte(i * 7 >> (i % 5))
	}
	for i, family := range families {
		sum := make(chan [32]byte, 1)
		addr := l.sink(1, i, sum)
		c := l.dial(0, "tcp", addr)
		before := l.stats()
		if _, err := io.Copy(c, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := <-sum; got != sha256.Sum256(data) {
			t.Errorf("over %s other data arrived", family)
		}
		_ = c.Close()
		if took := l.stats().Fast - before.Fast; took < 1000 {
			t.Errorf("over %s %d packets took the fast path", family, took)
		}
		l.eventually("connection tracking to see the end over "+family, func() error {
			for _, f := range l.flows() {
				if f.Original.Dst == addr && !f.Over {
					return fmt.Errorf("it has %s", f)
				}
			}
			return nil
		})
	}
}

// stays sends over a connection and fails when any of it takes the fast path.
func (l *lab) stays(what string, c net.Conn, answered bool) {
	l.Helper()
	before := l.stats()
	for range 10 {
		if answered {
			exchange(l, c)
		} else if _, err := c.Write([]byte("x")); err != nil {
			l.Fatal(err)
		}
	}
	if after := l.stats(); after.Fast != before.Fast {
		l.Errorf("%s: %d packets took the fast path", what, after.Fast-before.Fast)
	}
}

func (l *lab) takes(what string, c net.Conn) {
	l.Helper()
	before := l.stats()
	for range exchanges {
		exchange(l, c)
	}
	if took := l.stats().Fast - before.Fast; took < exchanges {
		l.Errorf("%s: %d packets took the fast path", what, took)
	}
}

// TestMarked: a connection that somebody has marked, as the policy engine does to cut it, takes the
// ordinary way, and the fast path again when the mark is gone.
func TestMarked(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	for i := range families {
		for _, network := range []string{"tcp", "udp"} {
			c := l.open(0, 1, network, i)
			l.takes("before the mark", c)
			l.mark(0x10000)
			l.stays("marked", c, true)
			l.mark(0)
			l.takes("after the mark", c)
		}
	}
}

// TestTranslated: what has an address or port translated takes the ordinary way.
func TestTranslated(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	port := l.echo(1, "udp", 0).Port()
	l.run(l.node, fmt.Sprintf(`nft add table ip t; nft 'add chain ip t c { type nat hook prerouting priority -100; }';
		nft add rule ip t c ip daddr 10.96.0.1 udp dport 53 dnat to %s:%d`, l.pods[1].Addresses[0], port))
	l.stays("translated", l.dial(0, "udp", netip.MustParseAddrPort("10.96.0.1:53")), true)
}

// TestSpoofed: a Pod that sends under another's address, in the middle of that one's connection, does
// not get into the fast path.
func TestSpoofed(t *testing.T) {
	l := newLab(t, 3)
	// As the node's rules do it, so that nobody answers.
	l.run(l.node, "nft insert rule inet track c iifname "+l.pods[2].HostLink+" drop")
	l.apply(l.wanted())
	for i, family := range families {
		genuine := l.open(0, 1, "udp", i)
		l.takes("the real sender", genuine)
		from, to := netip.MustParseAddrPort(genuine.LocalAddr().String()), netip.MustParseAddrPort(genuine.RemoteAddr().String())
		spoofer := l.dialAs(2, from, to)
		before := l.stats()
		l.stays("spoofed over "+family, spoofer, false)
		l.eventually("the spoofed packets to be judged", func() error {
			if n := l.stats().Ordinary - before.Ordinary; n < 10 {
				return fmt.Errorf("%d of 10 were", n)
			}
			return nil
		})
		if after := l.stats(); after.Fast != before.Fast {
			t.Errorf("over %s %d spoofed packets took the fast path", family, after.Fast-before.Fast)
		}
	}
}

// TestLeftAlone: packets that cannot go on at all, or are too large for the Pod, are for the ordinary
// way, which says so to the sender.
func TestLeftAlone(t *testing.T) {
	l := newLab(t, 2)
	w := l.wanted()
	l.apply(w)
	c := l.open(0, 1, "udp", 0)
	l.takes("a plain packet", c)
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	set := func(option, n int) {
		t.Helper()
		var serr error
		if err := errors.Join(raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, option, n) }), serr); err != nil {
			t.Fatal(err)
		}
	}
	set(unix.IP_RECVERR, 1) // tell what ICMP says
	set(unix.IP_TTL, 1)
	before := l.stats()
	l.eventually("the sender to be told", func() error {
		if _, err := c.Write([]byte("x")); errors.Is(err, unix.EHOSTUNREACH) {
			return nil
		}
		return errors.New("nobody has told it")
	})
	if after := l.stats(); after.Fast != before.Fast {
		t.Errorf("%d packets at the end of their time took the fast path", after.Fast-before.Fast)
	}
	set(unix.IP_TTL, 64)
	set(unix.IP_RECVERR, 0)
	for i := range w.Pods {
		w.Pods[i].MTU = 100
	}
	l.apply(w)
	l.takes("a small packet", c)
	before = l.stats()
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	l.eventually("the large packet to be judged", func() error {
		if l.stats().Ordinary == before.Ordinary {
			return errors.New("it was not")
		}
		return nil
	})
}

// TestRenewed: an exchange that goes on is never forgotten by connection tracking, though nearly all of
// it takes the fast path.
func TestRenewed(t *testing.T) {
	l := newLab(t, 2)
	l.run(l.node, `sysctl -qw net.netfilter.nf_conntrack_udp_timeout=4 net.netfilter.nf_conntrack_udp_timeout_stream=4
		nft add table inet t; nft add counter inet t begun; nft 'add chain inet t c { type filter hook forward priority 0; }'
		nft add rule inet t c udp dport 1-65535 ct state new counter name begun`)
	w := l.wanted()
	w.Fresh = state.FlowFresh{UDP: 2 * time.Second, UDPStream: 2 * time.Second}
	l.apply(w)
	c := l.open(0, 1, "udp", 1)
	before := l.stats()
	l.eventually("four renewals", func() error {
		for range 100 {
			exchange(t, c)
		}
		if n := l.stats().Ordinary - before.Ordinary; n < 4 {
			return fmt.Errorf("%d packets have taken the ordinary way", n)
		}
		return nil
	})
	after := l.stats()
	if fast, ordinary := after.Fast-before.Fast, after.Ordinary-before.Ordinary; ordinary*100 > fast {
		t.Errorf("%d packets took the ordinary way, %d the fast path", ordinary, fast)
	}
	if out := l.run(l.node, "nft list counter inet t begun"); !strings.Contains(out, "packets 1 ") {
		t.Errorf("connection tracking has forgotten the exchange meanwhile: %s", out)
	}
}

// TestForget: a Pod that goes is out at once, and what was decided before does not bring it back.
func TestForget(t *testing.T) {
	l := newLab(t, 2)
	w := l.wanted()
	l.apply(w)
	c := l.open(0, 1, "tcp", 0)
	l.takes("at first", c)
	if err := l.kernel.Forget(l.pods[1]); err != nil {
		t.Fatal(err)
	}
	l.stays("forgotten", c, true)
	l.apply(w)
	l.stays("forgotten, and wanted from before", c, true)
	if got := l.kernel.pods; len(got) != 2 || got[0].Link != l.pods[0].HostLink {
		t.Errorf("inside are %v", got)
	}
	l.apply(l.wanted()) // after another look
	l.takes("back", c)
}

// TestRestart: the next agent finds the program at work, takes it away, and puts its own there.
func TestRestart(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	c := l.open(0, 1, "tcp", 1)
	l.takes("at first", c)
	old := l.kernel
	l.takes("while nobody looks after it", c)
	l.kernel = l.newKernel()
	before, err := old.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.kernel.Clear(); err != nil {
		t.Fatal(err)
	}
	for range exchanges {
		exchange(t, c)
	}
	if after, err := old.Stats(); err != nil || after.Fast != before.Fast {
		t.Errorf("after the clearing %d packets took the fast path, %v", after.Fast-before.Fast, err)
	}
	l.hasNoProgram(l.pods)
	l.apply(l.wanted())
	l.takes("of the next agent", c)
	l.apply(l.wanted()) // once more, for nothing
	l.takes("of the next agent", c)
}

// TestOthersTrafficControl: where somebody else queues or filters, the fast path keeps out.
func TestOthersTrafficControl(t *testing.T) {
	l := newLab(t, 4)
	l.apply(l.wanted())
	l.run(l.node, "tc qdisc add dev "+l.pods[0].HostLink+" root tbf rate 1gbit burst 1mb latency 10ms")
	l.run(l.node, "tc filter add dev "+l.pods[1].HostLink+" ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1")
	l.run(l.node, "tc filter add dev "+l.pods[3].HostLink+" egress protocol ip prio 1 u32 match u32 0 0 flowid 1:1")
	links, err := l.kernel.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	queued := map[string]bool{}
	for _, k := range links {
		queued[k.Name] = k.Queued
	}
	for i, want := range []bool{true, true, false, true} {
		if queued[l.pods[i].HostLink] != want {
			t.Errorf("pod %d: found that somebody else is there: %t", i, !want)
		}
	}
	w := l.wanted()
	if len(w.Links) != 1 || len(w.Pods) != 2 {
		t.Errorf("wanted %v", w)
	}
	l.apply(w)
	l.hasNoProgram([]state.Attachment{l.pods[0], l.pods[1], l.pods[3]})
	for i, h := range map[int]hook{1: entry, 3: exit} {
		if out := l.filters(l.pods[i], h); !strings.Contains(out, "u32") {
			t.Errorf("left: %s", out)
		}
	}
}

// TestGone: links that go while they are worked on are no failure.
func TestGone(t *testing.T) {
	l := newLab(t, 3)
	w := l.wanted()
	l.apply(w)
	l.run(l.node, "ip link del "+l.pods[1].HostLink)
	l.apply(w)
	w = l.wanted()
	if len(w.Links) != 2 {
		t.Errorf("wanted %v", w)
	}
	l.apply(w)
	if got := l.stats().Pods; got != 4 {
		t.Errorf("%d addresses inside, want 4", got)
	}
	l.apply(Wanted{})
	l.hasNoProgram([]state.Attachment{l.pods[0], l.pods[2]})
}

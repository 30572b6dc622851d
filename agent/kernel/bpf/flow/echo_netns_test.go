//go:build linux && netns

package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// identifier of the tests' echoes, where any will do.
const identifier = 4711

// pinger sends echo requests under one identifier.
type pinger struct {
	l              *lab
	socket         net.PacketConn
	to             net.Addr
	request, reply byte
	id, number     uint16
}

// pinger opens one in a Pod, at an address of its own.
func (l *lab) pinger(i int, from, to netip.Addr, id uint16) *pinger {
	l.Helper()
	p := &pinger{l: l, to: &net.IPAddr{IP: to.AsSlice()}, request: 8, id: id}
	network := "ip4:icmp"
	if to.Is6() {
		network, p.request, p.reply = "ip6:ipv6-icmp", 128, 129
	}
	p.socket = within(l, i, func() (net.PacketConn, error) { return net.ListenPacket(network, from.String()) })
	return p
}

// send sends a request with so many bytes after the header.
func (p *pinger) send(size int) {
	p.l.Helper()
	p.number++
	packet := make([]byte, 8+size)
	packet[0] = p.request
	binary.BigEndian.PutUint16(packet[4:], p.id)
	binary.BigEndian.PutUint16(packet[6:], p.number)
	// The rest is zero; for ICMPv6 the kernel makes the sum.
	sum := uint32(p.request)<<8 + uint32(p.id) + uint32(p.number)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(packet[2:], ^uint16(sum))
	if _, err := p.socket.WriteTo(packet, p.to); err != nil {
		p.l.Fatal(err)
	}
}

var errNoReply = errors.New("no reply")

// wait waits for the reply to the last request.
func (p *pinger) wait(patience time.Duration) error {
	_ = p.socket.SetReadDeadline(time.Now().Add(patience))
	var b [4096]byte
	for {
		n, _, err := p.socket.ReadFrom(b[:])
		if err != nil {
			return errNoReply
		}
		if n >= 8 && b[0] == p.reply && binary.BigEndian.Uint16(b[4:]) == p.id && binary.BigEndian.Uint16(b[6:]) == p.number {
			return nil
		}
	}
}

// echoes sends some one after the other, all of which have to be answered, and tells how many packets took which way.
func (p *pinger) echoes(n, size int) (fast, ordinary uint64) {
	p.l.Helper()
	before := p.l.stats()
	for range n {
		p.send(size)
		if err := p.wait(patience); err != nil {
			p.l.Fatalf("%d bytes to %s: %v", size, p.to, err)
		}
	}
	after := p.l.stats()
	return after.Fast - before.Fast, after.Ordinary - before.Ordinary
}

// first fails unless the next echo and its reply take the ordinary way.
func (p *pinger) first(what string) {
	p.l.Helper()
	if fast, ordinary := p.echoes(1, 0); fast != 0 || ordinary != 2 {
		p.l.Errorf("%s: of the first echo and its reply %d packets took the fast path and %d the ordinary way", what, fast, ordinary)
	}
}

// take fails unless all echoes take the fast path, where a note lasts for longer than they do.
func (p *pinger) take(what string) {
	p.l.Helper()
	if fast, ordinary := p.echoes(20, 0); fast != 40 || ordinary != 0 {
		p.l.Errorf("%s: %d packets of 40 took the fast path, %d the ordinary way", what, fast, ordinary)
	}
}

// stay fails when any echo takes the fast path.
func (p *pinger) stay(what string) {
	p.l.Helper()
	if fast, ordinary := p.echoes(10, 0); fast != 0 || ordinary != 20 {
		p.l.Errorf("%s: %d packets took the fast path, %d the ordinary way", what, fast, ordinary)
	}
}

// unanswered fails when an echo is answered, or takes the fast path.
func (p *pinger) unanswered(what string) {
	p.l.Helper()
	before := p.l.stats()
	p.send(0)
	if err := p.wait(300 * time.Millisecond); err == nil {
		p.l.Errorf("%s: it is answered", what)
	}
	if after := p.l.stats(); after.Fast != before.Fast {
		p.l.Errorf("%s: %d packets took the fast path", what, after.Fast-before.Fast)
	}
}

// between is a pinger from the first Pod to the second.
func (l *lab) between(family int, id uint16) *pinger {
	l.Helper()
	return l.pinger(0, l.pods[0].Addresses[family], l.pods[1].Addresses[family], id)
}

// echoLab is a lab whose notes last for longer than any test.
func echoLab(t *testing.T, pods int) (*lab, Wanted) {
	t.Helper()
	l := newLab(t, pods)
	l.run(l.node, "sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=100000 net.netfilter.nf_conntrack_icmpv6_timeout=100000")
	w := l.wanted()
	w.Fresh.Echo = time.Hour
	l.apply(w)
	return l, w
}

// notes are those in the table.
func (l *lab) notes() (n int) {
	l.Helper()
	var key, value []byte
	all := l.kernel.objects.Maps["echoes"].Iterate()
	for all.Next(&key, &value) {
		n++
	}
	if err := all.Err(); err != nil {
		l.Fatal(err)
	}
	return n
}

// icmp is the name of a family's protocol in rules.
var icmp = []string{"icmp", "ipv6-icmp"}

// drop drops the echoes of a family in the rules.
func (l *lab) drop(family int) {
	l.Helper()
	l.run(l.node, "nft insert rule inet track c meta l4proto "+icmp[family]+" drop")
}

// TestEchoes: an echo and its reply pass the rules first, and those after them take the fast path, as a hop.
func TestEchoes(t *testing.T) {
	l, _ := echoLab(t, 2)
	for i, header := range []string{"ip ttl", "ip6 hoplimit"} {
		l.run(l.spaces[1], `nft add table inet hops; nft add counter inet hops other; nft 'add chain inet hops c { type filter hook prerouting priority 0; }'
			nft add rule inet hops c `+[]string{"icmp", "icmpv6"}[i]+` type echo-request `+header+` != 63 counter name other`)
		p := l.between(i, identifier)
		p.first(families[i])
		p.take(families[i])
		l.between(i, identifier+1).first(families[i] + ", another identifier")
		l.pinger(1, l.pods[1].Addresses[i], l.pods[0].Addresses[i], identifier).first(families[i] + ", from the other Pod")
	}
	if out := l.run(l.spaces[1], "nft list counter inet hops other"); !strings.Contains(out, "packets 0 ") {
		t.Errorf("echoes arrived with another hop limit than 63: %s", out)
	}
}

// TestEchoSizes: echoes as large as the MTU take the fast path, larger ones come in fragments, on the ordinary way.
func TestEchoSizes(t *testing.T) {
	l, _ := echoLab(t, 2)
	for i, header := range []int{20, 40} {
		p := l.between(i, identifier)
		p.first(families[i])
		most := l.pods[1].MTU - header - 8
		if fast, _ := p.echoes(10, most); fast != 20 {
			t.Errorf("%s: %d packets of 20 as large as the MTU took the fast path", families[i], fast)
		}
		if fast, _ := p.echoes(10, most+1); fast != 0 {
			t.Errorf("%s: %d fragments took the fast path", families[i], fast)
		}
	}
}

// TestEchoesDenied: of what the rules drop there is no note, in either direction.
func TestEchoesDenied(t *testing.T) {
	l, _ := echoLab(t, 2)
	for i := range families {
		l.drop(i)
		l.between(i, identifier).unanswered(families[i])
		l.run(l.node, "nft flush chain inet track c; nft add rule inet track c ct state invalid drop")
	}
	if n := l.notes(); n != 0 {
		t.Errorf("%d notes of what was denied", n)
	}
	l.run(l.node, "nft insert rule inet track c icmp type echo-reply drop; nft insert rule inet track c icmpv6 type echo-reply drop")
	for i := range families {
		p := l.between(i, identifier)
		p.send(0)
		l.eventually("the request to be noted", func() error {
			if n := l.notes(); n != i+1 {
				return fmt.Errorf("there are %d notes", n)
			}
			return nil
		})
		before := l.stats()
		p.send(0)
		if err := p.wait(300 * time.Millisecond); err == nil {
			t.Errorf("%s: a reply that is denied arrived", families[i])
		}
		if after := l.stats(); after.Fast-before.Fast != 1 || after.Ordinary-before.Ordinary != 1 {
			t.Errorf("%s: %d packets took the fast path, %d the ordinary way", families[i], after.Fast-before.Fast, after.Ordinary-before.Ordinary)
		}
	}
}

// TestEchoesVoided: rules that have come are asked as soon as the notes are void.
func TestEchoesVoided(t *testing.T) {
	l, _ := echoLab(t, 2)
	for i := range families {
		p := l.between(i, identifier)
		p.first(families[i])
		l.drop(i)
		p.take("before the notes are void")
		if err := l.kernel.VoidEchoes(); err != nil {
			t.Fatal(err)
		}
		p.unanswered("void")
		l.run(l.node, "nft flush chain inet track c; nft add rule inet track c ct state invalid drop")
		p.first("allowed again")
		p.take("allowed again")
	}
}

// TestNoteEnds: a note ends by itself, however often it is used.
func TestNoteEnds(t *testing.T) {
	l := newLab(t, 2)
	l.apply(l.wanted())
	for i := range families {
		p := l.between(i, identifier)
		p.echoes(1, 0)
		l.drop(i)
		began := time.Now()
		l.eventually("the rules to be asked again", func() error {
			p.send(0)
			if p.wait(300*time.Millisecond) == nil {
				return errors.New("it is answered")
			}
			return nil
		})
		t.Logf("%s: after %s", families[i], time.Since(began))
		p.unanswered("once ended")
	}
}

// TestShortEntries: where connection tracking forgets echoes quickly, all take the ordinary way, and so they do where none may.
func TestShortEntries(t *testing.T) {
	l, w := echoLab(t, 2)
	l.run(l.node, "sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=7199 net.netfilter.nf_conntrack_icmpv6_timeout=7199")
	for i := range families {
		l.between(i, identifier).stay("entries of less than two hours")
	}
	l.run(l.node, "sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=7201 net.netfilter.nf_conntrack_icmpv6_timeout=7201")
	for i := range families {
		p := l.between(i, identifier+1)
		p.first("entries of two hours")
		p.take("entries of two hours")
	}
	w.Fresh.Echo = 0
	l.apply(w)
	for i := range families {
		l.between(i, identifier+1).stay("none may")
	}
}

// TestEchoesMarked: what somebody has marked, the connection or the packet, is not noted.
func TestEchoesMarked(t *testing.T) {
	l, _ := echoLab(t, 2)
	void := func() {
		t.Helper()
		if err := l.kernel.VoidEchoes(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range families {
		p := l.between(i, identifier)
		p.first("before the mark")
		l.mark(0x10000)
		void()
		p.stay("marked")
		l.mark(0)
		p.first("after the mark")
		p.take("after the mark")
		l.run(l.node, "nft insert rule inet track c meta l4proto "+icmp[i]+" meta mark set 1")
		void()
		p.stay("packets marked")
	}
}

// TestEchoesTranslated: nothing translated is noted, nor what is not tracked.
func TestEchoesTranslated(t *testing.T) {
	l, _ := echoLab(t, 2)
	l.run(l.node, `nft add table inet t; nft 'add chain inet t c { type nat hook prerouting priority -100; }'
		nft 'add chain inet t raw { type filter hook prerouting priority -300; }'`)
	for i, service := range []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:96::1")} {
		family := []string{"ip", "ip6"}[i]
		l.run(l.node, fmt.Sprintf("nft add rule inet t c %s daddr %s dnat %s to %s", family, service, family, l.pods[1].Addresses[i]))
		before := l.stats()
		p := l.pinger(0, l.pods[0].Addresses[i], service, identifier)
		p.echoes(10, 0)
		if after := l.stats(); after.Fast != before.Fast {
			t.Errorf("%s: %d translated packets took the fast path", families[i], after.Fast-before.Fast)
		}
		l.run(l.node, fmt.Sprintf("nft add rule inet t raw meta l4proto %s notrack", icmp[i]))
		l.between(i, identifier+1).stay("not tracked")
	}
	if n := l.notes(); n != 0 {
		t.Errorf("%d notes of what was translated or not tracked", n)
	}
}

// TestEchoesRewritten: what somebody's rule gives another address, past connection tracking, is not noted under it.
func TestEchoesRewritten(t *testing.T) {
	l, _ := echoLab(t, 2)
	l.run(l.node, `nft add table inet t; nft 'add chain inet t c { type filter hook prerouting priority mangle; }'`)
	for i, service := range []netip.Addr{netip.MustParseAddr("10.96.0.9"), netip.MustParseAddr("fd00:96::9")} {
		family := []string{"ip", "ip6"}[i]
		to := l.pods[1].Addresses[i]
		l.run(l.node, fmt.Sprintf("nft add rule inet t c %s daddr %s counter %s daddr set %s", family, service, family, to))
		l.pinger(0, l.pods[0].Addresses[i], service, identifier).send(0)
		genuine := l.between(i, identifier+1)
		genuine.first(families[i])
		genuine.take(families[i])
		if n := l.notes(); n != 2*(i+1) {
			t.Errorf("%s: there are %d notes, want those of the echoes that nobody rewrote", families[i], n)
		}
	}
}

// TestEchoesInAZone: entries of zones cannot be told apart by what a note has.
func TestEchoesInAZone(t *testing.T) {
	l, _ := echoLab(t, 2)
	l.run(l.node, "nft add table inet t; nft 'add chain inet t raw { type filter hook prerouting priority -300; }'; nft add rule inet t raw ct zone set 7")
	for i := range families {
		l.between(i, identifier).stay(families[i] + " in a zone")
	}
}

// TestEchoesSpoofed: another Pod's note is of no use, and none is made under another's address.
func TestEchoesSpoofed(t *testing.T) {
	l, _ := echoLab(t, 3)
	for i := range families {
		genuine := l.between(i, identifier)
		genuine.first(families[i])
		genuine.take(families[i])
		from := l.pods[0].Addresses[i]
		l.run(l.spaces[2], fmt.Sprintf("ip addr add %s/%d dev lo %s", from, from.BitLen(), []string{"", "nodad"}[i]))
		p := l.pinger(2, from, l.pods[1].Addresses[i], identifier)
		before := l.stats()
		const sent = 10
		for range sent {
			p.send(0)
		}
		// Their replies go to the real one, on the fast path.
		l.eventually("the spoofed echoes to be judged", func() error {
			if n := l.stats().Ordinary - before.Ordinary; n != sent {
				return fmt.Errorf("%d of %d were", n, sent)
			}
			return nil
		})
		notes := l.notes()
		l.pinger(2, from, l.pods[1].Addresses[i], identifier+1).send(0)
		l.eventually("the reply to be noted", func() error {
			if n := l.notes() - notes; n != 1 {
				return fmt.Errorf("there are %d new notes", n)
			}
			return nil
		})
		if fast, ordinary := l.between(i, identifier+1).echoes(1, 0); fast != 1 || ordinary != 1 {
			t.Errorf("%s: after a spoofed request %d packets took the fast path, %d the ordinary way", families[i], fast, ordinary)
		}
	}
}

// TestEchoesForgotten: what was noted of a Pod that is gone does not count for whoever has its address next.
func TestEchoesForgotten(t *testing.T) {
	l, w := echoLab(t, 2)
	without := w
	without.Pods = nil
	for _, p := range w.Pods {
		if p.Link != l.pods[1].HostLink {
			without.Pods = append(without.Pods, p)
		}
	}
	for i := range families {
		p := l.between(i, identifier)
		p.first("at first")
		p.take("at first")
		if err := l.kernel.Forget(l.pods[1]); err != nil {
			t.Fatal(err)
		}
		l.wanted() // looks at the links
		l.apply(w)
		p.first("forgotten and back")
		p.take("forgotten and back")
		l.apply(without)
		l.apply(w)
		p.first("left out and back")
		p.take("left out and back")
	}
}

// TestEchoesRestart: the next agent's notes are its own.
func TestEchoesRestart(t *testing.T) {
	l, w := echoLab(t, 2)
	p := l.between(0, identifier)
	p.first("at first")
	p.take("at first")
	for range 2 { // once with Clear, once in place of the program of before
		l.kernel = l.newKernel()
		l.wanted()
		l.apply(w)
		p.first("the next agent")
		p.take("the next agent")
		if err := l.kernel.Clear(); err != nil {
			t.Fatal(err)
		}
		l.hasNoProgram(l.pods)
	}
}

// TestEchoesWithout: a link that has a place for one program only, and a kernel that does not take the other one, have
// the fast path of connections.
func TestEchoesWithout(t *testing.T) {
	l := newLab(t, 2)
	for _, p := range l.pods {
		l.run(l.node, "tc qdisc del dev "+p.HostLink+" clsact; tc qdisc add dev "+p.HostLink+" ingress")
	}
	l.apply(l.wanted())
	l.takes("with one place", l.open(0, 1, "udp", 0))
	l.between(0, identifier).stay("with one place")
	if err := l.kernel.Clear(); err != nil {
		t.Fatal(err)
	}
	for _, p := range l.pods {
		if out := l.filters(p, entry); strings.Contains(out, filterName) {
			t.Errorf("left behind: %s", out)
		}
		l.run(l.node, "tc qdisc del dev "+p.HostLink+" ingress; tc qdisc add dev "+p.HostLink+" clsact")
	}
	l.kernel = l.newKernel()
	var err error
	if l.kernel.objects, err = loadOf(programName); err != nil {
		t.Fatal(err)
	}
	l.apply(l.wanted())
	l.takes("without the program", l.open(0, 1, "udp", 0))
	l.between(0, identifier).stay("without the program")
}

//go:build netns

package audit

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

const bridge, sender, receiver = "br0", "host1", "host2"

// underlay is a bridge with two hosts, all in one namespace.
func underlay() error {
	snooping := false // or the bridge drops the test's packets for their checksums
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(br); err != nil {
		return err
	}
	links := []string{bridge}
	for _, host := range []string{sender, receiver} {
		port := "port-" + host
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: br.Index}, PeerName: host}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		links = append(links, port, host)
	}
	for _, name := range links {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

func inject(packets ...[]byte) error {
	iface, err := net.InterfaceByName(sender)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, p := range packets {
		if err := unix.Sendto(fd, p, 0, &unix.SockaddrLinklayer{Ifindex: iface.Index}); err != nil {
			return err
		}
	}
	return nil
}

// session runs an audit over what happens during f.
func session(t *testing.T, probes []Probe, f func(*Audit) error) (report Report, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ns := nstest.New(t)
	ns.Do(t, func() {
		if err = underlay(); err != nil {
			return
		}
		err = proc.Poll(ctx, time.Millisecond, func() (bool, error) {
			iface, err := net.InterfaceByName(sender)
			return err == nil && iface.Flags&net.FlagRunning != 0, err
		})
		if err != nil {
			return
		}
		var a *Audit
		if a, err = Start(ctx, Config{Link: bridge, Prefixes: pods, Probes: func() []Probe { return probes }}); err != nil {
			return
		}
		if err = f(a); err != nil {
			return
		}
		report, err = a.Stop(ctx)
	})
	return report, err
}

var fromSender = []Probe{{Link: sender}}

func TestCleanUnderlay(t *testing.T) {
	wg := frame(ip(nodes[0], nodes[1], protoUDP, udp(51820, 51820, []byte{4, 0, 0, 0, 0, 0, 0, 0})))
	report, err := session(t, fromSender, func(a *Audit) error {
		if err := inject(wg, wg, wg); err != nil {
			return err
		}
		return awaitReport(t, a, func(r Report) bool { return r.WireGuard["data"] == 3 })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		t.Errorf("a clean underlay: %v", err)
	}
	if report.Wanted != 4 || report.Proofs != 4 {
		t.Errorf("own packets: %d of %d, want 4 of 4", report.Proofs, report.Wanted)
	}
}

func TestClearPacketsAreFound(t *testing.T) {
	packets := [][]byte{
		frame(ip(pod4, nodes[1], protoTCP, udp(1, 2, nil))),
		frame(ip(nodes[2], pod6, protoUDP, udp(1, 2, nil))),
		arp(nodes[0], pod4),
	}
	report, err := session(t, fromSender, func(a *Audit) error {
		if err := inject(packets...); err != nil {
			return err
		}
		return awaitReport(t, a, func(r Report) bool { return r.LeakedPackets == 3 })
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Err() == nil || report.Valid() != nil {
		t.Errorf("err %v, valid %v", report.Err(), report.Valid())
	}
}

func TestEveryFrameIsCounted(t *testing.T) {
	const count = 50000
	one := frame(ip(nodes[0], nodes[1], protoUDP, append(udp(51820, 51820, []byte{4, 0, 0, 0}), make([]byte, 1400)...)))
	burst := make([][]byte, count)
	for i := range burst {
		burst[i] = one
	}
	report, err := session(t, fromSender, func(a *Audit) error {
		if err := inject(burst...); err != nil {
			return err
		}
		return awaitReport(t, a, func(r Report) bool { return r.WireGuard["data"] == count || r.Dropped > 0 })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if want := uint64(count * len(one)); report.Bytes < want {
		t.Errorf("%d bytes, want at least %d", report.Bytes, want)
	}
}

func TestWithoutProofThereIsNoAudit(t *testing.T) {
	_, err := session(t, nil, func(*Audit) error { return nil })
	if err == nil {
		t.Fatal("an audit that cannot prove itself has started")
	}
}

func TestLostBridgeMakesTheAuditInvalid(t *testing.T) {
	report, err := session(t, fromSender, func(a *Audit) error {
		link, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
		return awaitReport(t, a, func(r Report) bool { return len(r.Faults) > 0 })
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Valid() == nil {
		t.Error("valid without a bridge")
	}
}

func awaitReport(t *testing.T, a *Audit, good func(Report) bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := proc.Poll(ctx, time.Millisecond, func() (bool, error) { return good(a.Report()), nil }); err != nil {
		return fmt.Errorf("%w with %+v", err, a.Report())
	}
	return nil
}

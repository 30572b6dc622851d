//go:build netns

package steady

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/poll"
)

// pair makes two namespaces with a link between them, called eth0 on both sides.
func pair(t *testing.T) (from, to *nstest.Namespace, target netip.AddrPort) {
	t.Helper()
	from, to = nstest.New(t), nstest.New(t)
	var err error
	from.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(to.Fd())})
	})
	if err != nil {
		t.Fatal(err)
	}
	for ns, address := range map[*nstest.Namespace]string{from: "192.0.2.1/24", to: "192.0.2.2/24"} {
		setLink(t, ns, func(link netlink.Link) error {
			parsed, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(link, parsed); err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		})
	}
	return from, to, netip.MustParseAddrPort("192.0.2.2:7000")
}

func setLink(t *testing.T, ns *nstest.Namespace, set func(netlink.Link) error) {
	t.Helper()
	var err error
	ns.Do(t, func() {
		var link netlink.Link
		if link, err = netlink.LinkByName("eth0"); err == nil {
			err = set(link)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAllArrive(t *testing.T) {
	from, to, target := pair(t)
	begin := time.Now()
	f := Start(t, from, to, target, 1000, 1500)
	if lost, which := f.Lost(); lost != 0 || f.Arrived() != 1500 {
		t.Errorf("%d arrived, %d lost: %s", f.Arrived(), lost, which)
	}
	if took := time.Since(begin); took < 1400*time.Millisecond {
		t.Errorf("1,500 packets at 1,000 a second took %s", took)
	}
}

// TestACutIsTold: what is sent while the link is down is lost, what comes after it arrives, and the reason is told.
func TestACutIsTold(t *testing.T) {
	from, to, target := pair(t)
	const packets = 5000
	f := Start(t, from, to, target, 1000, packets)
	reach := func(what string, counter func() int, n int) {
		t.Helper()
		poll.Until(t, time.Minute, fmt.Sprintf("%d packets %s", n, what), func() error {
			if got := counter(); got < n {
				return fmt.Errorf("%d %s", got, what)
			}
			return nil
		})
	}
	reach("arrive", f.Arrived, 200)
	setLink(t, from, netlink.LinkSetDown)
	reach("are refused", func() int { return int(f.unsent.Load()) }, 100)
	before := f.Arrived()
	setLink(t, from, netlink.LinkSetUp)
	reach("arrive", f.Arrived, before+200)
	lost, which := f.Lost()
	if lost == 0 || lost+f.Arrived() != packets || !strings.Contains(which, "unreachable") {
		t.Errorf("%d of %d arrived, %d lost: %s", f.Arrived(), packets, lost, which)
	}
}

//go:build netns

package route

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// namespace is a Kernel in a network namespace of its own, with links.
type namespace struct {
	*Kernel
	t  *testing.T
	ns *nstest.Namespace
}

func newNamespace(t *testing.T) namespace {
	t.Helper()
	n := namespace{t: t, ns: nstest.New(t)}
	var err error
	n.ns.Do(t, func() { n.Kernel, err = New() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	n.ip("link add weft0 type veth peer name weft1")
	for _, l := range []string{"weft0", "weft1"} {
		n.ip("link set " + l + " up")
	}
	n.ip("addr add 10.244.1.1/32 dev weft0 noprefixroute")
	n.ip("addr add fd00:10:244:1::1/128 dev weft0 nodad noprefixroute")
	// Link routes for the gateways of one sample.
	n.ip("route add 10.244.1.254/32 dev weft0")
	n.ip("route add fd00:10:244:1::fe/128 dev weft0")
	return n
}

func (n namespace) ip(args string) string {
	n.t.Helper()
	var out []byte
	var err error
	n.ns.Do(n.t, func() { out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput() })
	if err != nil {
		n.t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
	return string(out)
}

func flag(r string, is6 bool) string {
	if is6 {
		return "-6 " + r
	}
	return r
}

func (n namespace) host() host {
	return host{
		Table: n,
		addForeign: func(r state.Route) {
			text := strings.Replace(r.String(), "proto 87", "proto static", 1)
			n.ip(flag("route add "+text, r.Dst.Addr().Is6()))
		},
		remove: func(routes []state.Route, rules []state.Rule) {
			for _, r := range routes {
				n.ip(flag("route del "+r.String(), r.Dst.Addr().Is6()))
			}
			for _, r := range rules {
				n.ip(flag("rule del priority "+strings.Replace(r.String(), ":", "", 1), r.Normalized().Family == state.IPv6))
			}
		},
	}
}

func TestKernelContract(t *testing.T) {
	contract(t, func(t *testing.T) host { return newNamespace(t).host() })
}

// TestPrintsAsIP compares what ip lists with what the model prints.
func TestPrintsAsIP(t *testing.T) {
	n, want := newNamespace(t), samples()["moved"]
	if _, err := n.Ensure(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	listing := n.ip("route show table all proto 87") + n.ip("-6 route show table all proto 87")
	for _, r := range want.Routes {
		var words []string
		for _, w := range strings.Fields(r.String()) {
			if w = strings.TrimSuffix(w, "/32"); w != "" {
				words = append(words, strings.TrimSuffix(w, "/128"))
			}
		}
		found := false
		for line := range strings.Lines(listing) {
			all := true
			have := strings.Fields(line)
			for _, w := range words {
				all = all && (contains(have, w) || w == "proto" || w == "87")
			}
			found = found || all
		}
		if !found {
			t.Errorf("no line with the words of %q in\n%s", r, listing)
		}
	}
}

func contains(words []string, w string) bool {
	for _, x := range words {
		if x == w {
			return true
		}
	}
	return false
}

// TestForeignIsNotListed has strangers' routes and rules all around ours.
func TestForeignIsNotListed(t *testing.T) {
	n, want := newNamespace(t), samples()["a peer"]
	n.ip("route add 203.0.113.0/24 dev weft0")
	n.ip("route add 10.244.2.0/24 dev weft0 metric 50")
	n.ip("route add unreachable 203.0.114.0/24 proto 88 table 87")
	n.ip("rule add priority 8699 from 10.0.0.0/8 lookup 87")
	n.ip("-6 rule add priority 8800 from fd00::/8 lookup 87")
	foreign := func() string {
		var out []string
		for line := range strings.Lines(n.ip("route show table all") + n.ip("-6 route show table all") + n.ip("rule") + n.ip("-6 rule")) {
			if !strings.Contains(line, "proto 87") && !strings.HasPrefix(line, "87") || strings.HasPrefix(line, "8800") {
				out = append(out, line)
			}
		}
		return strings.Join(out, "")
	}
	before := foreign()
	check(t, n.host(), "a peer", want)
	check(t, n.host(), "moved", samples()["moved"])
	if err := n.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := foreign(); got != before {
		t.Errorf("strangers' routes and rules are\n%s\nwere\n%s", got, before)
	}
	if left := n.ip("route show table all proto 87") + n.ip("-6 route show table all proto 87"); left != "" {
		t.Errorf("after cleanup there is still\n%s", left)
	}
}

// TestStrayRulesAreDeleted puts rules within our priorities that we would not write.
func TestStrayRulesAreDeleted(t *testing.T) {
	n, want := newNamespace(t), samples()["a peer"]
	for _, rule := range []string{
		"rule add priority 8710 fwmark 7 lookup 87", "-6 rule add priority 8711 fwmark 0x7/0xff lookup 87", "rule add priority 8712 from 10.0.0.0/8 blackhole",
		"rule add priority 8713 not from 10.0.0.0/8 lookup 87", "rule add priority 8714 from all lookup 87 suppress_prefixlength 0",
		"rule add priority 8715 oif weft0 lookup 87", "rule add priority 8716 from 10.0.0.0/8 lookup 87",
	} {
		n.ip(rule)
		c := check(t, n.host(), rule, want)
		if len(c.DeleteStrays)+len(c.DeleteRules) != 1 {
			t.Errorf("%s: change is\n%s", rule, c)
		}
		have, err := n.Observe(t.Context())
		if err != nil || len(have.Strays) != 0 {
			t.Errorf("%s: strays left: %v, error %v", rule, have.Strays, err)
		}
	}
}

// TestSubscribe waits for news of strangers' changes of ours, and of no others.
func TestSubscribe(t *testing.T) {
	n, want := newNamespace(t), samples()["a peer"]
	events, err := n.Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wait := func(what string) {
		t.Helper()
		select {
		case <-events:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no event within 10 s", what)
		}
	}
	n.ip("route add 203.0.113.0/24 dev weft0")
	n.ip("rule add priority 8699 lookup 87")
	check(t, n.host(), "a peer", want)
	select {
	case <-events:
		t.Error("an event without a stranger's change of ours")
	default: // whatever comes later is told of by the next wait, and does no harm
	}
	for _, r := range want.Routes {
		n.host().remove([]state.Route{r}, nil)
		wait(r.String())
		check(t, n.host(), "a peer", want)
	}
	for _, r := range want.Rules {
		n.host().remove(nil, []state.Rule{r})
		wait(r.String())
		check(t, n.host(), "a peer", want)
	}
	n.ip("rule add priority 8750 lookup 87")
	wait("stray rule")
}

// TestObserveBesideNewLinks lists while links come with their routes, as Pods do, and go: no route of ours is
// seen without its link, since the difference would delete it as nobody's.
func TestObserveBesideNewLinks(t *testing.T) {
	n := newNamespace(t)
	var h *netlink.Handle
	var err error
	n.ns.Do(t, func() { h, err = netlink.NewHandle(unix.NETLINK_ROUTE) })
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	done := make(chan error, 1)
	var looked atomic.Int64
	// Every other link stays until somebody has looked: on a busy machine the routes of one that goes at once are there between
	// two looks, and all looks would see nothing.
	stay := func() {
		for begin := looked.Load(); looked.Load() < begin+2 && t.Context().Err() == nil; {
			runtime.Gosched()
		}
	}
	go func() {
		for i := range 100 {
			meanwhile := func() {}
			if i%2 == 0 {
				meanwhile = stay
			}
			if err := comeAndGo(h, fmt.Sprintf("weftp%d", i), meanwhile); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for looks, seen := 0, 0; ; looks++ {
		looked.Add(1)
		have, err := n.Observe(t.Context())
		if err != nil && !errors.Is(err, wire.ErrInterrupted) && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		for _, r := range have.Routes {
			if r.Dev == "" {
				t.Fatalf("look %d: %s has no link", looks, r)
			}
			seen++
		}
		select {
		case err := <-done:
			if err != nil || seen == 0 {
				t.Fatalf("%d routes seen in %d looks: %v", seen, looks, err)
			}
			return
		default:
		}
	}
}

// comeAndGo makes a link with a route of each family over it, and deletes it after what is done meanwhile.
func comeAndGo(h *netlink.Handle, name string, meanwhile func()) error {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "far"}
	errs := []error{h.LinkAdd(link), h.LinkSetUp(link)}
	for _, dst := range []string{"10.244.1.5/32", "fd00:10:244:1::5/128"} {
		_, to, err := net.ParseCIDR(dst)
		errs = append(errs, err, h.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: to, Protocol: state.RouteProtocol, Scope: netlink.SCOPE_LINK}))
	}
	meanwhile()
	return errors.Join(append(errs, h.LinkDel(link))...)
}

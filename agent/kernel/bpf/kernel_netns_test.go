//go:build linux && netns

package bpf

import (
	"bufio"
	"context"
	"encoding/json"

	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// place is a cgroup with a bpf file system, for the test alone.
type place struct {
	config Config
}

func newPlace(t *testing.T) place {
	t.Helper()
	nstest.RequireRoot(t)
	root, err := FindCgroup("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.MkdirTemp(root, "weftnet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Errorf("remove the test's cgroup: %v", err)
		}
	})
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the bpf file system: %v", err)
		}
	})
	return place{Config{CgroupRoot: group, PinDir: filepath.Join(dir, "weftnet")}}
}

func (p place) open(t *testing.T) *Kernel {
	t.Helper()
	k, err := Open(p.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

// The addresses of a Pod in these tests. It has its servers on board, so that what is chosen is
// always there, and the Services' addresses lead nowhere, so that what is not redirected fails.
var (
	servers4 = aps("10.244.0.1:8080", "10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080")
	servers6 = aps("[fd00::1]:8080", "[fd00::2]:8080", "[fd00::3]:8080", "[fd00::4]:8080")
	service4 = ap("10.96.0.1:80")
	service6 = ap("[fd00:96::1]:80")
	mapped4  = ap("[::ffff:10.96.0.1]:80")
)

// newPod makes a network namespace with a server at each address, which tells the address.
func newPod(t *testing.T) *nstest.Namespace {
	t.Helper()
	ns := nstest.New(t)
	ns.Do(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return
		}
		for _, s := range append(append([]netip.AddrPort{}, servers4...), servers6...) {
			prefix := netip.PrefixFrom(s.Addr(), s.Addr().BitLen())
			address, err := netlink.ParseAddr(prefix.String())
			if err == nil {
				address.Flags = unix.IFA_F_NODAD // in use at once
				err = netlink.AddrAdd(lo, address)
			}
			if err != nil {
				t.Errorf("add %s: %v", prefix, err)
				return
			}
			listen(t, s)
		}
		awaitLocal(t, servers6)
	})
	if t.Failed() {
		t.FailNow()
	}
	return ns
}

// awaitLocal waits for the routes that make IPv6 addresses local: the kernel adds them a moment after
// the address.
func awaitLocal(t *testing.T, addresses []netip.AddrPort) {
	deadline := time.Now().Add(10 * time.Second)
	for _, a := range addresses {
		for {
			routes, err := netlink.RouteGet(a.Addr().AsSlice())
			if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s does not become local: %v, %v", a, routes, err)
				return
			}
		}
	}
}

func listen(t *testing.T, at netip.AddrPort) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Errorf("listen at %s: %v", at, err)
		return
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, at.String())
			_ = c.Close()
		}
	}()
}

// client is a process in a cgroup and a network namespace.
type client struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

func newClient(t *testing.T, cgroup string, ns *nstest.Namespace) *client {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), clientEnv+"=1",
		"GODEBUG=asyncpreemptoff=1") // its signals interrupt calls that have a timeout
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("start a client: %v", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("client: %v", err)
		}
	})
	return &client{t, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}
}

func (c *client) do(o order) reply {
	c.t.Helper()
	if err := c.in.Encode(o); err != nil {
		c.t.Fatal(err)
	}
	return c.read()
}

func (c *client) read() (r reply) {
	c.t.Helper()
	if err := c.out.Decode(&r); err != nil {
		c.t.Fatalf("read the client's answer: %v", err)
	}
	return r
}

// load starts connecting; the function it returns ends it and tells what became of it.
func (c *client) load(to netip.AddrPort) func() reply {
	c.t.Helper()
	c.do(order{To: to, Load: true})
	return func() reply {
		c.t.Helper()
		return c.do(order{})
	}
}

func want(owner string, at netip.AddrPort, endpoints ...netip.AddrPort) Wanted {
	return Wanted{Owner: owner, Frontends: []state.SocketFrontend{{Address: at, Endpoints: endpoints}}}
}

// both is a Service of two families.
func both() []Wanted {
	return []Wanted{want("v4", service4, servers4...), want("v6", service6, servers6...)}
}

func syncAll(t *testing.T, b Balancer, all ...Wanted) {
	t.Helper()
	if err := b.Sync(context.Background(), all); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, b Balancer, wanted ...Wanted) {
	t.Helper()
	if err := b.Set(context.Background(), wanted...); err != nil {
		t.Fatal(err)
	}
}

func TestKernelKeepsTheContract(t *testing.T) {
	contract(t, func(t *testing.T) Balancer { return newPlace(t).open(t) })
}

func TestConnectionsAreSpread(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	for _, test := range []struct {
		name      string
		order     order
		endpoints []netip.AddrPort
	}{
		{"IPv4", order{To: service4}, servers4},
		{"IPv6", order{To: service6}, servers6},
		{"mapped", order{To: mapped4, Six: true}, servers4},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen := map[string]int{}
			for range 200 {
				r := c.do(test.order)
				if r.Errno != 0 || r.Peer != test.order.To {
					t.Fatalf("%s: %s, peer %s; want %s", r.Call, r.Errno, r.Peer, test.order.To)
				}
				seen[r.Server]++
			}
			for _, e := range test.endpoints {
				if n := seen[e.String()]; n < 20 { // of 50; fewer come once in 10^8 runs
					t.Errorf("%s served %d of 200", e, n)
				}
				delete(seen, e.String())
			}
			if len(seen) > 0 {
				t.Errorf("others served: %v", seen)
			}
		})
	}
	if s, err := k.Stats(); err != nil || s.Balanced != 600 || s.Refused+s.Unsure != 0 || s.Frontends != 2 || s.Endpoints != 8 {
		t.Errorf("stats %+v, %v", s, err)
	}
}

func TestWhatIsNotAServiceIsLetThrough(t *testing.T) {
	p := newPlace(t)
	ns := newPod(t)
	syncAll(t, p.open(t), both()...)
	c := newClient(t, p.config.CgroupRoot, ns)
	for _, direct := range []netip.AddrPort{servers4[2], servers6[2]} {
		if r := c.do(order{To: direct}); r.Errno != 0 || r.Peer != direct || r.Server != direct.String() {
			t.Errorf("to %s: %+v", direct, r)
		}
	}
	for _, unknown := range []netip.AddrPort{
		netip.AddrPortFrom(service4.Addr(), 81), netip.AddrPortFrom(service6.Addr(), 81), ap("10.96.0.2:80"),
	} {
		if r := c.do(order{To: unknown}); r.Errno != unix.ENETUNREACH {
			t.Errorf("to %s: %s %s, served by %q; want no route", unknown, r.Call, r.Errno, r.Server)
		}
	}
	for _, to := range []netip.AddrPort{service4, service6} {
		if r := c.do(order{To: to, UDP: true}); r.Errno != unix.ENETUNREACH {
			t.Errorf("UDP to %s: %s, peer %s; want no route", to, r.Errno, r.Peer)
		}
	}
	t.Run("processes of another cgroup", func(t *testing.T) {
		other := newClient(t, newPlace(t).config.CgroupRoot, ns)
		if r := other.do(order{To: service4}); r.Errno != unix.ENETUNREACH {
			t.Errorf("%s %s, served by %q; want no route", r.Call, r.Errno, r.Server)
		}
	})
	t.Run("processes of a group below", func(t *testing.T) {
		below := filepath.Join(p.config.CgroupRoot, "below")
		if err := os.Mkdir(below, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(below) })
		if r := newClient(t, below, ns).do(order{To: service4}); r.Errno != 0 {
			t.Errorf("%s %s", r.Call, r.Errno)
		}
	})
}

func TestNoEndpointIsRefused(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	check := func(want unix.Errno) {
		t.Helper()
		for _, o := range []order{{To: service4}, {To: service6}, {To: mapped4, Six: true}} {
			if r := c.do(o); r.Errno != want || want != 0 && r.Call != "connect" {
				t.Errorf("to %s: %s %q, want %q", o.To, r.Call, r.Errno, want)
			}
		}
	}
	syncAll(t, k, want("v4", service4), want("v6", service6))
	check(unix.ECONNREFUSED)
	set(t, k, both()...)
	check(0)
	set(t, k, want("v4", service4), want("v6", service6))
	check(unix.ECONNREFUSED)
	// A kernel without bpf_set_retval leaves the answer to nftables.
	k.refuses = false
	if err := k.renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	check(unix.ENETUNREACH)
}

func TestASocketThatIsConnectedAnewTellsItsNewPeer(t *testing.T) {
	p := newPlace(t)
	syncAll(t, p.open(t), want("v4", service4, servers4[0]), want("v6", service6, servers6[0]))
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	for _, o := range []order{{To: service4, Again: servers4[1]}, {To: service6, Again: servers6[1]}} {
		if r := c.do(o); r.Errno != 0 || r.Peer != o.Again || r.Server != o.Again.String() {
			t.Errorf("%+v: %+v", o, r)
		}
	}
	if r := c.do(order{To: servers4[1], Again: service4}); r.Errno != 0 || r.Peer != service4 || r.Server != servers4[0].String() {
		t.Errorf("to a Service at the second time: %+v", r)
	}
}

func TestProbeSaysYesAndWhatIsMissing(t *testing.T) {
	p := newPlace(t)
	if got := Probe(p.config); got.Answer != link.Yes {
		t.Error(got)
	}
	if _, err := os.Stat(p.config.PinDir); !os.IsNotExist(err) {
		t.Errorf("the probe left something: %v", err)
	}
	if got := Probe(Config{CgroupRoot: "/nowhere", PinDir: p.config.PinDir}); got.Answer != link.No {
		t.Error(got)
	}
	if got := Probe(Config{CgroupRoot: p.config.CgroupRoot, PinDir: "/tmp/weftnet"}); got.Answer != link.No {
		t.Error(got)
	}
}

//go:build linux && bench

// Package socket measures what it costs to connect to a Service when the endpoint is chosen at the
// socket, beside a connection straight to that endpoint by a process that no program works on.
package socket

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/bench/table"
	"github.com/weftnet/weftnet/test/nstest"
)

// All rows take part in each round, so that an hour in which the machine is slow is none of one row's.
const (
	rounds   = 400
	connects = 100 // of one side in a round: short ones, or the machine has changed before the other has its turn
	warmUp   = 20  // before them
	pooled   = 20  // rounds, for a p99: of 2,000
	target   = 1.1
)

// path is how a family's endpoint is reached, and the address of the Service.
type path struct {
	name             string
	client, server   netip.Prefix
	endpoint         netip.AddrPort
	service          netip.AddrPort
	serviceByAddress func(i int) netip.Addr
}

var paths = []path{
	{
		"IPv4", netip.MustParsePrefix("10.244.0.1/24"), netip.MustParsePrefix("10.244.0.2/24"),
		netip.MustParseAddrPort("10.244.0.2:8080"), netip.MustParseAddrPort("10.96.0.0:80"),
		func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}) },
	},
	{
		"IPv6", netip.MustParsePrefix("fd00::1/64"), netip.MustParsePrefix("fd00::2/64"),
		netip.MustParseAddrPort("[fd00::2]:8080"), netip.MustParseAddrPort("[fd00:96::]:80"),
		func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x96, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		},
	},
}

// pair is a row: what is measured, and the direct way beside it, each by a process of its own.
type pair struct {
	name            string
	through, direct *process
	to, instead     netip.AddrPort
	ours, theirs    []times // by round
}

func TestConnectThroughAService(t *testing.T) {
	client := joined(t)
	plain := group(t)
	var pairs []*pair
	for _, n := range []int{1, 1000, 40000} {
		through, direct := start(t, client, balanced(t, n)), start(t, client, plain)
		for _, p := range paths {
			pairs = append(pairs, &pair{name: fmt.Sprintf("%s, %d Services", p.name, n), through: through, direct: direct, to: p.service, instead: p.endpoint})
		}
		if n < 40000 {
			continue
		}
		for _, p := range paths { // Whoever connects to anything else pays for the look that finds nothing.
			pairs = append(pairs, &pair{name: p.name + ", not to a Service", through: through, direct: direct, to: p.endpoint, instead: p.endpoint})
		}
	}
	for i := range rounds {
		for _, p := range pairs {
			p.measure(i%2 == 0)
		}
	}
	var rows []table.Row
	for _, p := range pairs {
		connect, closing := func(t times) []float64 { return t.Connect }, func(t times) []float64 { return t.Close }
		rows = append(rows, p.row("p50", connect, 0.5, 1), p.row("p99", connect, 0.99, pooled), p.row("close", closing, 0.5, 1))
		rows[len(rows)-1].Target = 0
	}
	table.Print(os.Stdout, "connect to the next Pod over TCP, and close", "at the socket", "direct", rows)
}

// measure lets both sides have their turn, which one first to be changed from round to round.
func (p *pair) measure(oursFirst bool) {
	if oursFirst {
		p.ours = append(p.ours, p.through.measure(p.to))
	}
	p.theirs = append(p.theirs, p.direct.measure(p.instead))
	if !oursFirst {
		p.ours = append(p.ours, p.through.measure(p.to))
	}
}

// row compares a quantile of the times of a call, of so many rounds at a time.
func (p *pair) row(name string, call func(times) []float64, q float64, together int) table.Row {
	quantiles := func(side []times) (out []float64) {
		for some := range slices.Chunk(side, together) {
			var all []float64
			for _, t := range some {
				all = append(all, call(t)...)
			}
			out = append(out, table.Quantile(all, q))
		}
		return out
	}
	return table.Row{
		Name: p.name + ", " + name, Unit: "us", LessIsBetter: true, Target: target,
		Ours: quantiles(p.ours), Theirs: quantiles(p.theirs),
	}
}

// balanced is a cgroup in which n Services of each family are balanced.
func balanced(t *testing.T, n int) (cgroup string) {
	t.Helper()
	cgroup = group(t)
	k, err := bpf.Open(bpf.Config{CgroupRoot: cgroup, PinDir: filepath.Join(bpffs(t), "weftnet")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	if err := k.Sync(t.Context(), services(n)); err != nil {
		t.Fatal(err)
	}
	return cgroup
}

// services are n of each family, of which the first has the endpoint that answers.
func services(n int) []bpf.Wanted {
	var all []bpf.Wanted
	for i := range n {
		w := bpf.Wanted{Owner: fmt.Sprint(i)}
		for _, p := range paths {
			f := state.SocketFrontend{Address: netip.AddrPortFrom(p.serviceByAddress(i), 80), Endpoints: []netip.AddrPort{p.endpoint}}
			for port := uint16(1); i > 0 && port < 3; port++ {
				f.Endpoints = append(f.Endpoints, netip.AddrPortFrom(p.endpoint.Addr(), port))
			}
			w.Frontends = append(w.Frontends, f)
		}
		all = append(all, w)
	}
	return all
}

// joined are two namespaces with a link between them, and a server in the other one.
func joined(t *testing.T) *nstest.Namespace {
	t.Helper()
	client, server := nstest.New(t), nstest.New(t)
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	client.Do(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(server.Fd())}))
	})
	up := func(address func(path) netip.Prefix) func() {
		return func() {
			l, err := netlink.LinkByName("eth0")
			check(err)
			for _, p := range paths {
				a, err := netlink.ParseAddr(address(p).String())
				check(err)
				a.Flags = unix.IFA_F_NODAD
				check(netlink.AddrAdd(l, a))
			}
			check(netlink.LinkSetUp(l))
		}
	}
	client.Do(t, up(func(p path) netip.Prefix { return p.client }))
	server.Do(t, up(func(p path) netip.Prefix { return p.server }))
	server.Do(t, func() {
		for _, p := range paths {
			l, err := listen(p.endpoint)
			if check(err); err == nil {
				t.Cleanup(func() { _ = l.Close() })
				go accept(l)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return client
}

// listen tries until the address is in use: the kernel takes a moment.
func listen(at netip.AddrPort) (l *net.TCPListener, err error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err == nil {
			return l, nil
		}
	}
	return nil, err
}

func accept(l *net.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

func group(t *testing.T) string {
	t.Helper()
	root, err := bpf.FindCgroup("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "weftnet-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return dir
}

func bpffs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}

// process is a client in a cgroup.
type process struct {
	t   *testing.T
	in  *json.Encoder
	out *json.Decoder
}

func start(t *testing.T, ns *nstest.Namespace, cgroup string) *process {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), clientEnv+"=1", "GODEBUG=asyncpreemptoff=1"), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	p := &process{t, json.NewEncoder(in), json.NewDecoder(io.Reader(out))}
	p.warm()
	return p
}

// warm connects until every path works: addresses and neighbours need a moment.
func (p *process) warm() {
	p.t.Helper()
	for _, way := range paths {
		var r times
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			if r = p.ask(order{way.endpoint, 0, 50}); r.Fault == "" {
				break
			}
		}
		if r.Fault != "" {
			p.t.Fatal(r.Fault)
		}
	}
}

func (p *process) measure(to netip.AddrPort) times {
	p.t.Helper()
	r := p.ask(order{to, warmUp, connects})
	if r.Fault != "" {
		p.t.Fatal(r.Fault)
	}
	return r
}

func (p *process) ask(o order) (r times) {
	p.t.Helper()
	if err := p.in.Encode(o); err != nil {
		p.t.Fatal(err)
	}
	if err := p.out.Decode(&r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

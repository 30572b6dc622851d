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

const (
	rounds   = 151
	connects = 200 // of one side in a round: short ones, or the machine has changed before the other has its turn
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

func TestConnectThroughAService(t *testing.T) {
	client := joined(t)
	balanced, plain := group(t), group(t)
	k, err := bpf.Open(bpf.Config{CgroupRoot: balanced, PinDir: filepath.Join(bpffs(t), "weftnet")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	through, direct := start(t, client, balanced), start(t, client, plain)
	var rows []table.Row
	for _, n := range []int{1, 1000, 40000} {
		if err := k.Sync(t.Context(), services(n)); err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			rows = append(rows, compare(t, fmt.Sprintf("%s, %d Services", p.name, n), through, direct, p.service, p.endpoint)...)
		}
	}
	// Whoever connects to anything else pays for the look that finds nothing.
	for _, p := range paths {
		rows = append(rows, compare(t, p.name+", not to a Service", through, direct, p.endpoint, p.endpoint)...)
	}
	table.Print(os.Stdout, "connect, TCP, the next Pod", "at the socket", "direct", rows)
}

// compare runs both sides in turn.
func compare(t *testing.T, name string, through, direct *process, service, endpoint netip.AddrPort) []table.Row {
	t.Helper()
	p50 := table.Row{Name: name + ", p50", Unit: "us", LessIsBetter: true, Target: target}
	p99 := table.Row{Name: name + ", p99", Unit: "us", LessIsBetter: true}
	for i := range rounds {
		sides := []func(){
			func() {
				r := through.measure(service)
				p50.Ours, p99.Ours = append(p50.Ours, r.P50), append(p99.Ours, r.P99)
			},
			func() {
				r := direct.measure(endpoint)
				p50.Theirs, p99.Theirs = append(p50.Theirs, r.P50), append(p99.Theirs, r.P99)
			},
		}
		sides[i%2]()
		sides[1-i%2]()
	}
	return []table.Row{p50, p99}
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
			if r = p.ask(order{way.endpoint, 50}); r.Fault == "" {
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
	r := p.ask(order{to, connects})
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

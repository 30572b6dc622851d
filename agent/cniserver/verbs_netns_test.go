//go:build linux && netns

package cniserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/cni/wire"
	"github.com/weftnet/weftnet/test/nstest"
)

// dial connects once; there is no second try, so the first packet must arrive.
func dial(t *testing.T, from *nstest.Namespace, address string) (local netip.Addr, err error) {
	t.Helper()
	c, err := from.DialOnce(t, address)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.MustParseAddrPort(c.LocalAddr().String()).Addr(), c.Close()
}

// serve answers TCP connections with the address that they come from, until the test ends.
func serve(t *testing.T, ns *nstest.Namespace, port int) {
	t.Helper()
	ns.Do(t, func() {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(c.RemoteAddr().String()))
				_ = c.Close()
			}
		}()
	})
}

func TestAddCheckDel(t *testing.T) {
	n := newNode(t)
	a, aIPs := n.addPod("pod-a", nil)
	b, bIPs := n.addPod("pod-b", nil)
	if fmt.Sprint(aIPs) != "[10.244.1.2 fd00:10:244:1::2]" {
		t.Errorf("addresses %v", aIPs)
	}
	serve(t, b, 8080)
	for i, ip := range bIPs {
		from, err := dial(t, a, netip.AddrPortFrom(ip, 8080).String())
		if err != nil || from != aIPs[i] {
			t.Errorf("from pod a to %s: from %s, %v", ip, from, err)
		}
		if _, err := dial(t, n.ns, netip.AddrPortFrom(ip, 8080).String()); err != nil {
			t.Errorf("from the node to %s: %v", ip, err)
		}
	}
	result := json.RawMessage(n.ok(call{command: "ADD", container: "pod-a", netns: a}))
	if got := addresses(t, result); fmt.Sprint(got) != fmt.Sprint(aIPs) {
		t.Errorf("a repeated ADD gave %v, want %v", got, aIPs)
	}
	n.ok(call{command: "CHECK", container: "pod-a", netns: a, config: map[string]any{"prevResult": result}})
	for range 2 {
		n.ok(call{command: "DEL", container: "pod-a", netns: a})
	}
	if links := n.links(); len(links) != 1 || n.used() != 1 {
		t.Errorf("after DEL: links %v, %d addresses in use", links, n.used())
	}
	n.fails(call{command: "CHECK", container: "pod-a", netns: a, config: map[string]any{"prevResult": result}}, 3)
	_, again := n.addPod("pod-c", nil)
	disjoint(t, aIPs, bIPs, again) // the first one's still cool down
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	n := newNode(t)
	ns := nstest.New(t)
	result := json.RawMessage(n.ok(call{command: "ADD", container: "pod-a", netns: ns}))
	ns.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			err = netlink.LinkSetMTU(l, 1300)
		}
		if err != nil {
			t.Error(err)
		}
	})
	n.fails(call{command: "CHECK", container: "pod-a", netns: ns, config: map[string]any{"prevResult": result}}, 999, "MTU 1300, want 1420")
	n.fails(call{command: "CHECK", container: "pod-a", netns: ns}, 7, "prevResult")
	n.ok(call{command: "ADD", container: "pod-a", netns: ns}) // wires it anew
	n.ok(call{command: "CHECK", container: "pod-a", netns: ns, config: map[string]any{"prevResult": result}})
}

// A Pod that runs keeps its MTU when the uplink's changes, also over a restart of the agent.
func TestCheckKnowsTheMTUOfTheADD(t *testing.T) {
	n := newNode(t)
	old, young := nstest.New(t), nstest.New(t)
	before := json.RawMessage(n.ok(call{command: "ADD", container: "pod-a", netns: old}))
	n.node.MTU = 1380
	n.server.SetNode(n.node)
	check := call{command: "CHECK", container: "pod-a", netns: old, config: map[string]any{"prevResult": before}}
	n.ok(check)
	after := json.RawMessage(n.ok(call{command: "ADD", container: "pod-b", netns: young}))
	if !strings.Contains(string(before), `"mtu": 1420`) || !strings.Contains(string(after), `"mtu": 1380`) {
		t.Errorf("results %s and %s", before, after)
	}
	again := n.ok(call{command: "ADD", container: "pod-a", netns: old})
	if !strings.Contains(string(again), `"mtu": 1420`) {
		t.Errorf("a repeated ADD gives %s", again)
	}
	n.stop()
	n.start()
	n.ok(check)
	n.ok(call{command: "CHECK", container: "pod-b", netns: young, config: map[string]any{"prevResult": after}})
}

func TestNotReady(t *testing.T) {
	n := newNode(t)
	err := errors.New("no mesh device yet")
	n.notReady.Store(&err)
	n.fails(call{command: "ADD", container: "pod-a", netns: nstest.New(t)}, 11, "node-a", "no mesh device yet")
	n.fails(call{command: "STATUS"}, 50, "no mesh device yet")
	n.ok(call{command: "DEL", container: "pod-a"})
	n.notReady.Store(nil)
	n.ok(call{command: "STATUS"})
	n.addPod("pod-a", nil)
}

func TestAgentDown(t *testing.T) {
	n := newNode(t)
	ns, _ := n.addPod("pod-a", nil)
	n.addPod("pod-b", nil)
	n.stop()
	n.fails(call{command: "ADD", container: "pod-c", netns: ns}, 11, "connection refused")
	n.fails(call{command: "STATUS"}, 50, n.cfg.Socket)
	n.ok(call{command: "DEL", container: "pod-a", netns: ns})
	n.start()
	eventually(t, "the queued DEL is carried out", func() bool { return n.used() == 1 && len(n.links()) == 1 })

	// A note that comes while the agent runs: the plugin had given up on a slow agent.
	frame := wire.AppendRequest(nil, wire.Header{Command: "DEL", ContainerID: "pod-b", IfName: "eth0"}, []byte(`{"cniVersion":"1.1.0","name":"weftnet"}`))
	dir := n.server.queueDir()
	for name, content := range map[string][]byte{"garbage": []byte("garbage"), "pod-b@eth0": frame} {
		if err := errors.Join(os.WriteFile(dir+"/."+name, content, 0o600), os.Rename(dir+"/."+name, dir+"/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the queue is empty", func() bool { left, err := os.ReadDir(dir); return err == nil && len(left) == 0 })
	if n.used() != 0 {
		t.Errorf("%d addresses in use", n.used())
	}
}

func TestDelAfterThePodIsGone(t *testing.T) {
	n := newNode(t)
	n.ok(call{command: "DEL", container: "never-there"})
	ns, _ := n.addPod("pod-a", nil)
	ns.Do(t, func() { // as when the namespace goes: both ends go
		if l, err := netlink.LinkByName("eth0"); err != nil || netlink.LinkDel(l) != nil {
			t.Error("delete eth0")
		}
	})
	n.ok(call{command: "DEL", container: "pod-a"})
	if n.used() != 0 {
		t.Errorf("%d addresses in use", n.used())
	}
}

func TestGC(t *testing.T) {
	n := newNode(t)
	for _, c := range []string{"pod-a", "pod-b", "pod-c"} {
		n.addPod(c, nil)
	}
	n.fails(call{command: "GC"}, 7, "valid-attachments")
	if n.used() != 3 {
		t.Fatalf("GC without a list left %d attachments of 3", n.used())
	}
	n.ok(call{command: "GC", config: map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "pod-b", "ifname": "eth0"}}}})
	if got := n.server.Attachments(); len(got) != 1 || got[0].ContainerID != "pod-b" || len(n.links()) != 1 || n.used() != 1 {
		t.Errorf("after GC: %v, links %v", got, n.links())
	}
}

func TestExhaustion(t *testing.T) {
	n := prepareNode(t)
	n.node.Blocks[0] = netip.MustParsePrefix("10.244.1.0/30") // .2 and nothing else
	n.cfg.Cooldown = 400 * time.Millisecond
	n.start()
	n.addPod("pod-a", nil)
	n.fails(call{command: "ADD", container: "pod-b", netns: nstest.New(t)}, codeExhausted, "node-a", "10.244.1.0/30", "1 in use")
	n.ok(call{command: "DEL", container: "pod-a"})
	n.fails(call{command: "ADD", container: "pod-b", netns: nstest.New(t)}, 11, "1 cooling down")
	ns := nstest.New(t)
	eventually(t, "the address has cooled down", func() bool { return n.call(call{command: "ADD", container: "pod-b", netns: ns}).code < 0 })
	if len(n.links()) != 1 {
		t.Errorf("links %v", n.links())
	}
}

func TestNoBlocksYet(t *testing.T) {
	n := prepareNode(t)
	n.node.Blocks = nil
	n.start()
	n.fails(call{command: "ADD", container: "pod-a", netns: nstest.New(t)}, 11, "no pod CIDRs yet")
}

func TestFullNode(t *testing.T) {
	n := newNode(t)
	const pods = 110
	namespaces := make([]*nstest.Namespace, pods)
	for i := range namespaces {
		namespaces[i] = nstest.New(t)
	}
	results := make([]answer, pods)
	atOnce(pods, 10, func(i int) {
		results[i] = n.call(call{command: "ADD", container: fmt.Sprintf("pod-%d", i), netns: namespaces[i]})
	})
	var all [][]netip.Addr
	for i, r := range results {
		if r.code >= 0 {
			t.Fatalf("pod %d: code %d: %s", i, r.code, r.msg)
		}
		all = append(all, addresses(t, r.out))
	}
	disjoint(t, all...)
	serve(t, namespaces[pods-1], 8080)
	for _, ip := range all[pods-1] {
		if _, err := dial(t, namespaces[0], netip.AddrPortFrom(ip, 8080).String()); err != nil {
			t.Errorf("from the first to the last pod at %s: %v", ip, err)
		}
	}
	atOnce(pods, 10, func(i int) {
		results[i] = n.call(call{command: "DEL", container: fmt.Sprintf("pod-%d", i)})
	})
	for i, r := range results {
		if r.code >= 0 {
			t.Errorf("delete pod %d: code %d: %s", i, r.code, r.msg)
		}
	}
	if len(n.links()) != 0 || n.used() != 0 {
		t.Errorf("after the last DEL: links %v, %d addresses in use", n.links(), n.used())
	}
}

// atOnce calls f for every number below n, some at a time.
func atOnce(n, workers int, f func(int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func TestBadRequests(t *testing.T) {
	n := newNode(t)
	ns := nstest.New(t)
	ports := func(m ...map[string]any) map[string]any {
		return map[string]any{"runtimeConfig": map[string]any{"portMappings": m}}
	}
	for _, c := range []struct {
		name string
		call call
		code int
		word string
	}{
		{"version", call{config: map[string]any{"cniVersion": "0.2.0"}}, 1, "0.2.0"},
		{"future", call{config: map[string]any{"cniVersion": "9.0.0"}}, 1, "9.0.0"},
		{"type", call{config: map[string]any{"runtimeConfig": "x"}}, 6, "not valid JSON"},
		{"name", call{config: map[string]any{"name": "a/b"}}, 7, "name of the network"},
		{"container", call{container: "a b"}, 4, "containerID"},
		{"interface", call{ifName: "a/b"}, 4, "interface name"},
		{"protocol", call{config: ports(map[string]any{"hostPort": 1, "containerPort": 1, "protocol": "x"})}, 7, "portMappings"},
		{"port", call{config: ports(map[string]any{"hostPort": 70000, "containerPort": 1})}, 7, "portMappings"},
		{"hostIP", call{config: ports(map[string]any{"hostPort": 1, "containerPort": 1, "hostIP": "x"})}, 7, "portMappings"},
		{"own namespace", call{netns: n.ns}, 8, "own network namespace"},
	} {
		c.call.command = "ADD"
		if c.call.container == "" {
			c.call.container = "pod-a"
		}
		if c.call.netns == nil {
			c.call.netns = ns
		}
		t.Run(c.name, func(t *testing.T) { n.fails(c.call, c.code, c.word) })
	}
	n.fails(call{command: "ADD", container: "pod-a"}, 4, "CNI_NETNS")
	n.fails(call{command: "CHECK", container: "pod-a", netns: ns, config: map[string]any{"cniVersion": "0.3.1"}}, 1, "CHECK")
	if len(n.server.Attachments()) != 0 || n.used() != 0 || len(n.links()) != 0 {
		t.Errorf("a refused request had an effect: %v", n.server.Attachments())
	}
}

// TestGarbageOnTheSocket sends what is no request; each gets a reason, and nothing happens.
func TestGarbageOnTheSocket(t *testing.T) {
	n := newNode(t)
	whole := wire.AppendRequest(nil, wire.Header{Command: "DEL", ContainerID: "a", IfName: "eth0"}, []byte(`{"cniVersion":"1.1.0","name":"weftnet"}`))
	large := append([]byte(nil), whole...)
	large[4] = 0xff
	for name, bytes := range map[string][]byte{
		"nothing": {}, "http": []byte("GET / HTTP/1.1\r\n\r\n"), "short": whole[:20], "too large": large,
		"no header": wire.AppendRequest(nil, wire.Header{}, nil), "more": append(append([]byte(nil), whole...), 'x'),
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: n.cfg.Socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		_, werr := conn.Write(bytes)
		reply := make([]byte, 4<<10)
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if err := errors.Join(werr, conn.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		got, _ := conn.Read(reply)
		if status, _, err := wire.ParseReplyHead(reply[:got]); err != nil || status != 1 || !strings.Contains(string(reply[:got]), "msg") {
			t.Errorf("%s: answered %q, %v", name, reply[:got], err)
		}
		_ = conn.Close()
	}
	n.addPod("pod-a", nil)
}

func TestSocketIsForRoot(t *testing.T) {
	n := newNode(t)
	info, err := os.Stat(n.cfg.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestCnitool drives every version through the reference runtime.
func TestCnitool(t *testing.T) {
	n := newNode(t)
	for i, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		conf := t.TempDir()
		text := fmt.Sprintf(`{"cniVersion":%q,"name":"net%d","plugins":[{"type":"weftnet","socket":%q,"capabilities":{"portMappings":true}}]}`, version, i, n.cfg.Socket)
		if err := os.WriteFile(filepath.Join(conf, "10-test.conflist"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ns := nstest.New(t)
		tool := func(verb string) (string, error) {
			cmd := exec.Command(filepath.Join(pluginDir, "cnitool"), verb, fmt.Sprintf("net%d", i), netnsPath(ns))
			cmd.Env = append(os.Environ(), "CNI_PATH="+pluginDir, "NETCONFPATH="+conf)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		out, err := tool("add")
		if err != nil || !strings.Contains(out, fmt.Sprintf(`"cniVersion": %q`, version)) {
			t.Fatalf("%s add: %v\n%s", version, err, out)
		}
		if got := addresses(t, []byte(out)); len(got) != 2 {
			t.Errorf("%s: addresses %v", version, got)
		}
		verbs := []string{"check", "status", "del"}
		if version == "0.3.1" {
			verbs = verbs[2:] // libcni itself refuses the others
		} else if version != "1.1.0" {
			verbs = []string{"check", "del"}
		}
		for _, verb := range verbs {
			if out, err := tool(verb); err != nil {
				t.Errorf("%s %s: %v\n%s", version, verb, err, out)
			}
		}
	}
	if n.used() != 0 || len(n.links()) != 0 {
		t.Errorf("left: %d addresses, links %v", n.used(), n.links())
	}
}

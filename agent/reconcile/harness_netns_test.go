//go:build netns

package reconcile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/wireguard/request"
)

// A node of these tests is a network namespace with two processes, each in a mount namespace of its
// own where /run is the node's: this test program again as the agent, and the real wireguard
// process. So every node has its weft0, and an agent can be killed.
const (
	roleVariable = "WEFTNET_TEST_ROLE"
	roleAgent    = "agent"
	roleTunnel   = "tunnel"
)

func init() {
	childRole = func() bool {
		switch os.Getenv(roleVariable) {
		case roleAgent:
			exitOn(agentMain())
		case roleDevice:
			exitOn(deviceMain())
		case roleTunnel:
			exitOn(tunnelMain())
		default:
			return false
		}
		return true
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ownRun mounts the node's folder as /run, for this process only.
func ownRun() error {
	if err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount(os.Getenv("NODE_RUN"), "/run", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the node's /run: %w", err)
	}
	return errors.Join(os.MkdirAll("/run/wireguard", 0o700), os.MkdirAll(request.Dir, 0o700))
}

func tunnelMain() error {
	if err := ownRun(); err != nil {
		return err
	}
	binary := os.Getenv("TUNNEL_BINARY")
	return syscall.Exec(binary, []string{binary, "-listen="}, os.Environ())
}

// machine is a node as the test sees it.
type machine struct {
	t      *testing.T
	number int
	ns     *nstest.Namespace
	nl     *netlink.Handle
	run    string
	log    *bytes.Buffer
	env    []string

	tunnel *exec.Cmd
	agent  *exec.Cmd
	stdin  io.WriteCloser
	reader sync.WaitGroup

	mu   sync.Mutex
	said said
	// unready are the faults that the agent told of after it was ready.
	unready []string
	news    chan struct{}
}

// underlay is a bridge in a namespace of its own.
func underlay(t *testing.T) (*nstest.Namespace, *netlink.Handle) {
	t.Helper()
	ns := nstest.New(t)
	nl := handle(t, ns)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := nl.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	if err := nl.LinkSetUp(bridge); err != nil {
		t.Fatal(err)
	}
	return ns, nl
}

func handle(t *testing.T, ns *nstest.Namespace) *netlink.Handle {
	t.Helper()
	var nl *netlink.Handle
	var err error
	ns.Do(t, func() { nl, err = netlink.NewHandle() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nl.Close)
	return nl
}

// machines are n nodes on one bridge, each with a wireguard process and no agent yet.
func machines(t *testing.T, n int) []*machine {
	t.Helper()
	bridge, hub := underlay(t)
	binary := tunnelBinary(t)
	var out []*machine
	for i := 1; i <= n; i++ {
		m := &machine{t: t, number: i, ns: nstest.New(t), run: t.TempDir(), log: &bytes.Buffer{}, news: make(chan struct{}, 1)}
		m.nl = handle(t, m.ns)
		m.plug(hub, bridge)
		m.startTunnel(binary)
		t.Cleanup(m.end)
		out = append(out, m)
	}
	return out
}

func (m *machine) must(errs ...error) {
	m.t.Helper()
	if err := errors.Join(errs...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) plug(hub *netlink.Handle, bridge *nstest.Namespace) {
	m.t.Helper()
	port := fmt.Sprintf("port%d", m.number)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: port, PeerNamespace: netlink.NsFd(bridge.Fd())}
	m.must(m.nl.LinkAdd(veth))
	eth0, err1 := m.nl.LinkByName("eth0")
	far, err2 := hub.LinkByName(port)
	br0, err3 := hub.LinkByName("br0")
	m.must(err1, err2, err3)
	m.must(hub.LinkSetMaster(far, br0), hub.LinkSetUp(far), m.nl.LinkSetUp(eth0))
	m.address(m.nl.AddrAdd, fmt.Sprintf("192.0.2.%d/24", m.number))
	m.address(m.nl.AddrAdd, fmt.Sprintf("2001:db8::%d/64", m.number))
}

func (m *machine) address(do func(netlink.Link, *netlink.Addr) error, text string) {
	m.t.Helper()
	eth0, err := m.nl.LinkByName("eth0")
	m.must(err)
	addr, err := netlink.ParseAddr(text)
	m.must(err)
	if addr.IP.To4() == nil {
		addr.Flags = 0x02 // IFA_F_NODAD: usable at once
	}
	m.must(do(eth0, addr))
}

func (m *machine) child(role string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, roleVariable+"="+role, "NODE_RUN="+m.run, fmt.Sprintf("NODE_NUMBER=%d", m.number))...)
	cmd.Stderr = m.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start makes the child in the node's network namespace.
func (m *machine) start(cmd *exec.Cmd) {
	m.t.Helper()
	var err error
	m.ns.Do(m.t, func() {
		cmd.SysProcAttr.Pdeathsig = 0 // it would be sent when this thread ends
		err = cmd.Start()
	})
	m.must(err)
}

func (m *machine) startTunnel(binary string) {
	m.t.Helper()
	m.tunnel = m.child(roleTunnel, "TUNNEL_BINARY="+binary)
	m.start(m.tunnel)
}

// startAgent runs an agent; nothing is known to it until tell.
func (m *machine) startAgent(env ...string) {
	m.t.Helper()
	m.agent = m.child(roleAgent, append(env, m.env...)...)
	var err error
	m.stdin, err = m.agent.StdinPipe()
	m.must(err)
	out, err := m.agent.StdoutPipe()
	m.must(err)
	m.mu.Lock()
	m.said = said{}
	m.mu.Unlock()
	m.start(m.agent)
	m.reader.Go(func() { m.listen(out) })
}

func (m *machine) listen(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var now said
		if err := json.Unmarshal(lines.Bytes(), &now); err != nil {
			continue
		}
		m.mu.Lock()
		if m.said.Ready && !now.Ready {
			m.unready = append(m.unready, now.Fault)
		}
		m.said = now
		m.mu.Unlock()
		signal(m.news)
	}
}

// tell gives the agent a snapshot.
func (m *machine) tell(s snapshot.Snapshot) {
	m.t.Helper()
	m.must(json.NewEncoder(m.stdin).Encode(map[string]any{"Partial": s.Partial, "Snapshot": s}))
}

// killAgent ends the agent as a crash would.
func (m *machine) killAgent() {
	if m.agent == nil {
		return
	}
	_ = m.agent.Process.Kill()
	m.reader.Wait()
	_ = m.agent.Wait() // it was killed, which is an error to Wait
	m.agent = nil
}

func (m *machine) end() {
	m.killAgent()
	_ = m.tunnel.Process.Kill()
	_ = m.tunnel.Wait()
	if m.t.Failed() {
		m.t.Logf("node%d:\n%s", m.number, m.log)
	}
}

func (m *machine) state() said {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.said
}

func (m *machine) faults() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.unready)
}

// until waits for what the agent says.
func (m *machine) until(what string, ok func(said) bool) {
	m.t.Helper()
	deadline := time.After(20 * time.Second)
	for !ok(m.state()) {
		select {
		case <-m.news:
		case <-deadline:
			m.t.Fatalf("node%d: waited for %s; it says %+v", m.number, what, m.state())
		}
	}
}

// eventually polls a condition and returns how long it took.
func eventually(t *testing.T, timeout time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	started := time.Now()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return time.Since(started)
		}
		if time.Since(started) > timeout {
			t.Fatalf("%s: after %v still: %v", what, timeout, err)
		}
		<-again.C
	}
}

var tunnelBuild struct {
	once sync.Once
	path string
	err  error
}

func tunnelBinary(t *testing.T) string {
	t.Helper()
	tunnelBuild.once.Do(func() {
		dir, err := os.MkdirTemp("", "weftnet-reconcile-")
		if err != nil {
			tunnelBuild.err = err
			return
		}
		cleanups = append(cleanups, func() { _ = os.RemoveAll(dir) })
		tunnelBuild.path = filepath.Join(dir, "wireguard")
		cmd := exec.Command("go", "build", "-o", tunnelBuild.path, "github.com/weftnet/weftnet/wireguard")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			tunnelBuild.err = fmt.Errorf("build the wireguard process: %w\n%s", err, out)
		}
	})
	if tunnelBuild.err != nil {
		t.Fatal(tunnelBuild.err)
	}
	return tunnelBuild.path
}

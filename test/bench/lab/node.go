//go:build linux

package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weftnet/weftnet/test/nstest"
)

// Node is a network namespace behind the router, with the agent and the wireguard process in a mount
// namespace where /run is the node's own.
type Node struct {
	Number int
	NS     *nstest.Namespace
	// Run is the node's /run, seen from outside.
	Run string

	lab           *Lab
	state         string
	agent, tunnel *program
}

// program is a process and what it says.
type program struct {
	cmd *exec.Cmd
	log *bytes.Buffer
}

// NewNode makes a node on which nothing runs yet.
func (l *Lab) NewNode(t *testing.T, number int) *Node {
	t.Helper()
	dir := t.TempDir()
	n := &Node{Number: number, NS: nstest.New(t), lab: l, Run: filepath.Join(dir, "run"), state: filepath.Join(dir, "state")}
	for _, d := range []string{filepath.Join(n.Run, "wireguard"), filepath.Join(n.Run, "weftnet/wireguard"), n.state} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l.Plug(t, n.NS, Name(number), number)
	n.NS.Relay(t, l.api.String())
	t.Cleanup(func() { n.Stop(t) })
	return n
}

// Start runs the wireguard process and the agent, with further flags for the agent.
func (n *Node) Start(t *testing.T, flags ...string) {
	t.Helper()
	n.tunnel = n.start(t, "weftnet-wireguard")
	n.StartAgent(t, flags...)
}

// StartAgent runs the agent alone, as after its end.
func (n *Node) StartAgent(t *testing.T, flags ...string) {
	t.Helper()
	n.agent = n.start(t, "weftnet-agent", append([]string{"--node-name=" + Name(n.Number), "--kubeconfig=" + n.lab.kubeconfig,
		"--state-dir=" + n.state, "--cni-bin-dir=", "--backend=Userspace"}, flags...)...)
}

func (n *Node) start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	// The shell gives way to the program, so that the process is the program's.
	script := []string{"--mount", "--propagation", "private", "sh", "-c", `mount --bind "$0" /run && exec "$@"`, n.Run, filepath.Join(n.lab.Bin, name)}
	p := &program{cmd: exec.Command("unshare", append(script, args...)...), log: &bytes.Buffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	var err error
	n.NS.Do(t, func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return p
}

// AgentPID and TunnelPID are the processes' numbers.
func (n *Node) AgentPID() int  { return n.agent.cmd.Process.Pid }
func (n *Node) TunnelPID() int { return n.tunnel.cmd.Process.Pid }

// StopAgent ends the agent. What it has made stays, as the product promises.
func (n *Node) StopAgent(t *testing.T) {
	n.agent.stop(t)
	n.agent = nil
}

// Stop ends both.
func (n *Node) Stop(t *testing.T) {
	n.agent.stop(t)
	n.tunnel.stop(t)
	n.agent, n.tunnel = nil, nil
}

func (p *program) stop(t *testing.T) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed, which is an error to Wait
	if t.Failed() {
		t.Logf("%s said:\n%s", p.cmd.Args, p.log)
	}
}

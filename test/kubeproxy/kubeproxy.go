//go:build linux

// Package kubeproxy runs the real kube-proxy of the testbed in a network namespace, for tests of
// taking over from it and for benchmarks against it.
package kubeproxy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/weftnet/weftnet/test/nstest"
)

// Config of a kube-proxy.
type Config struct {
	// Bin is the folder with the program.
	Bin string
	// Node is the name of the Node object that it serves; its addresses must be there.
	Node string
	// Kubeconfig whose server the namespace can reach.
	Kubeconfig string
	// Mode is nftables or iptables.
	Mode string
	// ClusterCIDR tells Pods from others.
	ClusterCIDR string
	// Env is added to the environment.
	Env []string
}

// Proxy is one that runs.
type Proxy struct {
	cmd *exec.Cmd
	log bytes.Buffer
}

// Start runs it until the test ends. Whether it has programmed anything yet is for the caller to
// find out.
func Start(t testing.TB, ns *nstest.Namespace, c Config) *Proxy {
	t.Helper()
	path := filepath.Join(c.Bin, "kube-proxy")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("this test needs kube-proxy: build it with `make testbed-build`: %v", err)
	}
	p := &Proxy{cmd: exec.Command(path,
		"--kubeconfig="+c.Kubeconfig, "--hostname-override="+c.Node, "--proxy-mode="+c.Mode, "--cluster-cidr="+c.ClusterCIDR,
		// The machine's limits are not a test's to change.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0")}
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	var err error
	ns.Do(t, func() { err = p.cmd.Start() })
	if err != nil {
		t.Fatalf("start kube-proxy: %v", err)
	}
	t.Cleanup(func() { p.Stop(t) })
	return p
}

// PID of the process.
func (p *Proxy) PID() int { return p.cmd.Process.Pid }

// Stop ends it as a crash would: what it has made stays.
func (p *Proxy) Stop(t testing.TB) {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed, which is an error to Wait
	if t.Failed() {
		t.Logf("kube-proxy said:\n%s", tail(p.log.String()))
	}
}

func tail(s string) string {
	const most = 20000
	if len(s) > most {
		return fmt.Sprintf("...%s", s[len(s)-most:])
	}
	return s
}

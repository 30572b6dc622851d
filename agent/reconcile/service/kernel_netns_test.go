//go:build netns

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/poll"
)

// machine is the loop on the kernel of a network namespace.
type machine struct {
	*rig
	ns    *nstest.Namespace
	table *nft.Kernel
	flows *conntrack.Kernel
}

func newMachine(t *testing.T) *machine {
	m := &machine{rig: newRig(t), ns: nstest.New(t)}
	m.open()
	t.Cleanup(func() { _ = m.flows.Close() })
	return m
}

func (m *machine) open() {
	m.t.Helper()
	var err1, err2 error
	m.ns.Do(m.t, func() {
		m.table, err1 = nft.NewTable(state.ServiceTableName)
		m.flows, err2 = conntrack.New()
	})
	if err := errors.Join(err1, err2); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = m.table.Close() })
}

// startOn runs a new loop as a new process would: with sockets of its own. wrap may stand between it and the kernel.
func (m *machine) startOn(wrap func(nft.Table) nft.Table) {
	m.t.Helper()
	if m.stop != nil {
		m.stop()
	}
	_ = m.table.Close()
	_ = m.flows.Close()
	m.open()
	for _, name := range m.cluster.Names() {
		m.cluster.change(name, func() {})
	}
	table := nft.Table(m.table)
	if wrap != nil {
		table = wrap(table)
	}
	m.loop = New(Config{
		Source: m.cluster, Table: table, Flows: m.flows, Watch: m.table.Subscribe, Quietly: m.table.Quietly, Sizes: m.table.Sizes, Recorder: m.counts,
		Log: slog.New(slog.DiscardHandler), Facts: func() (snapshot.ServiceNode, bool) { return m.node, true },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.loop.Run(ctx) }()
	m.stop = func() {
		cancel()
		<-done
		m.stop = nil
	}
}

func (m *machine) nft(args ...string) string {
	m.t.Helper()
	var out []byte
	var err error
	m.ns.Do(m.t, func() { out, err = exec.Command("nft", args...).CombinedOutput() })
	if err != nil {
		m.t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// inForce waits until the kernel has what the cluster means, and nothing else.
func (m *machine) inForce(what string) {
	m.t.Helper()
	poll.Until(m.t, patience, what, func() error {
		have, err := m.table.Observe(m.t.Context())
		if err := errors.Join(err, m.loop.Ready()); err != nil {
			return err
		}
		if c := nft.Diff(have, m.cluster.want(m.node)); !c.Empty() {
			return fmt.Errorf("there is still\n%s", c)
		}
		return nil
	})
}

// allTaken waits until the loop has done with every change.
func (m *machine) allTaken() {
	m.t.Helper()
	poll.Until(m.t, patience, "nothing is pending", func() error {
		if since := m.loop.pending.Load(); since != nil {
			return fmt.Errorf("a change waits since %s", since)
		}
		return nil
	})
}

// dying ends the agent, as kill -9 does, in the middle of programming: after some transactions
// nothing gets through any more.
type dying struct {
	nft.Table
	left int
	dead chan struct{}
}

func (d *dying) Apply(ctx context.Context, c nft.Change) error {
	if d.left--; d.left < 0 {
		if d.left == -1 {
			close(d.dead)
		}
		return unix.EPERM
	}
	return d.Table.Apply(ctx, c)
}

// TestKilledWhileProgramming starts again after each of several deaths, with other Services each time.
func TestKilledWhileProgramming(t *testing.T) {
	m := newMachine(t)
	for i := range 1500 {
		m.cluster.put(i, state.ProtoTCP, "10.0.0.1", "10.0.0.2", "fd00::1")
	}
	m.cluster.sync()
	for _, transactions := range []int{0, 1, 3} {
		d := &dying{left: transactions, dead: make(chan struct{})}
		m.startOn(func(t nft.Table) nft.Table { d.Table = t; return d })
		select {
		case <-d.dead:
		case <-time.After(30 * time.Second):
			t.Fatal("the programming ended by itself")
		}
		m.stop()
		m.cluster.drop(transactions)
		m.cluster.put(1000+transactions, state.ProtoTCP, "10.0.0.7")
	}
	m.startOn(nil)
	m.inForce("after the last start")
	handle := tableHandle(m)
	before := m.counts.get(func(c *counts) int { return c.listed })
	m.startOn(nil)
	m.inForce("after a start with nothing to do")
	if tableHandle(m) != handle {
		t.Error("the table was made anew")
	}
	if n := m.counts.get(func(c *counts) int { return c.listed }) - before; n != 1 {
		t.Errorf("the table was listed %d times, want once", n)
	}
}

func tableHandle(m *machine) string {
	for line := range strings.Lines(m.nft("-a", "list", "tables")) {
		if strings.Contains(line, state.ServiceTableName) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// TestForeignProgram damages the table in several ways under a loop that runs.
func TestForeignProgram(t *testing.T) {
	m := newMachine(t)
	for i := range 50 {
		m.cluster.put(i, state.ProtoTCP, "10.0.0.1", "fd00::1")
	}
	m.cluster.sync()
	m.startOn(nil)
	m.inForce("at the start")
	for _, script := range []string{
		"delete table inet weftnet-service", "flush table inet weftnet-service", "flush map inet weftnet-service endpoints4",
		"add element inet weftnet-service cluster-ips4 { 10.9.9.9 }", "flush ruleset", "add chain inet weftnet-service stranger",
		"add table inet weftnet-service { flags dormant; }",
	} {
		m.nft(strings.Fields(script)...)
		m.inForce(script)
	}
	m.nft("add", "table", "inet", "other") // nobody's business
	m.cluster.put(3, state.ProtoTCP, "10.0.0.5")
	m.inForce("an ordinary change")
}

// TestBurst makes 1,000 Services and deletes them at once.
func TestBurst(t *testing.T) {
	m := newMachine(t)
	m.cluster.put(0, state.ProtoTCP, "10.0.0.1")
	m.cluster.sync()
	m.startOn(nil)
	m.inForce("at the start")
	for i := range 1000 {
		m.cluster.put(i+1, state.ProtoTCP, "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")
	}
	for i := range 1000 {
		m.cluster.drop(i + 1)
	}
	// The last change of all says that the burst is over: before it the table may be as it should be because
	// the loop has not come to write what it has already read.
	m.cluster.put(0, state.ProtoTCP, "10.0.0.9")
	m.inForce("after the burst")
	m.allTaken()
	m.stop() // the ledger is the running loop's own
	if n := len(m.loop.ledger.Known()); n != 1 {
		t.Errorf("%d Services are remembered, want 1", n)
	}
}

//go:build linux && netns

package policy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

var errKilled = errors.New("killed")

// mortal is the kernel's table, and its user ends at one of its transactions: before it is written, or right
// after, so that nothing that should follow does.
type mortal struct {
	*nft.Kernel
	left  atomic.Int32 // transactions until then
	after bool
	dead  chan struct{}
}

func (m *mortal) write(ctx context.Context, f func() error) error {
	if m.left.Add(-1) > 0 {
		return f()
	}
	if m.after && m.left.Load() == 0 {
		if err := f(); err != nil {
			return err
		}
	}
	if m.left.Load() == 0 {
		close(m.dead)
	}
	<-ctx.Done() // whatever this agent wanted to do next does not happen
	return errKilled
}

func (m *mortal) Apply(ctx context.Context, c nft.Change) error {
	return m.write(ctx, func() error { return m.Kernel.Apply(ctx, c) })
}

func (m *mortal) Ensure(ctx context.Context, want state.Table) (done nft.Change, err error) {
	err = m.write(ctx, func() error { done, err = m.Kernel.Ensure(ctx, want); return err })
	return done, err
}

// TestKilledBetweenTransactions changes policies in a row of steps of which none lets the sender in, and
// kills the agent at each of its transactions, before and after it: however far it came, not one of the
// packets that are sent without pause is delivered, while the agent is dead, while its successor reads, and after.
func TestKilledBetweenTransactions(t *testing.T) {
	l := newLab(t)
	server, sender := l.makePod("prod", "server", 10), l.makePod("prod", "sender", 11)
	friends := &snapshot.Selector{MatchLabels: snapshot.NewLabels(map[string]string{"app": "friend"})}
	allow := func(name string) snapshot.NetworkPolicy {
		p := denyIn("prod")
		p.Name, p.Ingress = name, []snapshot.NetworkPolicyRule{{Peers: []snapshot.NetworkPolicyPeer{{PodSelector: friends}}}}
		return p
	}
	another := l.makePod("prod", "friend", 12)
	moved := another.Pod
	moved.Labels = server.Labels
	steps := []func(c *cluster){
		func(c *cluster) { c.setPolicy(allow("friends")) },
		func(c *cluster) { c.setPods(another.Pod) },
		func(c *cluster) { c.deletePolicy(denyIn("prod")) }, // the other still isolates
		func(c *cluster) { c.setPods(moved) },
		func(c *cluster) { c.setPolicy(denyIn("prod")) },
		func(c *cluster) { c.deletePolicy(allow("friends")) },
	}
	// knows is what an agent reads that starts after some of the steps.
	knows := func(n int) {
		l.cluster = l.newCluster()
		l.cluster.setPods(server.Pod, sender.Pod)
		l.cluster.setPolicy(denyIn("prod"))
		for _, step := range steps[:n] {
			step(l.cluster)
		}
		l.cluster.setMissing()
	}
	knows(0)
	l.start()
	l.add(server)
	l.add(sender)
	defer l.flood(sender.ns, server.IPs)()
	defer l.flood(l.remote, server.IPs)()
	quiet := func(when string) {
		t.Helper()
		if n := l.delivered(server); n != 0 {
			t.Fatalf("%s: %d packets were delivered", when, n)
		}
	}
	for at := 1; at <= len(steps)+1; at++ {
		for _, after := range []bool{false, true} {
			name := fmt.Sprintf("killed at transaction %d, after it: %t", at, after)
			l.stop()
			m := &mortal{Kernel: l.table, after: after, dead: make(chan struct{})}
			m.left.Store(int32(at))
			l.front = m
			knows(0)
			l.start()
			done := 0
			for ; done < len(steps) && m.left.Load() > 0; done++ {
				steps[done](l.cluster)
				if err := l.loop.Sync(whileAlive(t, m)); err != nil {
					break
				}
			}
			quiet(name)
			for alive := true; alive; { // with steps that need no transaction, another look at the table is the last
				l.loop.foreign.Store(true)
				signal(l.loop.woken)
				select {
				case <-m.dead:
					alive = false
				case <-time.After(20 * time.Millisecond):
				}
			}
			l.stop()
			quiet(name + ", dead")
			l.front = l.table
			knows(len(steps))
			l.start()
			l.eventually("readiness", func() bool { return l.loop.Ready() == nil })
			quiet(name + ", succeeded")
		}
	}
	open := denyIn("prod")
	open.Name, open.Ingress = "open", []snapshot.NetworkPolicyRule{{}}
	l.cluster.setPolicy(open)
	l.eventually("packets once they are allowed", func() bool { return l.delivered(server) > 0 })
}

// whileAlive ends with the agent.
func whileAlive(t *testing.T, m *mortal) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		select {
		case <-m.dead:
		case <-t.Context().Done():
		}
		cancel()
	}()
	return ctx
}

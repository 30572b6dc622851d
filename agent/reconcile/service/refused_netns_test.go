//go:build netns

package service

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/poll"
)

// spoiled puts an element into one Service's transactions that the kernel cannot take: it leads to a
// chain that does not exist.
type spoiled struct {
	nft.Table
	service state.Value // the beginning of the keys of its elements
	on      atomic.Bool
}

func (s *spoiled) Apply(ctx context.Context, c nft.Change) error {
	if s.on.Load() && s.concerned(c) {
		dispatch := state.Set{Name: "dispatch4", Kind: state.KindVMap, Key: []state.DataType{state.TypeMark}}
		c.Elements = append(c.Elements[:len(c.Elements):len(c.Elements)], nft.ElementChange{
			Set: dispatch, Add: []state.Element{{Key: state.MarkValue(0x87ffffff), Verdict: state.Goto("nowhere")}},
		})
	}
	return s.Table.Apply(ctx, c)
}

func (s *spoiled) concerned(c nft.Change) bool {
	for _, e := range c.Elements {
		for _, el := range e.Add {
			if strings.HasPrefix(string(el.Key), string(s.service)) {
				return true
			}
		}
	}
	return false
}

// TestKernelRefusesOneService: the others are served all the same, that one keeps what it had, the
// report names it with the kernel's reason, and it is served when the kernel takes it.
func TestKernelRefusesOneService(t *testing.T) {
	m := newMachine(t)
	want := newCluster() // what is to be in force while one is refused
	put := func(i int, endpoint string) {
		m.cluster.put(i, state.ProtoTCP, endpoint)
		want.put(i, state.ProtoTCP, endpoint)
	}
	for i := range 300 {
		put(i, "10.0.0.1")
	}
	m.cluster.sync()
	s := &spoiled{service: state.AddrValue(m.cluster.services[named(7)].ClusterIPs[0])}
	m.startOn(func(t nft.Table) nft.Table { s.Table = t; return s })
	m.inForce("at the start")
	s.on.Store(true)
	m.cluster.put(7, state.ProtoTCP, "10.0.0.2")
	put(8, "10.0.0.2")
	put(400, "10.0.0.3")
	m.eventually("the refusal and the others", func() bool {
		r, _ := m.loop.Report()
		have, err := m.table.Observe(t.Context())
		return err == nil && len(r.Refused) == 1 && nft.Diff(have, want.want(m.node)).Empty()
	})
	r, _ := m.loop.Report()
	if refused := r.Refused[0]; refused.Owner != "test/svc-7" || !strings.Contains(refused.Err.Error(), "no such file or directory") {
		t.Errorf("the report says %+v", refused)
	}
	if err := m.loop.Ready(); err != nil {
		t.Errorf("one Service that is refused makes the proxy unready: %v", err)
	}
	s.on.Store(false)
	m.cluster.change(named(7), func() {})
	m.inForce("when the kernel takes it again")
	m.eventually("nothing to be refused", func() bool { r, _ := m.loop.Report(); return len(r.Refused) == 0 })
}

// TestTableOfAnotherOwner has another program take our table's name for its own, with the flag that makes
// the kernel refuse every change by others. The report says so, and once that program has ended
// everything is in force, what has changed meanwhile, too.
func TestTableOfAnotherOwner(t *testing.T) {
	m := newMachine(t)
	for i := range 50 {
		m.cluster.put(i, state.ProtoTCP, "10.0.0.1", "fd00::1")
	}
	m.cluster.sync()
	m.startOn(nil)
	m.inForce("at the start")
	release := m.own()
	m.eventually("the refusal to be told", func() bool {
		err := m.loop.Ready()
		return err != nil && strings.Contains(err.Error(), "operation not permitted")
	})
	m.cluster.put(3, state.ProtoTCP, "10.0.0.5")
	m.cluster.drop(4)
	m.cluster.put(60, state.ProtoUDP, "10.0.0.1")
	release()
	m.inForce("when the other has ended")
}

// own runs an nft that has made our table its own, until it is released.
func (m *machine) own() (release func()) {
	m.t.Helper()
	cmd := exec.Command("nft", "-i")
	stdin, err := cmd.StdinPipe()
	if err == nil {
		m.ns.Do(m.t, func() { err = cmd.Start() })
	}
	if err != nil {
		m.t.Fatal(err)
	}
	release = func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}
	m.t.Cleanup(release)
	// The loop may be quicker, and make the table between the two: then another time.
	poll.Until(m.t, 30*time.Second, "the table to be taken", func() error {
		_, err := io.WriteString(stdin, "delete table inet weftnet-service\nadd table inet weftnet-service { flags owner; }\n")
		if err != nil {
			return err
		}
		if have := m.nft("list", "ruleset"); !strings.Contains(have, "flags owner") {
			return errors.New("the loop was quicker")
		}
		return nil
	})
	return release
}

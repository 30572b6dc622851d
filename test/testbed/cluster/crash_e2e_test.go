//go:build e2e

package cluster

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/testbed/control"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
)

// crashes are what can happen to a cluster that is up.
var crashes = map[string]func(*testing.T){
	"a node's first process is killed":   func(t *testing.T) { kill(t, state(t).Nodes[nodeB.String()].Init) },
	"the first node's process is killed": func(t *testing.T) { kill(t, state(t).Nodes[nodeA.String()].Init) },
	"the API server is killed":           func(t *testing.T) { kill(t, state(t).Control[control.APIServer]) },
	"the whole control plane is killed":  func(t *testing.T) { kill(t, slices.Collect(maps.Values(state(t).Control))...) },
	// The command was killed between the start of a process and its record.
	"the record lacks a node's process": func(t *testing.T) {
		forget(t, func(s *record.State) { s.Nodes[nodeB.String()] = record.Node{} })
	},
	"the record lacks the control plane": func(t *testing.T) {
		forget(t, func(s *record.State) { clear(s.Control) })
	},
	"half of a record was written": func(t *testing.T) {
		l, err := layout.Find()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l.Path("state.json.new"), []byte(`{"options": {"no`), 0o644); err != nil {
			t.Fatal(err)
		}
	},
}

func TestTwoUpsAreOne(t *testing.T) {
	down(t)
	upTwiceAtOnce(t)
	checkOneOfEach(t)
	first := state(t)
	up(t)
	if again := state(t); !reflect.DeepEqual(again, first) {
		t.Errorf("up of a cluster that is up changed it:\nbefore %+v\nafter  %+v", first, again)
	}
	checkAnswers(t)
	if err := command(t.Context(), "up", "--nodes=2", "--proxy=none", "--ip-family=ipv4"); err == nil {
		t.Error("up with other options was accepted: what it would have to change is in use")
	}
}

func TestUpAfterACrash(t *testing.T) {
	for name, crash := range crashes {
		t.Run(name, func(t *testing.T) {
			crash(t)
			up(t)
			checkOneOfEach(t)
			checkAnswers(t)
		})
	}
}

func TestDownAfterACrash(t *testing.T) {
	for _, name := range []string{"the first node's process is killed", "the record lacks a node's process", "the record lacks the control plane"} {
		t.Run(name, func(t *testing.T) {
			up(t)
			crashes[name](t)
			down(t)
		})
	}
	t.Cleanup(func() { up(t) }) // the tests after this one want a cluster
}

// TestUpIsKilled kills `up` itself, each time later, and requires that the next `up` completes what it began, and that `down` after
// the last leaves nothing.
func TestUpIsKilled(t *testing.T) {
	down(t)
	for _, stage := range []func(record.State) bool{
		func(s record.State) bool { return len(s.Nodes) > 0 },
		func(s record.State) bool { return len(s.Control) > 0 },
		func(s record.State) bool { return s.Nodes[nodeB.String()].Init.PID != 0 },
	} {
		killedUp(t, stage)
	}
	up(t)
	checkOneOfEach(t)
	checkAnswers(t)
	down(t)
	killedUp(t, func(s record.State) bool { return len(s.Control) > 0 })
	down(t)
	up(t)
}

// killedUp starts `up` and kills it as soon as the record says that it has come so far.
func killedUp(t *testing.T, far func(record.State) bool) {
	t.Helper()
	l, err := layout.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, upArgs...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = proc.Poll(ctx, time.Millisecond, func() (bool, error) {
		s, err := record.Read(l)
		return err == nil && far(s), nil
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed, which is an error to Wait
	if err != nil {
		t.Fatalf("wait until `up` is under way: %v", err)
	}
}

func up(t *testing.T) {
	t.Helper()
	if err := command(context.WithoutCancel(t.Context()), upArgs...); err != nil {
		t.Fatal(err)
	}
}

func upTwiceAtOnce(t *testing.T) {
	t.Helper()
	var both errgroup.Group
	for range 2 {
		both.Go(func() error { return command(t.Context(), upArgs...) })
	}
	if err := both.Wait(); err != nil {
		t.Fatal(err)
	}
}

// down takes the cluster down and requires that the machine is as it was, and that each of the cluster's processes has ended.
func down(t *testing.T) {
	t.Helper()
	all := processes(t)
	if len(all) == 0 {
		t.Error("no process of the cluster was found: that none is left would say nothing")
	}
	if err := command(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	after, err := look()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(after, before) {
		t.Errorf("the machine is not as it was:\nbefore %+v\nafter  %+v", before, after)
	}
	for _, p := range all {
		if p.Alive() {
			t.Errorf("process %d (%s) is left", p.PID, proc.Program(p.PID))
		}
	}
}

func kill(t *testing.T, all ...proc.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, p := range all {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatalf("kill process %d: %v", p.PID, err)
		}
		if err := p.Wait(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func forget(t *testing.T, change func(*record.State)) {
	t.Helper()
	l, err := layout.Find()
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.Open(l)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // a lock only
	if err := r.Update(change); err != nil {
		t.Fatal(err)
	}
}

// checkOneOfEach requires that every process on record runs, and that none of them runs twice.
func checkOneOfEach(t *testing.T) {
	t.Helper()
	s := state(t)
	var want []proc.Process
	for _, n := range s.Nodes {
		want = append(want, n.Init)
	}
	for _, name := range control.Names() {
		want = append(want, s.Control[name])
	}
	for _, p := range want {
		if !p.Alive() {
			t.Errorf("a process on record does not run: %+v in %+v", p, s)
		}
	}
	have, err := ownProcesses(s.NodeList())
	if err != nil {
		t.Fatal(err)
	}
	if len(have) != len(want) {
		t.Errorf("%d first processes and programs of the control plane run, want %d", len(have), len(want))
	}
}

// checkAnswers requires that the API server answers and that every node has reported since its last start.
func checkAnswers(t *testing.T) {
	t.Helper()
	c, ctx, _ := open(t)
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitNodes(ctx, client, state(t).NodeList(), "report", c.inThisBoot); err != nil {
		t.Error(err)
	}
}

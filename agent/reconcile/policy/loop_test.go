//go:build linux

package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// TestNothingIsTouchedOnPartialKnowledge: until every list has been read the rules of before stand,
// and no Pod can be added.
func TestNothingIsTouchedOnPartialKnowledge(t *testing.T) {
	w := newWorld(t)
	a := attachment(webPod("a", "10.0.0.1"))
	old := state.Table{Family: "inet", Name: desired.TableName, Counters: []string{"of-before"}}
	if err := w.table.Fake.Apply(t.Context(), nft.Change{Family: "inet", Name: desired.TableName, Create: true, Counters: old.Counters}); err != nil {
		t.Fatal(err)
	}
	w.cluster.setMissing("NetworkPolicies")
	w.cluster.setPods(webPod("a", "10.0.0.1"))
	w.start()
	w.until("the first pass", func() bool { _, ok := w.loop.Report(); return ok })
	if r, _ := w.loop.Report(); !strings.Contains(r.Waiting, "NetworkPolicies") || w.loop.Ready() == nil {
		t.Errorf("report %+v, ready %v", r, w.loop.Ready())
	}
	w.plugin.add(a)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.loop.Admit(short, a); !errors.Is(err, ErrNotYet) {
		t.Errorf("a Pod was admitted before the policies are known: %v", err)
	}
	if have, _ := w.table.Table(); !have.Equal(old) {
		t.Errorf("the table of before was touched:\n%s", have)
	}
	w.cluster.setPolicy(denyAll("deny"))
	admitted := make(chan error, 1)
	go func() { admitted <- w.loop.Admit(t.Context(), a) }()
	w.cluster.setMissing()
	if err := <-admitted; err != nil {
		t.Fatal(err)
	}
	if w.leads(a) == "" {
		t.Error("the Pod is open")
	}
	if have, _ := w.table.Table(); len(have.Counters) == 0 || have.Counters[0] == "of-before" {
		t.Errorf("leftovers stay: %v", have.Counters)
	}
}

// TestAdmit: when it returns, the Pod's rules are in the table.
func TestAdmit(t *testing.T) {
	w := newWorld(t)
	w.cluster.setPolicy(denyAll("deny"))
	w.start()
	known := webPod("known", "10.0.0.1")
	w.cluster.setPods(known)
	w.plugin.add(attachment(known))
	if err := w.loop.Admit(t.Context(), attachment(known)); err != nil {
		t.Fatal(err)
	}
	if to := w.leads(attachment(known)); !strings.HasPrefix(to, "in4-np-") {
		t.Errorf("packets to a known Pod go to %q", to)
	}
	late := webPod("late", "10.0.0.2")
	w.plugin.add(attachment(late))
	if err := w.loop.Admit(t.Context(), attachment(late)); err != nil {
		t.Fatal(err)
	}
	if to := w.leads(attachment(late)); !strings.HasPrefix(to, "deny-") {
		t.Errorf("packets to a Pod that is not known go to %q", to)
	}
	w.counts.do(func() {
		if w.counts.admitted != 2 || w.counts.unknownPods != 1 {
			t.Errorf("counted %d admitted, %d of them unknown", w.counts.admitted, w.counts.unknownPods)
		}
	})
	w.cluster.setPods(late)
	w.until("the Pod's own rules", func() bool { return strings.HasPrefix(w.leads(attachment(late)), "in4-np-") })
	w.plugin.remove(attachment(late).HostLink)
	w.until("the Pod to be gone", func() bool { return w.leads(attachment(late)) == "" })
	w.cluster.deletePolicy(denyAll("deny"))
	w.until("the table to be empty", func() bool { have, ok := w.table.Table(); return ok && len(have.Chains) == 0 })
}

// TestNewsIsAwaited: while the watch of policies is cut off, a new Pod waits for what it brings when it is
// back; and no longer than that where it does not come back.
func TestNewsIsAwaited(t *testing.T) {
	w := newWorld(t)
	w.start()
	first, second := webPod("first", "10.0.0.1"), webPod("second", "10.0.0.2")
	w.cluster.setPods(first, second)
	w.cluster.setCut("NetworkPolicies")
	w.plugin.add(attachment(first))
	admitted := make(chan error, 1)
	go func() { admitted <- w.loop.Admit(t.Context(), attachment(first)) }()
	w.until("the Pod to wait", func() bool {
		w.cluster.mu.Lock()
		defer w.cluster.mu.Unlock()
		return len(w.cluster.woken) > 0
	})
	select {
	case err := <-admitted:
		t.Fatalf("a Pod was admitted while a policy may be on its way: %v", err)
	default:
	}
	w.cluster.setPolicy(denyAll("late"))
	w.cluster.setCut()
	if err := <-admitted; err != nil || w.leads(attachment(first)) == "" {
		t.Errorf("admitted with error %v, packets go to %q", err, w.leads(attachment(first)))
	}
	w.cluster.setCut("NetworkPolicies")
	w.plugin.add(attachment(second))
	if err := w.loop.Admit(t.Context(), attachment(second)); err != nil || w.leads(attachment(second)) == "" {
		t.Errorf("without the API server: error %v, packets go to %q", err, w.leads(attachment(second)))
	}
}

// TestNamesakes: the object of the Pod before, with the same name, says nothing of its successor.
func TestNamesakes(t *testing.T) {
	w := newWorld(t)
	w.cluster.setPolicy(denyAll("deny"))
	before := webPod("db-0", "10.0.0.1")
	before.UID = "before"
	w.cluster.setPods(before)
	w.start()
	now := webPod("db-0", "10.0.0.2")
	w.plugin.add(attachment(now))
	if err := w.loop.Admit(t.Context(), attachment(now)); err != nil {
		t.Fatal(err)
	}
	if to := w.leads(attachment(now)); !strings.HasPrefix(to, "deny-") {
		t.Errorf("packets go to %q", to)
	}
	w.cluster.setPods(now)
	w.until("its own rules", func() bool { return strings.HasPrefix(w.leads(attachment(now)), "in4-np-") })
}

// TestForeignChange: what somebody else deletes is back.
func TestForeignChange(t *testing.T) {
	w := newWorld(t)
	p := webPod("a", "10.0.0.1")
	w.cluster.setPods(p)
	w.cluster.setPolicy(denyAll("deny"))
	w.plugin.add(attachment(p))
	w.start()
	w.until("the rules", func() bool { return w.leads(attachment(p)) != "" })
	for i := range 3 {
		if err := w.table.Fake.Apply(t.Context(), nft.Delete("inet", desired.TableName)); err != nil {
			t.Fatal(err)
		}
		w.table.events <- struct{}{}
		w.until("the rules again", func() bool { return w.leads(attachment(p)) != "" })
		w.until("the count", func() bool {
			w.counts.mu.Lock()
			defer w.counts.mu.Unlock()
			return w.counts.drift == i+1
		})
	}
}

// TestRefusal: rules that the kernel does not take close the Pods that they are for and no others, as
// long as it does not take them.
func TestRefusal(t *testing.T) {
	w := newWorld(t)
	good, bad := webPod("good", "10.0.0.1"), webPod("bad", "10.0.0.2")
	bad.Labels = snapshot.Labels{{Key: "app", Value: "bad"}}
	w.cluster.setPods(good, bad)
	w.cluster.setPolicy(denyAll("deny"))
	w.plugin.add(attachment(good))
	w.plugin.add(attachment(bad))
	w.start()
	w.until("the rules", func() bool { return w.leads(attachment(good)) != "" && w.leads(attachment(bad)) != "" })
	before := w.leads(attachment(good))
	w.table.refuseIf(func(want state.Table) error {
		if strings.Contains(want.String(), "prod/open") {
			return fmt.Errorf("add rule: %w", unix.ENOSPC)
		}
		return nil
	})
	open := snapshot.NetworkPolicy{Namespace: "prod", Name: "open", Types: []string{"Ingress"},
		PodSelector: snapshot.Selector{MatchLabels: bad.Labels}, Ingress: []snapshot.NetworkPolicyRule{{}}}
	w.cluster.setPolicy(open)
	w.until("the Pod to be closed", func() bool { return strings.HasPrefix(w.leads(attachment(bad)), "deny-") })
	if w.leads(attachment(good)) != before {
		t.Errorf("another Pod's packets go to %q, before it was %q", w.leads(attachment(good)), before)
	}
	w.until("the report", func() bool {
		r, _ := w.loop.Report()
		return len(r.Shut) == 1 && r.Shut[0] == "prod/bad" && w.loop.Ready() != nil
	})
	third := webPod("third", "10.0.0.3")
	third.Labels = bad.Labels
	w.cluster.setPods(third)
	w.plugin.add(attachment(third))
	if err := w.loop.Admit(t.Context(), attachment(third)); err == nil && !strings.HasPrefix(w.leads(attachment(third)), "deny-") {
		t.Errorf("a Pod was admitted whose rules the kernel refuses, and is not closed: %q", w.leads(attachment(third)))
	}
	w.table.refuseIf(nil)
	w.until("the Pod's rules", func() bool { return strings.HasPrefix(w.leads(attachment(bad)), "in4-np-") })
	w.until("readiness", func() bool { r, _ := w.loop.Report(); return len(r.Shut) == 0 && w.loop.Ready() == nil })
}

// TestNobodyIsClosed for what says nothing of any Pod: that the table could not be listed, since others wrote all the while, or
// that it was another program's, which has ended by the time that Pods could be closed.
func TestNobodyIsClosed(t *testing.T) {
	for _, fault := range []error{nft.ErrUnsteady, unix.EPERM} {
		t.Run(fault.Error(), func(t *testing.T) {
			w := newWorld(t)
			p := webPod("a", "10.0.0.1")
			w.cluster.setPods(p)
			w.cluster.setPolicy(denyAll("deny"))
			w.plugin.add(attachment(p))
			w.start()
			w.until("the rules", func() bool { return strings.HasPrefix(w.leads(attachment(p)), "in4-np-") })
			var looks, closed atomic.Int64
			w.table.refuseIf(func(want state.Table) error {
				if strings.HasPrefix(leadsIn(want, attachment(p)), "deny-") {
					closed.Add(1)
				}
				if looks.Add(1) == 1 {
					return fmt.Errorf("observe: %w", fault)
				}
				return nil
			})
			w.cluster.setPolicy(snapshot.NetworkPolicy{Namespace: "prod", Name: "open", Types: []string{"Ingress"}, Ingress: []snapshot.NetworkPolicyRule{{}}})
			w.until("another look", func() bool { return looks.Load() > 1 && w.loop.Ready() == nil })
			if n := closed.Load(); n > 0 {
				t.Errorf("%d times the Pod was to be closed", n)
			}
		})
	}
}

// TestRebuiltFromTheKernel: an attachment of which only the addresses are known is closed until the Pod
// is found that has them.
func TestRebuiltFromTheKernel(t *testing.T) {
	w := newWorld(t)
	w.cluster.setPolicy(denyAll("deny"))
	p := webPod("a", "10.0.0.1")
	bare := attachment(p)
	bare.ContainerID, bare.Pod = "", state.PodRef{}
	w.plugin.add(bare)
	w.start()
	w.until("the Pod to be closed", func() bool { return strings.HasPrefix(w.leads(bare), "deny-") })
	w.cluster.setPods(p)
	w.until("its own rules", func() bool { signal(w.plugin.changed); return strings.HasPrefix(w.leads(bare), "in4-np-") })
}

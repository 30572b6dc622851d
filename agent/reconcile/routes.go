//go:build linux

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/kernel/route"
	"github.com/weftnet/weftnet/agent/state"
)

// ensureRoutes compares with one look at the kernel, taken before the Pods are asked for: what CNI
// ADD writes meanwhile is in neither and stays. What fails for a Pod is no failure of the node: it is
// in podFaults, and tried again.
func (l *Loop) ensureRoutes(ctx context.Context, want routing, _ bool) (Change, error) {
	const tries = 3
	var change route.Change
	var err error
	for range tries {
		have, lookErr := l.cfg.Kernel.Route.Observe(ctx)
		if lookErr != nil {
			return nil, lookErr
		}
		pods, faults := l.podRoutes(have.Routes)
		change = route.Diff(have, l.wantedRoutes(have, want, pods))
		ofMesh, ofPods := splitByOwner(change)
		err = l.cfg.Kernel.Route.Apply(ctx, ofMesh)
		l.stages.podFaults = errors.Join(faults, l.cfg.Kernel.Route.Apply(ctx, ofPods))
		if !errors.Is(err, unix.EEXIST) && !errors.Is(l.stages.podFaults, unix.EEXIST) {
			return change, err
		}
	}
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: %w", route.ErrConflict, err)
	}
	return change, err
}

func (l *Loop) wantedRoutes(have route.Observed, want routing, pods []state.Route) route.Wanted {
	wanted := route.Wanted{Routes: want.routes, Rules: want.rules}
	if l.plan.Partial {
		var devices []string
		for _, d := range l.plan.Devices {
			devices = append(devices, d.Link.Name)
		}
		wanted.Routes, wanted.Rules = mesh.KeepRoutes(have.Routes, wanted.Routes, devices), mesh.KeepRules(have.Rules, wanted.Rules)
	}
	wanted.Routes = state.SortRoutes(slices.Concat(wanted.Routes, pods))
	return wanted
}

// splitByOwner parts what is done for Pods from the rest, since one Pod's trouble is its own.
func splitByOwner(c route.Change) (ofMesh, ofPods route.Change) {
	ofMesh = c
	ofMesh.Add, ofPods.Add = partition(c.Add, toPod)
	ofMesh.Replace, ofPods.Replace = partition(c.Replace, toPod)
	return ofMesh, ofPods
}

func toPod(r state.Route) bool { return strings.HasPrefix(r.Dev, state.PodLinkPrefix) }

func partition[E any](list []E, second func(E) bool) (no, yes []E) {
	for _, e := range list {
		if second(e) {
			yes = append(yes, e)
		} else {
			no = append(no, e)
		}
	}
	return no, yes
}

// podRoutes are the wanted routes to Pods, once their links have been mended where needed. Missing
// ones are added for Pods that are there for good, whose link is up: those of others are CNI ADD's.
func (l *Loop) podRoutes(have []state.Route) ([]state.Route, error) {
	list, err := l.cfg.Kernel.Pods.HostEnds()
	if err != nil { // rather keep what is there than take it for a leftover
		_, kept := partition(have, toPod)
		return kept, err
	}
	ends := make(map[string]pod.HostEnd, len(list))
	for _, e := range list {
		ends[e.Name] = e
	}
	pods := l.pods()
	whole, faults := l.mendPods(ends, pods.Links, have)
	standing := map[state.RouteKey]state.Route{}
	for _, r := range have {
		standing[r.Key()] = r
	}
	var out []state.Route
	for _, r := range pods.Routes {
		if whole[r.Dev] || standing[r.Key()].Equal(r) {
			out = append(out, r)
		}
	}
	return out, faults
}

// mendPods puts back what somebody else has changed of the Pods' host ends, and says which are whole.
// One that lacks a route has been down, even if it is up by now, and so lacks its neighbour entries, too.
func (l *Loop) mendPods(ends map[string]pod.HostEnd, want []pod.HostEnd, have []state.Route) (whole map[string]bool, err error) {
	whole = map[string]bool{}
	routed := map[routeTo]bool{}
	for _, r := range have {
		routed[routeTo{r.Dst, r.Dev}] = true
	}
	var mended drifted
	var faults []error
	for _, w := range want {
		e, there := ends[w.Name]
		wrong := !e.Up || w.MTU != 0 && e.MTU != w.MTU
		lost := slices.ContainsFunc(w.Addresses, func(a netip.Addr) bool { return !routed[routeTo{netip.PrefixFrom(a, a.BitLen()), w.Name}] })
		if !there {
			continue
		}
		if wrong || lost {
			if err := l.cfg.Kernel.Pods.Mend(e, w); err != nil {
				faults = append(faults, err)
				continue
			}
		}
		whole[w.Name] = true
		if wrong {
			mended = append(mended, fmt.Sprintf("ip link set %s up mtu %d", w.Name, w.MTU))
		}
	}
	if !mended.Empty() {
		l.noteChange(stageLink, true, mended)
	}
	return whole, errors.Join(faults...)
}

type routeTo struct {
	dst netip.Prefix
	dev string
}

// drifted says what was done, as commands.
type drifted []string

func (d drifted) Empty() bool    { return len(d) == 0 }
func (d drifted) String() string { return strings.Join(d, "\n") }

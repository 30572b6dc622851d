//go:build linux

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/state"
)

// The names of the stages, as in metrics and logs.
const (
	stageSysctl = "sysctl"
	stageTable  = "nft"
	stageLink   = "link"
	stagePeers  = "wg"
	stageRoute  = "route"
)

// Stages lists the names of the stages in their order.
func Stages() []string { return []string{stageSysctl, stageTable, stageLink, stagePeers, stageRoute} }

// stage writes one part of the wanted state when it has changed, or when the kernel's may have.
type stage[W any] struct {
	name  string
	kinds Kind
	equal func(a, b W) bool
	// ensure makes the kernel as wanted. fresh says not to trust what was written before.
	ensure func(ctx context.Context, want W, fresh bool) (Change, error)

	last  W
	done  bool // last is in force as far as we know
	known bool // last was in force at some time
}

func (s *stage[W]) run(ctx context.Context, l *Loop, kinds Kind, want W) error {
	same := s.known && s.equal(s.last, want)
	suspect := kinds&s.kinds != 0
	if s.done && same && !suspect {
		return nil
	}
	change, err := s.ensure(ctx, want, suspect || !s.done)
	if change != nil && !change.Empty() {
		l.noteChange(s.name, same && s.done && !onlyEndpoints(change), change)
	}
	if err != nil {
		s.done = false
		l.cfg.Recorder.StageFailed(s.name)
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.last, s.done, s.known = want, true, true
	return nil
}

func (l *Loop) noteChange(stage string, drift bool, change Change) {
	if !drift {
		l.cfg.Log.Debug("changed", "stage", stage, "change", change.String())
		return
	}
	l.cfg.Recorder.DriftRepaired(stage)
	l.cfg.Log.Info("put back what somebody else had changed", "stage", stage, "change", change.String())
}

type routing struct {
	routes []state.Route
	rules  []state.Rule
}

func (r routing) equal(o routing) bool {
	return slices.EqualFunc(r.routes, o.routes, state.Route.Equal) && slices.EqualFunc(r.rules, o.rules, state.Rule.Equal)
}

type stages struct {
	sysctl       stage[[]state.Sysctl]
	deviceSysctl stage[[]state.Sysctl]
	// tabling is held while the wanted table is computed and written, so that nothing that AllowPod has
	// added is taken for a leftover of a state that was read before.
	tabling sync.Mutex
	table   stage[state.Table]
	link    stage[[]state.Link]
	peers   map[string]*stage[state.Device]
	routing stage[routing]

	// waiting are the devices that the wireguard process has not made yet.
	waiting      []string
	peersChanged bool
	// podsDone says that what Pods said in this pass is in force.
	podsDone bool
	// podFaults are those of single Pods' links and routes when last looked at. They do not make the
	// node unready.
	podFaults error
}

func newStages(l *Loop) stages {
	k := l.cfg.Kernel
	writeSysctl := func(ctx context.Context, want []state.Sysctl, _ bool) (Change, error) {
		return k.Sysctl.Ensure(ctx, want)
	}
	return stages{
		// Nobody tells when a setting changes.
		sysctl:       stage[[]state.Sysctl]{name: stageSysctl, kinds: KindLinks | KindPoll, equal: slices.Equal[[]state.Sysctl], ensure: writeSysctl},
		deviceSysctl: stage[[]state.Sysctl]{name: stageSysctl, kinds: KindLinks | KindPoll, equal: slices.Equal[[]state.Sysctl], ensure: writeSysctl},
		table: stage[state.Table]{name: stageTable, kinds: KindTable, equal: state.Table.Equal,
			ensure: func(ctx context.Context, want state.Table, fresh bool) (Change, error) {
				if fresh {
					return k.NFT.Ensure(ctx, want)
				}
				return k.NFT.Update(ctx, want)
			}},
		link: stage[[]state.Link]{name: stageLink, kinds: KindLinks, ensure: l.ensureLinks,
			equal: func(a, b []state.Link) bool { return slices.EqualFunc(a, b, state.Link.Equal) }},
		peers: map[string]*stage[state.Device]{},
		// A link that goes down takes its routes along, and IPv6 tells nobody.
		routing: stage[routing]{name: stageRoute, kinds: KindRoutes | KindLinks, equal: routing.equal, ensure: l.ensureRoutes},
	}
}

// run writes the plan, in the order that never leaves a way open: forwarding and the fail-closed
// table stand before the first device, and the device has its peers before a route leads to it.
func (s *stages) run(ctx context.Context, l *Loop, kinds Kind) error {
	if err := s.failClosed(ctx, l, kinds); err != nil {
		return err // no interface without it
	}
	if l.plan.Waiting != "" {
		return nil
	}
	node := s.sysctl.run(ctx, l, kinds, l.plan.Sysctls)
	return errors.Join(node, s.devices(ctx, l, kinds), s.routes(ctx, l, kinds))
}

// podsOnly puts in force what Sync is waited for with: the host ports. The routes to Pods come with
// their links.
func (s *stages) podsOnly(ctx context.Context, l *Loop) error {
	err := s.failClosed(ctx, l, KindPods)
	if err != nil {
		l.fault.tell(l.cfg.Log, "not everything is in force; trying again", "everything is in force again", err)
	}
	return err
}

func (l *Loop) pods() PodState {
	if l.cfg.Pods == nil {
		return PodState{}
	}
	return l.cfg.Pods.Desired()
}

// failClosed keeps the table. Before the pools are known a table that stands is better than one
// that would be made of nothing.
func (s *stages) failClosed(ctx context.Context, l *Loop, kinds Kind) error {
	if l.plan.Partial && len(l.plan.Pools) == 0 {
		s.podsDone = true
		return nil
	}
	nodeIPs := slices.Clone(l.plan.Own.NodeIPs)
	nodeIPs = slices.Concat(nodeIPs, l.planned.facts.UplinkAddrs, l.plan.PeerIPs)
	s.tabling.Lock()
	defer s.tabling.Unlock()
	pods := l.pods()
	err := s.table.run(ctx, l, kinds, filter.Table(filter.Input{
		ClusterCIDRs: l.plan.ClusterCIDRs, NodeIPs: nodeIPs, NoMasquerade: l.plan.NoMasquerade,
		Pods: pods.Senders, HostPorts: pods.HostPorts,
	}))
	if s.podsDone = err == nil; s.podsDone {
		l.closed.Store(true)
	}
	return err
}

// AllowPod lets a Pod that Pods.Desired knows by now send from its addresses, at once: CNI ADD does not
// wait for a pass of the loop, which many Pods at once would make longer and longer. Where the table is
// not as it shall be, it does wait.
func (l *Loop) AllowPod(ctx context.Context, p filter.Pod) error {
	s := &l.stages
	s.tabling.Lock()
	err := l.cfg.Kernel.NFT.AddElements(ctx, filter.PodElements(p))
	s.table.known = false // the next pass compares, also where what it wants is what it wanted last
	s.tabling.Unlock()
	if err != nil {
		return l.Sync(ctx)
	}
	return nil
}

func (s *stages) devices(ctx context.Context, l *Loop, kinds Kind) error {
	if err := l.request(); err != nil {
		return err
	}
	var links []state.Link
	for _, d := range l.plan.Devices {
		links = append(links, d.Link)
	}
	// Before the addresses: a node that has IPv6 switched off by default refuses them.
	settings := s.deviceSysctl.run(ctx, l, kinds, l.settingsOfPresent(ctx))
	err := s.link.run(ctx, l, kinds, links)
	if err == nil && settings == nil {
		settings = s.deviceSysctl.run(ctx, l, kinds, l.settingsOfPresent(ctx))
	}
	errs := []error{settings, err}
	for _, d := range l.plan.Devices {
		if !slices.Contains(s.waiting, d.Link.Name) {
			errs = append(errs, s.devicePeers(ctx, l, d.WG))
		}
	}
	return errors.Join(errs...)
}

// request tells the wireguard process which devices it shall run.
func (l *Loop) request() error {
	if l.cfg.Request == nil {
		return nil
	}
	var errs []error
	for _, d := range l.plan.Devices {
		errs = append(errs, l.cfg.Request(d.Link.Name, d.Link.MTU, d.Link.Kind == state.LinkTUN))
	}
	return errors.Join(errs...)
}

func (l *Loop) ensureLinks(ctx context.Context, want []state.Link, _ bool) (Change, error) {
	have, err := l.cfg.Kernel.Link.Observe(ctx)
	if err != nil {
		return nil, err
	}
	change := link.Diff(have, want)
	l.stages.waiting = change.Waiting
	if err := l.cfg.Kernel.Link.Apply(ctx, change); err != nil {
		return change, err
	}
	if len(change.Waiting) > 0 {
		return change, fmt.Errorf("waiting for the wireguard process to make %v; is its Pod running on this node?", change.Waiting)
	}
	return change, nil
}

// settingsOfPresent are the settings of the devices that exist.
func (l *Loop) settingsOfPresent(ctx context.Context) []state.Sysctl {
	present, err := l.cfg.Kernel.Link.Observe(ctx)
	if err != nil {
		return nil // the link stage meets the same error and reports it
	}
	var out []state.Sysctl
	for _, p := range present {
		out = append(out, mesh.SettingsOf(l.plan.DeviceSysctls, p.Name)...)
	}
	return state.SortSysctls(out)
}

// devicePeers compares the peers with the kernel's in every pass, since nothing tells of their
// change.
func (s *stages) devicePeers(ctx context.Context, l *Loop, want state.Device) error {
	st := s.peers[want.Name]
	if st == nil {
		st = &stage[state.Device]{name: stagePeers, kinds: KindAll, equal: sameWish, ensure: l.ensurePeers}
		s.peers[want.Name] = st
	}
	return st.run(ctx, l, KindPoll, want)
}

// sameWish tells whether two plans want the same. An endpoint is asked for once and then left to
// roam, so it is no part of it.
func sameWish(a, b state.Device) bool {
	return a.Name == b.Name && a.ListenPort == b.ListenPort && a.PrivateKey.Equal(b.PrivateKey) &&
		slices.EqualFunc(a.Peers, b.Peers, func(p, q state.Peer) bool {
			return p.PublicKey == q.PublicKey && p.Keepalive == q.Keepalive && slices.Equal(p.AllowedIPs, q.AllowedIPs)
		})
}

// onlyEndpoints tells whether a change does nothing but send somewhere else, which is a decision
// and not the repair of one.
func onlyEndpoints(c Change) bool {
	change, ok := c.(wg.Change)
	return ok && change.PrivateKey.IsZero() && change.ListenPort == 0 && len(change.Remove) == 0 &&
		!slices.ContainsFunc(change.Set, func(p wg.PeerChange) bool {
			return p.Create || len(p.AllowedIPs) > 0 || p.ReplaceAllowedIPs || p.SetKeepalive || p.SetPresharedKey
		})
}

func (l *Loop) ensurePeers(ctx context.Context, want state.Device, _ bool) (Change, error) {
	have := l.have[want.Name]
	if have.Name == "" {
		var err error
		if have, err = l.cfg.Kernel.WG.Observe(ctx, want.Name); err != nil {
			return nil, err
		}
	}
	if l.plan.Partial {
		want = mesh.KeepDevice(have, want)
	}
	change := wg.Diff(have, want)
	l.stages.peersChanged = l.stages.peersChanged || !change.Empty()
	return change, l.cfg.Kernel.WG.Apply(ctx, change)
}

// routes are those of the mesh; the Pods' are added when the kernel has been looked at.
func (s *stages) routes(ctx context.Context, l *Loop, kinds Kind) error {
	want := routing{routes: slices.Clone(l.plan.Routes), rules: l.plan.Rules}
	want.routes = slices.DeleteFunc(want.routes, func(r state.Route) bool { return slices.Contains(s.waiting, r.Dev) })
	return s.routing.run(ctx, l, kinds, want)
}

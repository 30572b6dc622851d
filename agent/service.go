//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/facts"
	"github.com/weftnet/weftnet/agent/healthcheck"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	kernelproxy "github.com/weftnet/weftnet/agent/kernel/kubeproxy"
	"github.com/weftnet/weftnet/agent/kernel/listener"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/kubeproxy"
	"github.com/weftnet/weftnet/agent/reconcile/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/source"
	sourceservice "github.com/weftnet/weftnet/agent/source/service"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/agent/status"
)

// proxy is the service proxy's parts, wired; nil while it is switched off.
type proxy struct {
	source *sourceservice.Source
	table  *nft.Kernel
	flows  *conntrack.Kernel
	loop   *service.Loop
	health *healthcheck.Services
	node   healthcheck.Node
	ports  *service.NodePorts
	// settings are those of connection tracking.
	settings service.Settings
	// listeners are the local processes'.
	listeners *listener.Kernel
	// rival looks for a kube-proxy beside ours.
	rival  *kubeproxy.Watcher
	finder *kernelproxy.Finder
}

// buildProxy makes the parts. Switched off, it takes away what an earlier run has left.
func (a *agent) buildProxy(api *source.Connections, metrics *status.Metrics) error {
	table, err := nft.NewTable(state.ServiceTableName)
	if err != nil {
		return err
	}
	if !a.o.serviceProxy {
		return errors.Join(table.Cleanup(context.Background()), table.Close())
	}
	p := &proxy{table: table}
	if p.flows, err = conntrack.New(); err != nil {
		return err
	}
	if p.source, err = sourceservice.New(sourceservice.Config{Node: a.o.node, REST: api.Shared, Apart: api.Apart}); err != nil {
		return err
	}
	if p.listeners, err = listener.New(); err != nil {
		return err
	}
	log := a.log.With("part", "service proxy")
	checks := healthcheck.Config{
		Healthy: func(now time.Time) bool { return p.loop.Healthy(now) }, Updated: func() time.Time { return p.loop.Updated() },
		Eligible: func() bool { return !p.source.Node().Leaving }, Log: log,
	}
	proxyMetrics := status.NewServiceMetrics(metrics)
	p.health, p.ports = healthcheck.NewServices(checks), service.NewNodePorts(p.listeners.List, log)
	p.node = healthcheck.Node{Config: checks, Port: healthcheck.NodePort, Answered: proxyMetrics.Answered}
	quietly := func(much func() error) error {
		defer a.processors.work()()
		return table.Quietly(much)
	}
	p.loop = service.New(service.Config{
		Source: p.source, Table: table, Watch: table.Subscribe, Quietly: quietly, Sizes: table.Sizes, Flows: p.flows, Closed: a.loop.FailClosed, Facts: a.serviceNode,
		Sinks:    []service.Sink{a.sockets, p.health, p.ports},
		Problems: []func() []desired.Problem{p.health.Problems, p.ports.Problems},
		Recorder: proxyMetrics, Log: log, Started: func() {
			a.started()
			// The first lists and the first computation leave garbage many times what stays.
			go debug.FreeOSMemory()
		},
	})
	procSys, err := sysctl.New(a.o.procSysNet)
	if err != nil {
		return err
	}
	p.settings = service.Settings{Table: procSys, Cores: runtime.NumCPU(), Log: log, Config: func() (snapshot.ServiceConfig, bool) {
		snap, known := a.source.Snapshot()
		return snap.Config.ServiceProxy, known
	}}
	metrics.Registry.MustRegister(status.ServiceCollector{Loop: p.loop, Conntrack: p.settings.ConntrackUse})
	if p.finder, err = kernelproxy.New(); err != nil {
		return err
	}
	p.rival = &kubeproxy.Watcher{Kernel: p.finder, Log: a.log}
	a.proxy = p
	return nil
}

// proxyWork is what runs for the service proxy, by name.
func (a *agent) proxyWork() map[string]func(context.Context) error {
	p := a.proxy
	if p == nil {
		return nil
	}
	return map[string]func(context.Context) error{
		"watch Services":                   plain(p.source.Run),
		"size connection tracking":         plain(p.settings.Run),
		"answer health checks of Services": plain(p.health.Run),
		"answer health checks of the node": plain(p.node.Run),
		"look for processes on node ports": func(ctx context.Context) error {
			p.ports.Run(ctx)
			return p.listeners.Close()
		},
		"look for kube-proxy": func(ctx context.Context) error {
			p.rival.Run(ctx)
			return p.finder.Close()
		},
		"serve Services": func(ctx context.Context) error {
			return errors.Join(p.loop.Run(ctx), p.table.Close(), p.flows.Close())
		},
	}
}

// kubeProxy is what was found of one; nothing is looked for while our own proxy is switched off.
func (a *agent) kubeProxy() (kubeproxy.Finding, bool) {
	if a.proxy == nil {
		return kubeproxy.Finding{}, false
	}
	return a.proxy.rival.Finding()
}

// serviceNode is what the service proxy has to know of this node.
func (a *agent) serviceNode() (snapshot.ServiceNode, bool) {
	node := a.proxy.source.Node()
	snap, known := a.source.Snapshot()
	if !known || len(node.IPs) == 0 {
		return snapshot.ServiceNode{}, false
	}
	out := snapshot.ServiceNode{Name: node.Name, Zone: node.Zone, NodeIPs: node.IPs, ServiceCIDRs: a.proxy.source.CIDRs()}
	if ranges := snap.Config.ServiceProxy.NodePortAddresses; len(ranges) > 0 {
		report, _ := a.loop.Report()
		if len(report.Links) == 0 {
			// Not looked at yet. Without it all NodePorts would go at a restart, and come again.
			return snapshot.ServiceNode{}, false
		}
		out.NodePortIPs = addressesIn(report.Links, ranges)
	} else {
		out.NodePortIPs = primary(node.IPs)
	}
	slices.SortFunc(out.NodePortIPs, netip.Addr.Compare)
	slices.SortFunc(out.ServiceCIDRs, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	return out, true
}

// primary is the first address of each family.
func primary(all []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addr := range all {
		if !slices.ContainsFunc(out, func(o netip.Addr) bool { return state.FamilyOf(o) == state.FamilyOf(addr) }) {
			out = append(out, addr)
		}
	}
	return out
}

// addressesIn are the node's addresses in some range, of any link but the loopback and our own.
func addressesIn(links []facts.Link, ranges []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, link := range links {
		if link.Loopback || link.Ours() {
			continue
		}
		for _, addr := range link.Addresses {
			in := func(p netip.Prefix) bool { return p.Contains(addr.Addr) }
			if slices.ContainsFunc(ranges, in) && !slices.Contains(out, addr.Addr) {
				out = append(out, addr.Addr)
			}
		}
	}
	return out
}

// podReady tells whether a Pod can be given a network that works: the mesh is in force and, for a while
// after the start, Services are.
func (a *agent) podReady() error {
	if err := a.loop.Ready(); err != nil || a.proxy == nil {
		return err
	}
	return a.proxy.loop.Admit(time.Now())
}

// proxyReport is nil while the proxy is switched off.
func (a *agent) proxyReport() func() (service.Report, bool) {
	if a.proxy == nil {
		return nil
	}
	return a.proxy.loop.Report
}

// proxyReady tells whether Services are in force, where they are wanted.
func (a *agent) proxyReady() error {
	if a.proxy == nil {
		return nil
	}
	if err := a.proxy.loop.Ready(); err != nil {
		return fmt.Errorf("service proxy: %w", err)
	}
	return nil
}

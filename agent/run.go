//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	eventsv1 "k8s.io/api/events/v1"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/cniinstall"
	"github.com/weftnet/weftnet/agent/cniserver"
	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/desired/mesh"
	desiredpod "github.com/weftnet/weftnet/agent/desired/pod"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/keystore"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/agent/reconcile/flow"
	"github.com/weftnet/weftnet/agent/reconcile/socket"
	"github.com/weftnet/weftnet/agent/source"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/agent/status"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/wireguard/request"
)

// agent is the parts, wired.
type agent struct {
	o         options
	log       *slog.Logger
	source    *source.Source
	kernel    *reconcile.RealKernel
	loop      *reconcile.Loop
	cni       *cniserver.Server
	sockets   *socket.Sink
	flows     *flow.Loop
	proxy     *proxy // nil while it is switched off
	publisher *status.Publisher
	server    status.Server
	// policy is nil where the policy engine is off.
	policy *policies
	// running ends when the agent stops.
	running    context.Context
	processors *processors
	// started says that what takes much memory and work once is over.
	started func()
}

// run makes the parts and lets them work until the context ends or one of them fails for good.
func run(ctx context.Context, o options, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a, err := build(ctx, o, log)
	if err != nil {
		return err
	}
	defer func() { _ = a.kernel.Close() }()
	var work sync.WaitGroup
	start := func(name string, f func(context.Context) error) {
		work.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("watch the API", plain(a.source.Run))
	start("publish the status", plain(a.publisher.Run))
	start("keep the network", func(ctx context.Context) error {
		runtime.LockOSThread() // settings in /proc/sys/net are those of the thread's namespace
		return a.loop.Run(ctx)
	})
	start("answer the CNI plugin", a.cni.Run)
	start("serve metrics", a.server.Run)
	for name, f := range a.policyWork() {
		start(name, f)
	}
	start("look after sockets", plain(a.sockets.Run))
	start("keep the fast path", plain(a.flows.Run))
	for name, f := range a.proxyWork() {
		start(name, f)
	}
	if o.binDir != "" {
		start("install the CNI plugin", a.installer().Run)
	}
	work.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func plain(f func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error { f(ctx); return nil }
}

func build(running context.Context, o options, log *slog.Logger) (*agent, error) {
	a := &agent{o: o, log: log, running: running, processors: newProcessors(os.Getenv)}
	a.started = whileStarting(os.Getenv, a.processors.work())
	keys, err := a.keys()
	if err != nil {
		return nil, err
	}
	rest, err := o.connection.REST()
	if err != nil {
		return nil, err
	}
	api, err := source.Connect(rest)
	if err != nil {
		return nil, err
	}
	store := cache.Cache{Path: filepath.Join(o.stateDir, "peers.json"), Self: o.node}
	if a.source, err = source.New(source.Config{Node: o.node, REST: api.Shared, Cache: store, Log: log}); err != nil {
		return nil, err
	}
	if a.kernel, err = reconcile.OpenKernel(o.procSysNet); err != nil {
		return nil, err
	}
	metrics := status.NewMetrics()
	a.loop = reconcile.New(reconcile.Config{
		Source: a.source, Pods: pods{a}, Keys: keys, Kernel: a.kernel.Kernel(), Watch: a.kernel.Watch,
		OnNetwork: a.shareNetwork, OnAddressGone: api.Renew, Request: a.request, Probe: probe, Backend: o.backend, Log: log, Recorder: metrics,
	})
	if err := a.buildCNI(); err != nil {
		return nil, err
	}
	if err := a.buildFlows(metrics.Registry); err != nil {
		return nil, err
	}
	a.buildSockets(metrics.Registry)
	if err := a.buildProxy(api, metrics); err != nil {
		return nil, err
	}
	weftnet, err1 := source.NewClient(api.Shared, v1alpha1.GroupVersion)
	events, err2 := source.NewClient(api.Shared, eventsv1.SchemeGroupVersion)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := a.buildPolicy(api.Shared, metrics); err != nil {
		return nil, err
	}
	a.acquaint()
	a.publisher = status.NewPublisher(status.Config{
		Node: o.node, Loop: a.loop, Source: a.source, Weftnet: weftnet, Events: events, Log: log, Policy: a.policyReport(), Services: a.proxyReport(),
		Sockets: a.socketReport, FastPath: a.flows.Report, KubeProxy: a.kubeProxy,
	})
	metrics.Registry.MustRegister(status.Collector{Loop: a.loop, Drops: a.drops, Untaken: a.kernel.Dropped}, a.cni.Collector())
	a.server = status.Server{Address: o.metrics, LastTurn: a.loop.LastTurn, Ready: a.ready, Registry: metrics.Registry, Profile: o.profile}
	return a, nil
}

// acquaint lets no table's loop be woken by what another writes. Where the kernel has no such filter each looks
// at more than it needs to, which is no reason not to start.
func (a *agent) acquaint() {
	var tables []*nft.Kernel
	if a.policy != nil {
		tables = append(tables, a.policy.table)
	}
	if a.proxy != nil {
		tables = append(tables, a.proxy.table)
	}
	if err := a.kernel.Acquaint(tables...); err != nil {
		a.log.Debug("each table's events wake all loops", "error", err)
	}
}

func (a *agent) keys() ([]mesh.Key, error) {
	stored, created, err := keystore.Store{Dir: a.o.stateDir}.Ensure()
	if err != nil {
		return nil, err
	}
	var keys []mesh.Key
	for _, k := range stored {
		keys = append(keys, mesh.Key{Epoch: int64(k.Epoch), Private: k.Private})
	}
	last := keys[len(keys)-1]
	a.log.Info("this node's key", "created", created, "epoch", last.Epoch, "publicKey", last.Private.Public().String())
	return keys, nil
}

func (a *agent) buildCNI() error {
	wiring, err := pod.New(pod.Config{ProcSysNet: a.o.procSysNet, Clsact: a.o.fastPath == "auto"})
	if err != nil {
		return err
	}
	flows, err := conntrack.New()
	if err != nil {
		return err
	}
	a.cni, err = cniserver.New(cniserver.Config{
		NodeName: a.o.node, Socket: filepath.Join(a.o.runDir, "cni.sock"), StateDir: filepath.Join(a.o.stateDir, "ipam"),
		Pods: wiring, Rules: rules{a}, Flows: flows, Ready: a.podReady, Logger: a.log,
		Working: a.processors.work,
	})
	return err
}

func (a *agent) installer() *cniinstall.Installer {
	return cniinstall.New(cniinstall.Config{
		Plugin: a.o.plugin, BinDir: a.o.binDir, ConfDir: a.o.confDir, Socket: filepath.Join(a.o.runDir, "cni.sock"),
		Ready: a.loop.Ready, DisableOthers: a.o.disableOthers, Logger: a.log,
	})
}

// request asks the wireguard process for a device, or takes it back.
func (a *agent) request(device string, mtu int, want bool) error {
	dir := filepath.Join(a.o.runDir, "wireguard")
	if !want {
		return request.Remove(dir, device)
	}
	return request.Write(dir, request.Request{Name: device, MTU: mtu})
}

// shareNetwork tells the CNI server what the plan gave this node.
func (a *agent) shareNetwork(n reconcile.Network) {
	if len(n.PodCIDRs) > 0 && n.MTU > 0 {
		a.cni.SetNode(cniserver.Node{Blocks: n.PodCIDRs, Reserved: n.MeshIPs, MTU: n.MTU})
	}
}

func (a *agent) drops(ctx context.Context) ([]status.Drop, error) {
	counters, err := a.kernel.Counters(ctx)
	if err != nil {
		return nil, err
	}
	var out []status.Drop
	for name, direction := range map[string]string{filter.CounterIn: "in", filter.CounterOut: "out", filter.CounterSpoofed: "spoofed"} {
		c := counters[name]
		out = append(out, status.Drop{Direction: direction, Packets: c.Packets, Bytes: c.Bytes})
	}
	return out, nil
}

// pods is the loop's view of the CNI server.
type pods struct{ *agent }

func (p pods) Desired() reconcile.PodState {
	attachments := p.cni.Attachments()
	links := make([]string, len(attachments))
	for i, a := range attachments {
		links[i] = a.HostLink
	}
	plan := desiredpod.Plan(desiredpod.Input{Attachments: attachments, Links: links})
	out := reconcile.PodState{Routes: plan.Routes, HostPorts: plan.HostPorts}
	for _, a := range attachments {
		out.Senders = append(out.Senders, filter.Pod{Link: a.HostLink, Addresses: a.Addresses})
	}
	for _, a := range p.cni.Present() {
		out.Links = append(out.Links, pod.HostEnd{Name: a.HostLink, MTU: a.MTU, Addresses: a.Addresses})
	}
	return out
}

func (p pods) Changed() <-chan struct{} { return p.cni.Changed() }

// rules is the CNI server's view of the loop: what a Pod has in the table is there before its ADD
// is answered.
type rules struct{ *agent }

func (r rules) Add(ctx context.Context, at state.Attachment) error {
	return r.whileRunning(ctx, func(ctx context.Context) error { return errors.Join(r.admit(ctx, at), r.enforce(ctx, at)) })
}

// Remove does not wait for a loop that has not had its first pass: while the agent starts, the CNI
// server ends what has lost its Pod, and the first pass leaves it out.
func (r rules) Remove(ctx context.Context, at state.Attachment) error {
	if r.flows != nil { // nil while the CNI server starts
		if err := r.flows.Forget(at); err != nil {
			return fmt.Errorf("take the pod out of the fast path: %w", err)
		}
	}
	if _, begun := r.loop.Report(); !begun {
		return nil
	}
	return r.whileRunning(ctx, func(ctx context.Context) error { return r.sync(ctx, at) })
}

// whileRunning gives up when the agent stops: its loops have ended then, and a request that waited for them would
// keep the agent from going, and its successor from coming.
func (r rules) whileRunning(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.running, cancel)()
	err := f(ctx)
	if err != nil && r.running.Err() != nil {
		return fmt.Errorf("%w: the agent stops: %w", cniserver.ErrTryAgain, err)
	}
	return err
}

// enforce waits for the whole table where the Pod has host ports, and else for the Pod's part alone.
func (r rules) enforce(ctx context.Context, at state.Attachment) error {
	if len(at.HostPorts) > 0 {
		return r.loop.Sync(ctx)
	}
	return r.loop.AllowPod(ctx, filter.Pod{Link: at.HostLink, Addresses: at.Addresses})
}

func (r rules) sync(ctx context.Context, at state.Attachment) error {
	if len(at.HostPorts) == 0 {
		return nil
	}
	return r.loop.Sync(ctx)
}

// probe sends one empty datagram to the discard port (RFC 863) of each address. That the far side
// has nobody there does not matter: it has to be decrypted to find out.
func probe(addresses []netip.Addr) {
	const discard = 9
	for _, a := range addresses {
		if c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, discard))); err == nil {
			_, _ = c.Write(nil)
			_ = c.Close()
		}
	}
}

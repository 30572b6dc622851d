//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/agent/cniserver"
	desiredpolicy "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	kernelnode "github.com/weftnet/weftnet/agent/kernel/node"
	policyloop "github.com/weftnet/weftnet/agent/reconcile/policy"
	policysource "github.com/weftnet/weftnet/agent/source/policy"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/agent/status"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// policies are the parts of the policy engine; nil where it is off.
type policies struct {
	source *policysource.Source
	table  *nft.Kernel
	flows  *conntrack.Kernel
	addrs  *policyloop.Addresses
	loop   *policyloop.Loop
	denied policyloop.Denied
}

// buildPolicy makes the policy engine, or where it is off removes what an earlier run enforced.
func (a *agent) buildPolicy(cfg *rest.Config, metrics *status.Metrics) error {
	table, err := nft.NewTable(desiredpolicy.TableName)
	if err != nil {
		return fmt.Errorf("open the policy table: %w", err)
	}
	if !a.o.policy {
		if err := table.Cleanup(context.Background()); err != nil {
			return errors.Join(fmt.Errorf("remove the policy table: %w", err), table.Close())
		}
		return table.Close()
	}
	p := &policies{table: table}
	var err1, err2 error
	p.flows, err1 = conntrack.New()
	p.source, err2 = policysource.New(policysource.Config{Node: a.o.node, REST: cfg, Log: a.log})
	own, err3 := kernelnode.NewAddresses()
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	p.addrs = policyloop.NewAddresses(a.running, own, a.log.With("part", "policy"))
	p.loop = policyloop.New(policyloop.Config{
		Source: p.source, Node: a.policyNode, NodeChanged: []<-chan struct{}{a.source.Subscribe(), p.addrs.Changed()},
		Attachments: a.cni.Standing, AttachmentsChanged: a.cni.Changed(),
		Table: table, Flows: p.flows, Echoes: a.flows, Log: a.log.With("part", "policy"), Recorder: metrics.Policy(),
	})
	p.denied = policyloop.Denied{Loop: p.loop, Table: table, Attachments: a.cni.Standing}
	metrics.Registry.MustRegister(status.PolicyCollector{Loop: p.loop, Denied: p.denied})
	a.policy = p
	return nil
}

// admit puts in force what policies say of a new Pod.
func (a *agent) admit(ctx context.Context, at state.Attachment) error {
	if a.policy == nil {
		return nil
	}
	err := a.policy.loop.Admit(ctx, at)
	if errors.Is(err, policyloop.ErrNotYet) {
		return fmt.Errorf("%w: %w", cniserver.ErrTryAgain, err)
	}
	return err
}

// ready is nil when Pods can be given a network.
func (a *agent) ready() error {
	err := a.loop.Ready()
	if err == nil && a.policy != nil {
		err = a.policy.loop.Ready()
	}
	return errors.Join(err, a.proxyReady())
}

func (a *agent) policyReport() func() (policyloop.Report, bool) {
	if a.policy == nil {
		return nil
	}
	return a.policy.loop.Report
}

// policyNode is what the mesh knows and policies need.
func (a *agent) policyNode() policyloop.Node {
	n := policyloop.Node{Self: desiredpolicy.Self{Name: a.o.node}, MeshIPs: map[string][]netip.Addr{}}
	snap, _ := a.source.Snapshot()
	for _, node := range snap.Nodes {
		for _, text := range node.MeshIPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				n.MeshIPs[node.Name] = append(n.MeshIPs[node.Name], ip)
			}
		}
	}
	n.Self.IPs = slices.Concat(snap.InternalIPs, snap.ExternalIPs, n.MeshIPs[a.o.node])
	// Whichever of its links the node sends from, it is the node.
	n.Self.IPs = append(n.Self.IPs, a.policy.addrs.Known()...)
	n.Options = policyOptions(snap.Config.Policy.LogDenied, int64(snap.Config.Policy.LogRate))
	return n
}

// policyOptions are what the MeshConfig says of the log.
func policyOptions(logDenied string, logRate int64) desiredpolicy.Options {
	return desiredpolicy.Options{Log: logModes[v1alpha1.LogDenied(logDenied)], LogRate: uint32(max(logRate, 0))}
}

var logModes = map[v1alpha1.LogDenied]desiredpolicy.LogMode{
	v1alpha1.LogAnnotated: desiredpolicy.LogAnnotated, v1alpha1.LogNever: desiredpolicy.LogNever, v1alpha1.LogAll: desiredpolicy.LogAll,
}

// logDenied writes a line for every packet that the rules send word of. Another program that reads the
// same group takes the lines and nothing else, so it is no reason to stop.
func (a *agent) logDenied(ctx context.Context) error {
	return a.policy.denied.Log(ctx, a.log.With("part", "policy"))
}

// parts of the policy engine that run, by what they do.
func (a *agent) policyWork() map[string]func(context.Context) error {
	if a.policy == nil {
		return nil
	}
	return map[string]func(context.Context) error{
		"watch the policies":           plain(a.policy.source.Run),
		"keep the policies":            a.policy.loop.Run,
		"log denied packets":           a.logDenied,
		"hear of the node's addresses": plain(a.policy.addrs.Run),
	}
}

// Package status is the one way back: it tells the cluster what the loop found, as the status of
// this node's MeshNode, as events and as metrics. The API is written to only when something that
// matters has changed, and not more often than every second.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/agent/kubeproxy"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/agent/reconcile/flow"
	"github.com/weftnet/weftnet/agent/reconcile/policy"
	"github.com/weftnet/weftnet/agent/reconcile/service"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

const (
	fieldManager = "weftnet-agent"
	// interval is the least time between two writes.
	interval = time.Second
	// countInterval is that between two writes that only change the peers' count: every write is
	// told to every agent of the cluster.
	countInterval = 10 * time.Second
	// refresh looks again without a report, because a handshake grows old in silence.
	refresh = 5 * time.Second
	// retryAfter a write that failed.
	retryAfter = 3 * time.Second
	// waitForNode is how often it is looked whether the MeshNode is there, in memory.
	waitForNode = 50 * time.Millisecond
	// watchLag is how long a write may take to come back by the watch.
	watchLag = 3 * time.Second
	// requestTimeout of one write.
	requestTimeout = 10 * time.Second
	// eventNamespace holds the events of objects that are in no namespace.
	eventNamespace = "default"
	// maxEvents bounds what one agent remembers having told.
	maxEvents = 1000
)

// Source is what the publisher asks of the cluster's state.
type Source interface {
	Snapshot() (snapshot.Snapshot, bool)
}

// Loop is what it asks of the loop.
type Loop interface {
	Report() (reconcile.Report, bool)
	Reported() <-chan struct{}
}

// Config of a Publisher.
type Config struct {
	Node   string
	Loop   Loop
	Source Source
	// Weftnet and Events are clients of the groups weftnet.io/v1alpha1 and events.k8s.io/v1.
	Weftnet, Events rest.Interface
	// KubeProxy tells what was found of a kube-proxy beside Weftnet's own service proxy; nil looks for none.
	KubeProxy func() (kubeproxy.Finding, bool)
	// Policy tells what the policy engine found; nil where it is off.
	Policy func() (policy.Report, bool)
	// Services tells what the service proxy found; nil where it is off.
	Services func() (service.Report, bool)
	// Sockets tells what the balancer at the socket does; nil where there is none.
	Sockets func() (bpf.Report, bool)
	// FastPath tells what the fast path between Pods does; nil where there is none.
	FastPath func() flow.Report
	Log      *slog.Logger
}

// Publisher writes the status of one MeshNode.
type Publisher struct {
	cfg     Config
	written *v1alpha1.MeshNodeStatus
	at      time.Time // of the last write
	looked  time.Time // when it was last read back because it seemed to be changed
	told    map[mesh.Problem]bool
}

// NewPublisher makes a publisher that has not started.
func NewPublisher(cfg Config) *Publisher {
	return &Publisher{cfg: cfg, told: map[mesh.Problem]bool{}}
}

// Run publishes until the context ends. Failures are logged and tried again.
func (p *Publisher) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	reported, said := p.cfg.Loop.Reported(), ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-reported:
		case <-timer.C:
		}
		next, err := p.publish(ctx, time.Now())
		timer.Reset(next)
		reported = p.cfg.Loop.Reported()
		text := ""
		if err != nil {
			reported, text = nil, err.Error() // the timer says when to try again
		}
		if text != said && err != nil && ctx.Err() == nil {
			p.cfg.Log.Warn("publish the status; trying again", "error", err)
		}
		said = text
	}
}

// publish writes what is due, and says when to look again.
func (p *Publisher) publish(ctx context.Context, now time.Time) (time.Duration, error) {
	report, ok := p.cfg.Loop.Report()
	if !ok {
		return refresh, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if p.overwritten(now) {
		p.cfg.Log.Warn("somebody else has changed the status of this node's MeshNode; putting it right")
		p.written, p.looked = nil, now
	}
	if p.written == nil {
		if snap, ok := p.cfg.Source.Snapshot(); ok && !snap.Partial && !has(snap) {
			return waitForNode, errNoMeshNode // the watch will say when it is there
		}
		if err := p.readBack(ctx); err != nil {
			return retryAfter, err
		}
	}
	rival := p.kubeProxy()
	want := Compute(Observed{Report: report, Generation: p.generation(), KubeProxy: rival, Policy: p.policy(), Services: p.services(), Sockets: p.sockets(), FastPath: p.fastPath(), Before: p.written.Conditions, Now: now})
	problems := p.problems(report.Plan, rival)
	if wait, due := p.due(want, now); !due {
		return wait, p.tell(ctx, problems, now)
	}
	p.at = now
	if err := p.apply(ctx, want); err != nil {
		return retryAfter, err
	}
	p.written = &want
	return refresh, p.tell(ctx, problems, now)
}

func (p *Publisher) policy() *policy.Report {
	if p.cfg.Policy == nil {
		return nil
	}
	r, begun := p.cfg.Policy()
	if !begun {
		r.Waiting = "the policy engine has just started"
	}
	return &r
}

func (p *Publisher) services() *service.Report {
	if p.cfg.Services == nil {
		return nil
	}
	r, begun := p.cfg.Services()
	if !begun {
		r.Waiting = "the service proxy has just started"
	}
	return &r
}

func (p *Publisher) sockets() *bpf.Report {
	if p.cfg.Sockets == nil {
		return nil
	}
	if r, known := p.cfg.Sockets(); known {
		return &r
	}
	return nil
}

func (p *Publisher) fastPath() *flow.Report {
	if p.cfg.FastPath == nil {
		return nil
	}
	if r := p.cfg.FastPath(); r.Asked || r.Err != nil {
		return &r
	}
	return nil
}

func (p *Publisher) kubeProxy() *kubeproxy.Finding {
	if p.cfg.KubeProxy == nil {
		return nil
	}
	if f, known := p.cfg.KubeProxy(); known {
		return &f
	}
	return nil
}

// problems are those to make events of: none of a plan that is partial.
func (p *Publisher) problems(plan mesh.Output, rival *kubeproxy.Finding) []mesh.Problem {
	var all []mesh.Problem
	if !plan.Partial {
		all = append(all, plan.Problems...)
	}
	if r := p.services(); r != nil && r.Synced {
		all = append(all, serviceProblems(p.cfg.Node, *r)...)
	}
	if rival != nil && rival.Present() {
		all = append(all, mesh.Problem{Kind: mesh.KindMeshNode, Name: p.cfg.Node, Reason: rival.Reason(), Message: rival.Message()})
	}
	return all
}

// due tells whether to write now, and if not when to look again.
func (p *Publisher) due(want v1alpha1.MeshNodeStatus, now time.Time) (time.Duration, bool) {
	if equality.Semantic.DeepEqual(*p.written, want) {
		return refresh, false
	}
	pause := interval
	if sameButPeers(*p.written, want) {
		pause = countInterval
	}
	if wait := pause - now.Sub(p.at); wait > 0 {
		return wait, false
	}
	return 0, true
}

// sameButPeers tells whether the two differ in nothing but how many peers are connected and which.
func sameButPeers(a, b v1alpha1.MeshNodeStatus) bool {
	a.Peers, b.Peers = v1alpha1.PeerSummary{}, v1alpha1.PeerSummary{}
	if len(a.Conditions) != len(b.Conditions) {
		return false
	}
	for i := range a.Conditions {
		x, y := a.Conditions[i], b.Conditions[i]
		if x.Type != y.Type || x.Status != y.Status || x.ObservedGeneration != y.ObservedGeneration {
			return false
		}
	}
	a.Conditions, b.Conditions = nil, nil
	return equality.Semantic.DeepEqual(a, b)
}

// overwritten tells whether the MeshNode says something else than was written last: somebody has edited it, or
// deleted it and the operator has made it anew.
func (p *Publisher) overwritten(now time.Time) bool {
	snap, ok := p.cfg.Source.Snapshot()
	own, there := snap.Own()
	if !ok || snap.Partial || !there || p.written == nil || now.Sub(p.at) < watchLag || now.Sub(p.looked) < watchLag {
		return false
	}
	w := p.written
	return own.PublicKey != w.PublicKey || own.KeyEpoch != w.KeyEpoch || own.ListenPort != w.ListenPort || own.MTU != w.MTU ||
		!slices.Equal(own.Endpoints, w.Endpoints) || !slices.Equal(own.NATPeers, w.NATPeers)
}

func (p *Publisher) generation() int64 {
	snap, _ := p.cfg.Source.Snapshot()
	own, _ := snap.Own()
	return own.Generation
}

// readBack finds out what an earlier run has written, so that a restart writes nothing.
func (p *Publisher) readBack(ctx context.Context) error {
	var have v1alpha1.MeshNode
	err := p.cfg.Weftnet.Get().Resource("meshnodes").Name(p.cfg.Node).Do(ctx).Into(&have)
	if apierrors.IsNotFound(err) {
		return errNoMeshNode
	}
	if err != nil {
		return fmt.Errorf("read this node's MeshNode: %w", err)
	}
	s := have.Status
	s.Conditions = ownConditions(s.Conditions)
	p.written = &s
	return nil
}

var errNoMeshNode = errors.New("this node has no MeshNode yet; the operator makes it")

func has(s snapshot.Snapshot) bool {
	_, ok := s.Own()
	return ok
}

// ownConditions leaves out what the operator writes.
func ownConditions(all []metav1.Condition) []metav1.Condition {
	var out []metav1.Condition
	for _, kind := range []string{v1alpha1.ConditionKubeProxyPresent, v1alpha1.ConditionMeshReady, v1alpha1.ConditionPeersConnected,
		v1alpha1.ConditionPolicyReady, v1alpha1.ConditionReady, v1alpha1.ConditionServiceProxyReady, v1alpha1.ConditionSocketBalancing} {
		for _, c := range all {
			if c.Type == kind {
				out = append(out, c)
			}
		}
	}
	return out
}

// apply writes the status by server-side apply, which leaves the operator's condition alone.
func (p *Publisher) apply(ctx context.Context, s v1alpha1.MeshNodeStatus) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "MeshNode",
		"metadata": map[string]any{"name": p.cfg.Node}, "status": s,
	})
	if err != nil {
		return fmt.Errorf("encode the status: %w", err)
	}
	err = p.cfg.Weftnet.Patch(types.ApplyPatchType).Resource("meshnodes").Name(p.cfg.Node).SubResource("status").
		Param("fieldManager", fieldManager).Param("force", "true").Body(body).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		p.written = nil // made anew, it is empty
	}
	if err != nil {
		return fmt.Errorf("apply the status of MeshNode %s: %w", p.cfg.Node, err)
	}
	return nil
}

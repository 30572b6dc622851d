//go:build e2e && rolling

package service

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/weftnet/weftnet/test/harness"
)

// podLedger knows the life of every Pod of the Deployment, by address.
type podLedger struct {
	mu     sync.Mutex
	byAddr map[netip.Addr][]*podLife
	byUID  map[string]*podLife
}

type podLife struct {
	name, node                     string
	addrs                          int
	created, ready, deleting, gone time.Time
}

// watchPods writes the ledger until the test ends.
func watchPods(t *testing.T) *podLedger {
	t.Helper()
	l := &podLedger{byAddr: map[netip.Addr][]*podLife{}, byUID: map[string]*podLife{}}
	factory := informers.NewSharedInformerFactoryWithOptions(cluster.Client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "app=roller" }))
	informer := factory.Core().V1().Pods().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { l.saw(o, false) },
		UpdateFunc: func(_, o any) { l.saw(o, false) },
		DeleteFunc: func(o any) { l.saw(o, true) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { stop(); factory.Shutdown() })
	if !cache.WaitForCacheSync(t.Context().Done(), informer.HasSynced) {
		t.Fatal("the Pods cannot be watched")
	}
	return l
}

func (l *podLedger) saw(o any, gone bool) {
	if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	life := l.byUID[string(pod.UID)]
	if life == nil {
		life = &podLife{name: pod.Name, created: pod.CreationTimestamp.Time}
		l.byUID[string(pod.UID)] = life
	}
	now := time.Now()
	life.node = pod.Spec.NodeName
	addrs := harness.Addresses(pod)
	for _, a := range addrs[min(life.addrs, len(addrs)):] {
		l.byAddr[a] = append(l.byAddr[a], life)
	}
	life.addrs = max(life.addrs, len(addrs))
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && life.ready.IsZero() {
			life.ready = now
		}
	}
	if pod.DeletionTimestamp != nil && life.deleting.IsZero() {
		life.deleting = now
	}
	if gone {
		life.gone = now
	}
}

// what tells who had an address at a time, and what it was doing.
func (l *podLedger) what(addr netip.Addr, at time.Time) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lives := l.byAddr[addr.Unmap()]
	if len(lives) == 0 {
		return fmt.Sprintf("%s, which no Pod had", addr)
	}
	p := lives[len(lives)-1]
	for _, life := range lives {
		if !life.created.After(at) {
			p = life
		}
	}
	return fmt.Sprintf("%s on %s, %s", p.name, p.node, p.stage(at))
}

func (p *podLife) stage(at time.Time) string {
	since := func(t time.Time) string { return at.Sub(t).Round(100 * time.Millisecond).String() }
	switch {
	case !p.gone.IsZero() && at.After(p.gone):
		return "gone for " + since(p.gone)
	case !p.deleting.IsZero() && at.After(p.deleting):
		return "terminating for " + since(p.deleting)
	case !p.ready.IsZero() && at.After(p.ready):
		return "ready for " + since(p.ready)
	default:
		return "not ready yet, created " + since(p.created) + " before"
	}
}

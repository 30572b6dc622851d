//go:build linux

package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/policy"
)

const (
	// settle gathers the changes that come together.
	settle = time.Millisecond
	// resync looks at everything again, in case an event was missed.
	resync        = 30 * time.Second
	shortestPause = 50 * time.Millisecond
	longestPause  = 5 * time.Second
	passTimeout   = 30 * time.Second
)

// Run turns the loop until the context ends. It leaves everything standing when it returns.
func (l *Loop) Run(ctx context.Context) error {
	go l.cut.run(ctx)
	go l.follow(ctx, l.cfg.Source.Changed(), func() {})
	for _, c := range l.cfg.NodeChanged {
		go l.follow(ctx, c, func() { l.moved.Store(true) })
	}
	go l.follow(ctx, l.cfg.AttachmentsChanged, func() { l.moved.Store(true) })
	go l.watch(ctx)
	l.moved.Store(true)
	signal(l.woken)
	again := time.NewTicker(resync)
	defer again.Stop()
	pause, retry := shortestPause, time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			l.moved.Store(true)
			l.foreign.Store(true)
		case <-retry.C:
		case <-l.woken:
			sleep(ctx, settle)
		}
		if err := l.turn(ctx); err != nil || len(l.refused.links) > 0 {
			retry.Reset(pause)
			pause = min(2*pause, longestPause)
		} else {
			pause = shortestPause
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (l *Loop) follow(ctx context.Context, from <-chan struct{}, note func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-from:
			if !open {
				return
			}
			note()
			signal(l.woken)
		}
	}
}

// watch hears of others' changes of the table. When the subscription ends it begins anew, and the
// table is looked at, since events may have been missed.
func (l *Loop) watch(ctx context.Context) {
	for ctx.Err() == nil {
		events, err := l.cfg.Table.Subscribe(ctx)
		if err != nil {
			l.cfg.Log.Warn("hear of changes of the policy table; trying again", "error", err)
			sleep(ctx, longestPause)
			continue
		}
		l.foreign.Store(true)
		signal(l.woken)
		for range events {
			l.foreign.Store(true)
			signal(l.woken)
		}
	}
}

// turn is one pass, with its outcome told to whoever wants to know.
func (l *Loop) turn(ctx context.Context) error {
	upTo := l.asked.soFar()
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	waiting, err := l.pass(ctx)
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return nil // the agent is stopping
	}
	if err != nil {
		l.cfg.Recorder.Failed()
	}
	told := err
	if waiting != "" {
		told = errors.New(waiting)
	}
	defer l.asked.served(upTo, told) // who is served finds the report of this pass
	l.tell(l.outcome(waiting, err))
	return err
}

// outcome is the report of a pass. As long as Pods are closed it has the error for which they are, whether or not this pass has
// tried again; those that the kernel did not let us close either are not called closed.
func (l *Loop) outcome(waiting string, err error) Report {
	r := Report{Waiting: waiting, Err: err, At: time.Now()}
	if l.broken {
		return r
	}
	r.Shut, r.shut = l.refused.names(l.attached), maps.Clone(l.refused.links)
	if err == nil {
		r.Err = l.refused.err()
	}
	return r
}

func (l *Loop) tell(r Report) {
	text := r.Waiting
	if r.Err != nil {
		text = r.Err.Error()
	}
	text += strings.Join(r.Shut, " ")
	if old := l.report.Swap(&r); old != nil && text == l.fault {
		return
	}
	signal(l.reported)
	switch {
	case r.Err != nil:
		l.cfg.Log.Warn("not every policy is in force; trying again", "error", r.Err, "closed", r.Shut)
	case r.Waiting != "":
		l.cfg.Log.Info("policies wait", "for", r.Waiting)
	default:
		l.cfg.Log.Info("policies are in force")
	}
	l.fault = text
}

// pass tells the engine what is new, and writes what comes of it.
func (l *Loop) pass(ctx context.Context) (waiting string, err error) {
	changes := l.cfg.Source.Take()
	moved := l.moved.Swap(false)
	l.mu.Lock()
	l.feed(changes)
	if moved {
		l.feedNode()
		l.feedAttachments()
	}
	l.mu.Unlock()
	if l.since.IsZero() {
		l.since = changes.Since
	}
	if !l.begun && !changes.Complete {
		return "reading " + strings.Join(l.cfg.Source.Missing(), ", ") + " from the API server; the rules of before stand", nil
	}
	if err := l.write(ctx); err != nil {
		return "", err
	}
	if !l.since.IsZero() {
		l.cfg.Recorder.Programmed(time.Since(l.since))
		l.since = time.Time{}
	}
	return "", nil
}

func (l *Loop) feed(c source.Changes) {
	apply(c.Namespaces, l.engine.SetNamespace, l.engine.DeleteNamespace)
	apply(c.NetworkPolicies, l.engine.SetNetworkPolicy, l.engine.DeleteNetworkPolicy)
	apply(c.ClusterNetworkPolicies, l.engine.SetClusterNetworkPolicy, l.engine.DeleteClusterNetworkPolicy)
	apply(c.Pods, l.engine.SetPod, l.engine.DeletePod)
	apply(c.Nodes, func(n snapshot.KubeNode) {
		l.nodes[n.Name] = n
		n.MeshIPs = l.meshIPs[n.Name]
		l.engine.SetNode(n)
	}, func(name string) {
		delete(l.nodes, name)
		l.engine.DeleteNode(name)
	})
}

func apply[K comparable, V any](changes map[K]*V, set func(V), del func(K)) {
	for k, v := range changes {
		if v == nil {
			del(k)
		} else {
			set(*v)
		}
	}
}

// feedNode tells the engine what the mesh knows. The engine sees by itself what is as before.
func (l *Loop) feedNode() {
	n := l.cfg.Node()
	l.engine.SetSelf(n.Self)
	l.engine.SetOptions(n.Options)
	l.meshIPs = n.MeshIPs
	for name, node := range l.nodes {
		node.MeshIPs = n.MeshIPs[name]
		l.engine.SetNode(node)
	}
}

// feedAttachments tells the engine of the Pods' interfaces.
func (l *Loop) feedAttachments() {
	present := map[string]bool{}
	for _, a := range l.cfg.Attachments() {
		present[a.HostLink] = true
		if old, known := l.attached[a.HostLink]; known && old.Equal(a) && !l.nameless[a.HostLink] {
			continue
		}
		name := snapshot.NamespacedName{Namespace: a.Pod.Namespace, Name: a.Pod.Name}
		if a.Pod.Name == "" { // rebuilt from the kernel, which knows addresses only
			name, _ = l.podAt(a.Addresses)
		}
		l.engine.Attach(desired.Endpoint{Link: a.HostLink, Pod: name, UID: a.Pod.UID, IPs: a.Addresses})
		// Of one that the runtime has named and whose Pod nobody knows, no policy can be asked.
		nameless := name.Name == "" && a.ContainerID == ""
		l.engine.Shut(a.HostLink, nameless)
		if l.attached[a.HostLink] = a; nameless {
			l.nameless[a.HostLink] = true
		} else {
			delete(l.nameless, a.HostLink)
		}
	}
	for link := range l.attached {
		if !present[link] {
			delete(l.attached, link)
			delete(l.nameless, link)
			l.refused.forget(link)
			l.engine.Detach(link)
		}
	}
}

func (l *Loop) podAt(addresses []netip.Addr) (snapshot.NamespacedName, bool) {
	for _, a := range addresses {
		if name, ok := l.cfg.Source.PodAt(a); ok {
			return name, true
		}
	}
	return snapshot.NamespacedName{}, false
}

// write brings the engine's table into the kernel: what is new by a patch, and where somebody may have
// interfered by comparing all of it afterwards. The patch goes first so that what the comparison then
// finds is others' work and nothing of ours.
func (l *Loop) write(ctx context.Context) error {
	foreign := l.foreign.Swap(false)
	l.mu.Lock()
	l.refused.release(l.engine, time.Now())
	patch := l.engine.Commit()
	l.mu.Unlock()
	l.refused.suspect(patch.Suspects)
	if !l.begun || l.broken {
		return l.repair(ctx, patch.Suspects, false)
	}
	if !patch.Empty() {
		if err := l.cfg.Table.Apply(ctx, change(patch)); err != nil {
			l.cfg.Log.Debug("a patch did not fit; comparing the whole table", "error", err)
			return l.repair(ctx, patch.Suspects, nft.Unlike(err))
		}
		l.inForce(patch.Suspects)
	} else {
		l.cut.judge(patch.Suspects)
	}
	if !foreign {
		return nil
	}
	return l.repair(ctx, desired.Suspects{}, true)
}

func (l *Loop) inForce(s desired.Suspects) {
	l.begun, l.broken = true, false
	l.refused.settle()
	l.cut.judge(s)
}

// repair compares the whole table with what is wanted. drift says that whatever is amiss is somebody
// else's doing. Where the kernel refuses it, the Pods whose rules it is about are closed.
func (l *Loop) repair(ctx context.Context, s desired.Suspects, drift bool) error {
	known := l.begun && !l.broken
	l.broken = true
	done, err := l.ensure(ctx)
	if err == nil {
		if drift && !done.Empty() {
			l.cfg.Recorder.DriftRepaired()
			l.cfg.Log.Info("put back what somebody else had changed in the policy table", "change", brief(done))
		}
		if !known || !done.Empty() {
			s = desired.Suspects{All: true} // nobody looked meanwhile
		}
		l.inForce(s)
		return nil
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, nft.ErrUnsteady):
		return err // no Pod's rules are at fault
	case errors.Is(err, unix.EPERM):
		// Nor here: the table as such must not be written. Had its owner ended just now, closing every Pod would even succeed.
		return fmt.Errorf("the kernel permits no change of the policy table: another program owns it, which `nft list table inet %s` names, or the agent lacks NET_ADMIN: %w",
			desired.TableName, unix.EPERM)
	}
	l.mu.Lock()
	l.refused.shut(l.engine, l.attached, time.Now(), err)
	l.engine.Commit() // what Table gives next is all of it
	l.mu.Unlock()
	if _, again := l.ensure(ctx); again != nil {
		l.refused.due, l.refused.pause = time.Time{}, 0 // none is closed: next comes what is wanted, not a closed node
		return fmt.Errorf("the kernel refuses the policy table, and to close the Pods concerned: %w", errors.Join(err, again))
	}
	l.cut.judge(desired.Suspects{All: true})
	l.begun, l.broken = true, false
	return &shutError{err}
}

// shutError says that the kernel refuses some Pods' rules, that those are closed, and that all else is in force.
type shutError struct{ err error }

func (e *shutError) Error() string {
	return "the kernel refuses rules of policies, whose Pods are closed instead: " + e.err.Error()
}

func (e *shutError) Unwrap() error { return e.err }

func (l *Loop) ensure(ctx context.Context) (nft.Change, error) {
	l.mu.Lock()
	want := l.engine.Table()
	l.mu.Unlock()
	return l.cfg.Table.Ensure(ctx, want)
}

// brief is a change for a log line.
func brief(c nft.Change) string {
	const most = 600
	text := strings.ReplaceAll(c.String(), "\n", "; ")
	return text[:min(len(text), most)]
}

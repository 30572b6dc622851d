//go:build linux

// Package flow keeps the fast path between the Pods of this node: which Pods are in it, and how
// connection tracking is set. It follows the CNI server at a distance and never holds it up: a Pod takes
// the ordinary way until it has come round to it. Only a Pod that goes is taken out at once.
package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/flow"
	"github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// settle is how long changes are gathered: the kernel changes links one at a time, and Pods that
	// start together shall not wait for this.
	settle = time.Second
	// lookEvery is how often links and settings are looked at, of which nobody tells.
	lookEvery = 10 * time.Second
)

// The settings of connection tracking, as paths below net/.
const (
	pathEstablished = "netfilter/nf_conntrack_tcp_timeout_established"
	pathUDP         = "netfilter/nf_conntrack_udp_timeout"
	pathUDPStream   = "netfilter/nf_conntrack_udp_timeout_stream"
	pathLiberal     = "netfilter/nf_conntrack_tcp_be_liberal"
)

// Kernel is what the package of the same name in agent/kernel/bpf makes.
type Kernel interface {
	Observe(ctx context.Context) ([]state.FlowLink, error)
	Apply(ctx context.Context, w flow.Wanted) error
	Forget(a state.Attachment) error
	VoidEchoes() error
	Clear() error
	Stats() (flow.Stats, error)
}

// Config of a Loop.
type Config struct {
	// On allows the fast path where the kernel can; otherwise what an earlier agent left is removed.
	On     bool
	Kernel Kernel
	// Probe finds out whether the kernel can.
	Probe func() link.Probe
	// Attachments are those that nobody but the kernel is at work on; Changed tells of other ones.
	Attachments func() []state.Attachment
	Changed     <-chan struct{}
	Sysctls     sysctl.Table
	Log         *slog.Logger
}

// Loop keeps the fast path. Make it with New.
type Loop struct {
	cfg Config

	mu     sync.Mutex
	probe  *link.Probe // nil until there was something to try it for
	inside int         // links in the fast path
	last   error
}

// New does nothing yet.
func New(c Config) *Loop { return &Loop{cfg: c} }

// Run begins with what an earlier agent left: nobody knows what it leads to. Then it keeps the fast path
// until the context ends, and leaves it standing.
func (l *Loop) Run(ctx context.Context) {
	runtime.LockOSThread() // settings are those of the thread's network namespace
	defer runtime.UnlockOSThread()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	cleared := false
	for {
		var err error
		if !cleared {
			err = l.cfg.Kernel.Clear()
			cleared = err == nil
		}
		if cleared {
			err = l.pass(ctx)
		}
		l.note(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-l.cfg.Changed:
			pause(ctx, settle)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// pass brings the kernel to what is wanted now.
func (l *Loop) pass(ctx context.Context) error {
	if !l.cfg.On {
		return nil
	}
	links, err := l.cfg.Kernel.Observe(ctx)
	if err != nil {
		return err
	}
	plan := desired.Plan(desired.Input{Attachments: l.cfg.Attachments(), Links: links})
	if !l.can(len(plan.Links) > 0) {
		return nil
	}
	tracking, fault := l.tracking(ctx)
	err = l.cfg.Kernel.Apply(ctx, flow.Wanted{Links: plan.Links, Pods: plan.Pods, Fresh: desired.FreshFor(tracking)})
	if err == nil {
		l.mu.Lock()
		l.inside = len(plan.Links)
		l.mu.Unlock()
	}
	return errors.Join(fault, err)
}

// can finds out, once for all, whether the kernel takes the program: as late as there is a Pod to take
// in, since what a node's first rules need may not be loaded before.
func (l *Loop) can(wanted bool) bool {
	l.mu.Lock()
	p := l.probe
	l.mu.Unlock()
	if p == nil {
		if !wanted {
			return false
		}
		found := l.cfg.Probe()
		p = &found
		l.mu.Lock()
		l.probe = p
		l.mu.Unlock()
		l.cfg.Log.Info("fast path between Pods of this node", "possible", p.Answer.String(), "reason", p.Reason)
	}
	return p.Answer == link.Yes
}

// tracking makes connection tracking liberal, since it does not see all sequence numbers any more, and
// reads how it is set.
func (l *Loop) tracking(ctx context.Context) (desired.Tracking, error) {
	have, err := l.cfg.Sysctls.Observe(ctx, []string{pathEstablished, pathUDP, pathUDPStream, pathLiberal})
	if err != nil {
		return desired.Tracking{}, fmt.Errorf("read how connections are tracked: %w", err)
	}
	var t desired.Tracking
	change := sysctl.Diff(have, []state.Sysctl{{Path: pathLiberal, Value: "1"}})
	if !change.Empty() {
		err = l.cfg.Sysctls.Apply(ctx, change)
	}
	t.Liberal = err == nil
	for _, s := range have.Settings {
		seconds, fault := strconv.ParseInt(s.Value, 10, 64)
		if fault != nil {
			return desired.Tracking{}, fmt.Errorf("read net/%s: %w", s.Path, fault)
		}
		d := time.Duration(seconds) * time.Second
		switch s.Path {
		case pathEstablished:
			t.Established = d
		case pathUDP:
			t.UDP = d
		case pathUDPStream:
			t.UDPStream = d
		}
	}
	return t, err
}

// Forget takes a Pod out that is about to go, before its address may be another's.
func (l *Loop) Forget(a state.Attachment) error {
	if !l.cfg.On {
		return nil
	}
	return l.cfg.Kernel.Forget(a)
}

// VoidEchoes has the rules judge every echo again, after they have changed.
func (l *Loop) VoidEchoes() error {
	if !l.cfg.On {
		return nil
	}
	return l.cfg.Kernel.VoidEchoes()
}

// note logs a failure when it begins, changes or ends.
func (l *Loop) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // the agent is stopping
	}
	l.mu.Lock()
	before := l.last
	l.last = err
	l.mu.Unlock()
	switch {
	case err == nil && before != nil:
		l.cfg.Log.Info("the fast path is as it should be again")
	case err != nil && (before == nil || before.Error() != err.Error()):
		l.cfg.Log.Warn("the fast path is not as it should be; what is not in it takes the ordinary way", "error", err)
	}
}

// Report is what the fast path does, for status and metrics.
type Report struct {
	// Allowed says that it may be used, On that Pods are in it.
	Allowed, On bool
	// Possible is what was found when it was tried; Asked that it was.
	Possible link.Probe
	Asked    bool
	// Err is why it is not in order.
	Err error
	// Links of Pods are in it.
	Links int
	flow.Stats
}

// Report tells what is going on.
func (l *Loop) Report() Report {
	stats, err := l.cfg.Kernel.Stats()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Allowed: l.cfg.On, On: l.inside > 0, Err: errors.Join(l.last, err), Links: l.inside, Stats: stats}
	if l.probe != nil {
		r.Asked, r.Possible = true, *l.probe
	}
	return r
}

//go:build linux

package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	// awaitObject is how long a new Pod's rules wait for its object, which is nearly always known: the
	// kubelet has it from the same API server. After that it is closed until it is.
	awaitObject = 250 * time.Millisecond
	// awaitStart is how long a new Pod waits for the first pass of an agent that has just started.
	awaitStart = 10 * time.Second
	// awaitNews is how long a new Pod waits for watches that are cut off, of which an older policy may be
	// the news that is missing. With the API server down it starts with the policies known so far:
	// nobody can have made others.
	awaitNews = 2 * time.Second
)

// ErrNotYet says that a Pod cannot be added now and may be soon.
var ErrNotYet = errors.New("policies are not in force yet")

// Admit puts in force what policies say of a new Pod. When it returns without an error they are; or,
// where the Pod is not known yet, it is closed as far as a policy could select it. It may be called before
// the Pod's interface exists, and then no packet ever gets past.
func (l *Loop) Admit(ctx context.Context, a state.Attachment) error {
	started := time.Now()
	key := snapshot.NamespacedName{Namespace: a.Pod.Namespace, Name: a.Pod.Name}
	isKnown := func() bool {
		p, ok := l.cfg.Source.Pod(key)
		return ok && (a.Pod.UID == "" || p.UID == a.Pod.UID)
	}
	if err := l.awaitStart(ctx); err != nil {
		return err
	}
	l.awaitNews(ctx, a)
	known := a.Pod.Name == "" || isKnown()
	if !known {
		short, cancel := context.WithTimeout(ctx, awaitObject)
		known = l.cfg.Source.Await(short, isKnown)
		cancel()
	}
	err := l.Sync(ctx)
	var shut *shutError
	if r, _ := l.Report(); errors.As(err, &shut) && !r.shut[a.HostLink] {
		err = nil // others' rules
	}
	if err != nil {
		return fmt.Errorf("put policies in force: %w", err)
	}
	l.cfg.Recorder.Admitted(time.Since(started), known)
	return nil
}

// awaitNews : a Pod that the kubelet has heard of may be younger than a policy that this agent has not.
func (l *Loop) awaitNews(ctx context.Context, a state.Attachment) {
	if len(l.cfg.Source.Cut()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, awaitNews)
	defer cancel()
	if !l.cfg.Source.Await(ctx, func() bool { return len(l.cfg.Source.Cut()) == 0 }) {
		l.cfg.Log.Warn("a Pod starts with the policies known so far, since the API server sends no news", "pod", a.Pod.String(), "of", l.cfg.Source.Cut())
	}
}

// awaitStart : no Pod starts open because the agent does not know the policies yet.
func (l *Loop) awaitStart(ctx context.Context) error {
	if r, ok := l.Report(); ok && r.Waiting == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, awaitStart)
	defer cancel()
	for {
		err := l.Sync(ctx)
		if r, ok := l.Report(); ok && r.Waiting == "" {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrNotYet, errors.Join(l.Ready(), err))
		}
		l.cfg.Source.Await(ctx, func() bool { return len(l.cfg.Source.Missing()) == 0 })
	}
}

// asked are those who wait for a pass.
type asked struct {
	mu      sync.Mutex
	count   uint64
	waiting []waiter
}

type waiter struct {
	number uint64
	done   chan error
}

// Sync waits for a pass that begins after the call. Without an error, what was known at the time of
// the call is then in force.
func (l *Loop) Sync(ctx context.Context) error {
	w := l.asked.ask()
	l.moved.Store(true)
	signal(l.woken)
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the policies: %w", ctx.Err())
	}
}

func (a *asked) ask() waiter {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	w := waiter{number: a.count, done: make(chan error, 1)}
	a.waiting = append(a.waiting, w)
	return w
}

func (a *asked) soFar() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count
}

// served answers everyone who had asked before the pass began.
func (a *asked) served(upTo uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	later := a.waiting[:0]
	for _, w := range a.waiting {
		if w.number <= upTo {
			w.done <- err
		} else {
			later = append(later, w)
		}
	}
	a.waiting = later
}

//go:build linux

package kubeproxy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// every is the time between two looks: a kube-proxy beside ours does no harm that must be told
// within seconds, and each look asks two ports.
const every = 30 * time.Second

// Watcher looks again and again. It is for nodes on which Weftnet's own service proxy is switched on:
// without that one a kube-proxy is as it should be.
type Watcher struct {
	// Kernel to ask.
	Kernel Kernel
	Log    *slog.Logger

	found atomic.Pointer[Finding]
}

// Finding is the last one; false before the first.
func (w *Watcher) Finding() (Finding, bool) {
	if f := w.found.Load(); f != nil {
		return *f, true
	}
	return Finding{}, false
}

// Run looks until the context ends.
func (w *Watcher) Run(ctx context.Context) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *Watcher) look(ctx context.Context) {
	f, err := Look(ctx, w.Kernel)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.Log.Warn("look for kube-proxy's rules", "error", err)
		if !f.Present() {
			return // what could not be seen may be there as before
		}
	}
	before, known := w.Finding()
	w.found.Store(&f)
	if f.Present() && (!known || before != f) {
		w.Log.Warn("another service proxy", "reason", f.Reason(), "message", f.Message())
	}
}

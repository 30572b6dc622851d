//go:build linux

package policy

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// OwnAddresses are the node's addresses as the kernel tells them.
type OwnAddresses interface {
	List(ctx context.Context) ([]netip.Addr, error)
	// Subscribe tells when List may give something else.
	Subscribe(ctx context.Context) (<-chan struct{}, error)
}

// Addresses keeps what the kernel said last of the node's addresses. A pass that asked the kernel itself
// would wait for the lock that every interface takes that comes or goes: while many Pods started, policies
// came into force seconds late. Make it with NewAddresses.
type Addresses struct {
	own     OwnAddresses
	log     *slog.Logger
	known   atomic.Pointer[[]netip.Addr]
	changed chan struct{}
	failing bool
}

// NewAddresses lists them once.
func NewAddresses(ctx context.Context, own OwnAddresses, log *slog.Logger) *Addresses {
	a := &Addresses{own: own, log: log, changed: make(chan struct{}, 1)}
	a.look(ctx)
	return a
}

// Known are the addresses as they were last seen. The slice is shared and must not be changed.
func (a *Addresses) Known() []netip.Addr {
	if p := a.known.Load(); p != nil {
		return *p
	}
	return nil
}

// Changed is signalled when Known gives something else.
func (a *Addresses) Changed() <-chan struct{} { return a.changed }

// Run looks again when the kernel says that addresses have changed, and now and then in case it did
// not, until the context ends.
func (a *Addresses) Run(ctx context.Context) {
	again := time.NewTicker(resync)
	defer again.Stop()
	events := a.subscribe(ctx)
	for {
		a.look(ctx) // after the subscription, so that nothing falls between the two
		select {
		case <-ctx.Done():
			return
		case _, open := <-events:
			if !open {
				events = nil // until the next round
			}
		case <-again.C:
			if events == nil {
				events = a.subscribe(ctx)
			}
		}
	}
}

func (a *Addresses) subscribe(ctx context.Context) <-chan struct{} {
	events, err := a.own.Subscribe(ctx)
	if err != nil {
		a.log.Warn("hear of changes of the node's addresses; looking now and then", "error", err)
		return nil
	}
	return events
}

// look keeps what it knew where the kernel does not answer.
func (a *Addresses) look(ctx context.Context) {
	list, err := a.own.List(ctx)
	if err != nil {
		if !a.failing && ctx.Err() == nil {
			a.log.Warn("look at the node's addresses; trying again", "error", err)
		}
		a.failing = true
		return
	}
	a.failing = false
	if p := a.known.Load(); p != nil && slices.Equal(*p, list) {
		return
	}
	a.known.Store(&list)
	signal(a.changed)
}

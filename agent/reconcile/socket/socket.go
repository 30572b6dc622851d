//go:build linux

// Package socket hands what the service proxy wants to the balancer at the socket. It follows the
// service loop and never holds it up: where the balancer fails, the rules in nftables serve, and the
// failure is retried here, shown in the status and counted.
package socket

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// checkEvery is how often the programs are looked for in their places, and a failure is retried.
const checkEvery = 10 * time.Second

// Balancer is what the package bpf makes.
type Balancer interface {
	bpf.Balancer
	Check(ctx context.Context) (found, err error)
	Report() bpf.Report
}

// Sink takes what Services want. Make it with New.
type Sink struct {
	balancer Balancer
	log      *slog.Logger

	mu sync.Mutex
	// pending is what Services want until all have been put; then it is nil.
	pending map[snapshot.ServiceName]bpf.Wanted
	fault   string
}

// New has not been given anything.
func New(b Balancer, log *slog.Logger) *Sink {
	return &Sink{balancer: b, log: log, pending: map[snapshot.ServiceName]bpf.Wanted{}}
}

// Put takes Services that have changed; one that is gone wants nothing.
func (s *Sink) Put(ctx context.Context, wanted []service.Wanted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := make([]bpf.Wanted, len(wanted))
	for i, w := range wanted {
		batch[i] = bpf.Wanted{Owner: w.Service.String(), Age: w.Created.Unix(), Frontends: w.Sockets()}
	}
	if s.pending == nil {
		s.note(ctx, s.balancer.Set(ctx, batch...))
		return nil
	}
	for i, w := range wanted {
		s.pending[w.Service] = batch[i]
	}
	return nil
}

// Complete says that every Service has been put: from here on connections are balanced.
func (s *Sink) Complete(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]bpf.Wanted, 0, len(s.pending))
	for _, w := range s.pending {
		all = append(all, w)
	}
	s.pending = nil
	s.note(ctx, s.balancer.Sync(ctx, all))
	r := s.balancer.Report()
	s.log.Info("balance TCP connections at the socket", "on", r.On, "reason", r.Reason, "frontends", r.Frontends, "endpoints", r.Endpoints)
	return nil
}

// Run looks after the programs until the context ends, and leaves them standing.
func (s *Sink) Run(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.check(ctx)
		}
	}
}

func (s *Sink) check(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.balancer.Check(ctx)
	if found == nil && err == nil {
		return
	}
	if ctx.Err() == nil && err == nil {
		s.log.Info("put the balancer at the socket right", "found", found)
	}
	s.note(ctx, err)
}

// note logs a failure when it begins, changes or ends.
func (s *Sink) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // the agent is stopping
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == s.fault:
	case err != nil:
		s.log.Warn("connections are not balanced at the socket as they should be; nftables serves them", "error", err)
	default:
		s.log.Info("connections are balanced at the socket again")
	}
	s.fault = text
}

// Report tells what the balancer does; ok is false while that is not known.
func (s *Sink) Report() (r bpf.Report, ok bool) {
	r = s.balancer.Report()
	return r, r.Asked
}

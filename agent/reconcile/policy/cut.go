//go:build linux

package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/conntrack"
)

const (
	// gatherCuts is how long suspects are gathered at least, and restCuts how many times as long as the
	// last look took: a look costs by the number of flows, and on a busy node shall not fill a core.
	gatherCuts = 5 * time.Millisecond
	restCuts   = 4
	// firstCut is how long the first look waits. It goes through all flows, of a table with room for very many, while all else
	// that a node needs is being made, too; what it cuts has been open since before the agent was down.
	firstCut = 500 * time.Millisecond
	// retryCuts is the pause after a look that failed.
	retryCuts = time.Second
)

// cutter ends the flows that were set up under rules that no longer hold: it sets a bit of their
// mark, by which the rules refuse every further packet of them, in either direction. It runs beside the
// loop, so that a long list of flows delays no rule.
type cutter struct {
	loop  *Loop
	woken chan struct{}

	mu       sync.Mutex
	suspects desired.Suspects
	err      error
}

func newCutter(l *Loop) *cutter { return &cutter{loop: l, woken: make(chan struct{}, 1)} }

// judge has the flows of the suspects looked at, after the rules that decide over them are in force.
func (c *cutter) judge(s desired.Suspects) {
	if !s.All && len(s.Addrs) == 0 {
		return
	}
	c.mu.Lock()
	c.add(s)
	c.mu.Unlock()
	signal(c.woken)
}

func (c *cutter) add(s desired.Suspects) {
	switch {
	case c.suspects.All:
	case s.All:
		c.suspects = desired.Suspects{All: true}
	case c.suspects.Addrs == nil:
		c.suspects.Addrs = maps.Clone(s.Addrs)
	default:
		maps.Copy(c.suspects.Addrs, s.Addrs)
	}
}

func (c *cutter) take() desired.Suspects {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspects
	c.suspects = desired.Suspects{}
	return s
}

// fault tells why flows could not be cut.
func (c *cutter) fault() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *cutter) run(ctx context.Context) {
	var took time.Duration
	sleep(ctx, firstCut)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.woken:
		}
		sleep(ctx, max(gatherCuts, min(restCuts*took, retryCuts)))
		s, started := c.take(), time.Now()
		err := c.look(ctx, s)
		took = time.Since(started)
		c.mu.Lock()
		if c.err = err; err != nil {
			c.add(s)
		}
		c.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			c.loop.cfg.Log.Warn("cut the flows that policies no longer allow; trying again", "error", err)
			sleep(ctx, retryCuts)
			signal(c.woken)
		}
	}
}

// look cuts what is no longer allowed of the suspects' flows, and lets go what is allowed again. It
// does so with some flows at a time, so that a full table of flows neither fills the memory nor keeps
// the loop from its engine.
func (c *cutter) look(ctx context.Context, s desired.Suspects) error {
	var addrs []netip.Addr
	if !s.All {
		addrs = slices.Collect(maps.Keys(s.Addrs))
	}
	var count tally
	err := c.loop.cfg.Flows.Visit(ctx, addrs, func(flows []conntrack.Tracked) error { return c.sentence(ctx, s, flows, &count) })
	if count.cut > 0 {
		c.loop.cfg.Recorder.Cut(count.cut)
		c.loop.cfg.Log.Info("cut flows that policies no longer allow", "flows", count.cut)
	}
	if count.letGo > 0 {
		c.loop.cfg.Recorder.LetGo(count.letGo)
	}
	if err != nil {
		err = fmt.Errorf("look at flows: %w", err)
	}
	// Last, for echoes of which connection tracking knows nothing any more.
	return errors.Join(err, c.voidEchoes())
}

// voidEchoes follows the marks: an echo that is on its way through the rules meanwhile is either marked already or voided.
func (c *cutter) voidEchoes() error {
	if c.loop.cfg.Echoes == nil {
		return nil
	}
	if err := c.loop.cfg.Echoes.VoidEchoes(); err != nil {
		return fmt.Errorf("have echoes meet the rules again: %w", err)
	}
	return nil
}

// tally is what a look has done.
type tally struct{ cut, letGo int }

// sentence judges some flows and carries it out.
func (c *cutter) sentence(ctx context.Context, s desired.Suspects, flows []conntrack.Tracked, count *tally) error {
	var open, cut []conntrack.Tracked
	for _, f := range flows {
		switch {
		case f.Mark&desired.RevokedMark != 0:
			cut = append(cut, f)
		case !f.Over:
			open = append(open, f)
		}
	}
	var revoked, restored []int
	c.loop.Ask(func(e *desired.Engine) {
		revoked, restored = e.Revoked(plain(open), s), e.Restored(plain(cut), s)
	})
	n, err := c.loop.cfg.Flows.SetMark(ctx, pick(open, revoked), desired.RevokedMark, desired.RevokedMark)
	if count.cut += n; err != nil {
		return fmt.Errorf("cut flows: %w", err)
	}
	if n > 0 {
		if err := c.voidEchoes(); err != nil {
			return err
		}
	}
	n, err = c.loop.cfg.Flows.SetMark(ctx, pick(cut, restored), 0, desired.RevokedMark)
	if count.letGo += n; err != nil {
		return fmt.Errorf("let go flows: %w", err)
	}
	return nil
}

func plain(flows []conntrack.Tracked) []desired.Flow {
	out := make([]desired.Flow, len(flows))
	for i, f := range flows {
		out[i] = desired.Flow{
			Protocol: f.Original.Protocol, Src: f.Original.Src, Dst: f.Original.Dst, ReplySrc: f.Reply.Src, ReplyDst: f.Reply.Dst,
		}
	}
	return out
}

func pick(flows []conntrack.Tracked, which []int) []conntrack.Tracked {
	out := make([]conntrack.Tracked, len(which))
	for i, n := range which {
		out[i] = flows[n]
	}
	return out
}

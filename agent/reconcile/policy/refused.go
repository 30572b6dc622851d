//go:build linux

package policy

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/state"
)

// The pauses between two attempts to open Pods that are closed because the kernel refused their rules.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// refused are the Pods whose rules the kernel would not take. Which they are is known by what has
// changed since it last took everything; they are closed until it does again.
type refused struct {
	// changed are the addresses of what has changed since then.
	changed desired.Suspects
	links   map[string]bool
	// trying are closed in the kernel, and open in what is written now.
	trying map[string]bool
	pause  time.Duration
	due    time.Time
	// why is what the kernel said last.
	why error
}

// suspect notes what a patch changes.
func (r *refused) suspect(s desired.Suspects) {
	if s.All {
		r.changed = desired.Suspects{All: true}
	}
	if r.changed.All {
		return
	}
	if r.changed.Addrs == nil {
		r.changed.Addrs = map[netip.Addr]bool{}
	}
	maps.Copy(r.changed.Addrs, s.Addrs)
}

// settle : the kernel has taken everything.
func (r *refused) settle() {
	r.changed = desired.Suspects{}
	if len(r.trying) > 0 || len(r.links) == 0 {
		r.trying, r.pause = nil, 0
	}
}

// release opens the Pods again in what is wanted, when it is time to try.
func (r *refused) release(e *desired.Engine, now time.Time) {
	if len(r.links) == 0 || now.Before(r.due) {
		return
	}
	for link := range r.links {
		e.Shut(link, false)
	}
	r.trying, r.links = r.links, nil
}

// shut closes the Pods that have changed; all of them where that is not known.
func (r *refused) shut(e *desired.Engine, attached map[string]state.Attachment, now time.Time, why error) {
	r.why = why
	if r.links == nil {
		r.links = map[string]bool{}
	}
	maps.Copy(r.links, r.trying)
	for link, a := range attached {
		if r.changed.All || slices.ContainsFunc(a.Addresses, func(ip netip.Addr) bool { return r.changed.Addrs[ip] }) {
			r.links[link] = true
		}
	}
	if len(r.links) == 0 {
		for link := range attached {
			r.links[link] = true
		}
	}
	for link := range r.links {
		e.Shut(link, true)
	}
	r.trying = nil
	r.pause = min(max(2*r.pause, firstRetry), lastRetry)
	r.due = now.Add(r.pause)
}

func (r *refused) forget(link string) {
	delete(r.links, link)
	delete(r.trying, link)
}

// err is what is amiss for as long as Pods are closed: a pass between two attempts has no error of its own.
func (r *refused) err() error {
	if len(r.links) == 0 {
		return nil
	}
	return &shutError{r.why}
}

// names are those of the Pods that are closed.
func (r *refused) names(attached map[string]state.Attachment) []string {
	var out []string
	for link := range r.links {
		out = append(out, attached[link].Pod.String())
	}
	slices.Sort(out)
	return out
}

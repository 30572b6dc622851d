//go:build linux

package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nflog"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
)

// Counters is the kernel's count of what rules denied.
type Counters interface {
	Counters(ctx context.Context) (map[string]nft.Counter, error)
	ElementCounters(ctx context.Context, set string) (map[state.Value]nft.Counter, error)
}

// Denied reads what policies have denied.
type Denied struct {
	Loop        *Loop
	Table       Counters
	Attachments func() []state.Attachment
}

// PodCount is what was denied to (or from) one Pod.
type PodCount struct {
	Pod       state.PodRef
	Link      string
	Direction desired.Direction
	nft.Counter
}

// SiteCount is what one place in the rules has denied, or in audit mode would have.
type SiteCount struct {
	desired.Site
	nft.Counter
}

// ByPod counts per Pod and direction, in the order of the Pods.
func (d Denied) ByPod(ctx context.Context) ([]PodCount, error) {
	var out []PodCount
	attached := d.Attachments()
	for direction, set := range map[desired.Direction]string{desired.Ingress: desired.SetDeniedIn, desired.Egress: desired.SetDeniedOut} {
		counters, err := d.Table.ElementCounters(ctx, set)
		if err != nil {
			return nil, fmt.Errorf("count denied packets: %w", err)
		}
		for _, a := range attached {
			if c, ok := counters[state.IfNameValue(a.HostLink)]; ok {
				out = append(out, PodCount{Pod: a.Pod, Link: a.HostLink, Direction: direction, Counter: c})
			}
		}
	}
	slices.SortFunc(out, func(a, b PodCount) int {
		return cmp.Or(cmp.Compare(a.Pod.String(), b.Pod.String()), cmp.Compare(a.Link, b.Link), cmp.Compare(a.Direction, b.Direction))
	})
	return out, nil
}

// BySite counts per place in the rules, and gives the packets of flows that were cut.
func (d Denied) BySite(ctx context.Context) (sites []SiteCount, revoked nft.Counter, err error) {
	counters, err := d.Table.Counters(ctx)
	if err != nil {
		return nil, revoked, fmt.Errorf("count denied packets: %w", err)
	}
	d.Loop.Ask(func(e *desired.Engine) {
		for _, s := range e.Sites() {
			sites = append(sites, SiteCount{Site: s, Counter: counters[s.Counter()]})
		}
	})
	return sites, counters[desired.CounterRevoked], nil
}

// logAgain is the pause before the log group is asked for again.
const logAgain = time.Minute

// Log writes a line for every packet of which the rules send word, until the context ends. No more
// than the settings allow: each rule has that limit in the kernel, and all together have it here.
func (d Denied) Log(ctx context.Context, log *slog.Logger) error {
	said := false
	lines := &limiter{log: log}
	go d.tellLeftOut(ctx, lines)
	for ctx.Err() == nil {
		reader, err := nflog.New(desired.DefaultLogGroup)
		if err != nil {
			if !said {
				log.Warn("denied packets cannot be logged; trying again now and then", "error", err)
			}
			said = true
			sleep(ctx, logAgain)
			continue
		}
		said = false
		err = reader.Run(ctx, func(p nflog.Packet) { d.line(lines, p, time.Now()) })
		if err = errors.Join(err, reader.Close()); err != nil && ctx.Err() == nil {
			log.Warn("read denied packets; trying again", "error", err)
			sleep(ctx, logAgain)
		}
	}
	return nil
}

func (d Denied) line(lines *limiter, p nflog.Packet, now time.Time) {
	id, ok := desired.SiteOfPrefix(p.Prefix)
	if !ok {
		return
	}
	var site desired.Site
	var rate uint32
	d.Loop.Ask(func(e *desired.Engine) {
		site, ok = e.Site(id)
		rate = e.Options().LogRate
	})
	if !lines.allow(now, rate) {
		return
	}
	if !ok {
		lines.log.Info("denied by a policy that is gone", "src", p.Src.String(), "dst", p.Dst.String(), "site", id)
		return
	}
	text := "denied"
	if site.Audit {
		text = "would be denied"
	}
	lines.log.Info(text, d.attributes(site, p)...)
}

func (d Denied) attributes(site desired.Site, p nflog.Packet) []any {
	own := p.Dst.Addr()
	if site.Direction == desired.Egress {
		own = p.Src.Addr()
	}
	out := []any{
		"direction", site.Direction.String(), "pod", d.podWith(own).String(), "src", p.Src.String(), "dst", p.Dst.String(),
		"protocol", state.IPProtocol(p.Protocol).String(), "tier", string(site.Tier), "policies", site.Policies,
	}
	if site.Rule >= 0 {
		out = append(out, "rule", site.Rule)
	}
	if site.RuleName != "" {
		out = append(out, "ruleName", site.RuleName)
	}
	return out
}

func (d Denied) podWith(a netip.Addr) state.PodRef {
	for _, at := range d.Attachments() {
		if slices.Contains(at.Addresses, a) {
			return at.Pod
		}
	}
	return state.PodRef{}
}

//go:build linux

package policy

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// lookLeftOut is how often the lines are compared with what the kernel counts. It is longer than a packet
// is on its way from the kernel to its line.
const lookLeftOut = 5 * time.Second

// limiter lets a number of lines pass in each second.
type limiter struct {
	log    *slog.Logger
	second int64
	passed uint32
	// lines are all that have passed.
	lines atomic.Uint64
}

func (l *limiter) allow(now time.Time, rate uint32) bool {
	if s := now.Unix(); s != l.second {
		l.second, l.passed = s, 0
	}
	if l.passed >= rate {
		return false
	}
	l.passed++
	l.lines.Add(1)
	return true
}

// tellLeftOut says how many packets were denied of which there is no line, until the context ends. Most
// of them the kernel's limit has kept from the agent, so the kernel's counters are asked.
func (d Denied) tellLeftOut(ctx context.Context, lines *limiter) {
	again := time.NewTicker(lookLeftOut)
	defer again.Stop()
	var m leftOut
	for {
		logged := lines.lines.Load()
		sites, _, err := d.BySite(ctx)
		if err == nil { // else the next look finds it all
			if n := m.look(sites, logged); n > 0 {
				lines.log.Info("more packets were denied than are logged", "leftOut", n)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// leftOut is the account of packets that should be logged.
type leftOut struct {
	begun bool
	last  map[string]uint64
	// counted are all that were denied until the last look, told those that were left out.
	counted, told uint64
}

// look gives how many packets had no line that were counted by the look before: the lines of all those
// have been written since. logged are all lines so far.
func (m *leftOut) look(sites []SiteCount, logged uint64) uint64 {
	before := m.counted
	last := make(map[string]uint64, len(sites))
	for _, s := range sites {
		id := s.Site.Counter()
		was, now := m.last[id], s.Packets
		if was > now {
			was = 0 // it was made anew
		}
		if last[id] = now; s.Log && m.begun {
			m.counted += now - was
		}
	}
	m.last, m.begun = last, true
	if before <= logged+m.told {
		// Lines of places that are gone by now, and with them their counts, are not set against others'.
		m.counted = max(m.counted, logged+m.told)
		return 0
	}
	n := before - logged - m.told
	m.told += n
	return n
}

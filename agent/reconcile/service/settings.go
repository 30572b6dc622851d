//go:build linux

package service

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strconv"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// The settings of connection tracking, as paths below net/.
const (
	pathCount       = "netfilter/nf_conntrack_count"
	pathMax         = "netfilter/nf_conntrack_max"
	pathBuckets     = "netfilter/nf_conntrack_buckets"
	pathEstablished = "netfilter/nf_conntrack_tcp_timeout_established"
	pathCloseWait   = "netfilter/nf_conntrack_tcp_timeout_close_wait"
	pathLiberal     = "netfilter/nf_conntrack_tcp_be_liberal"
)

// perBucket is how many connections share a bucket of the hash table when it is full, as kube-proxy sizes it.
const perBucket = 4

const (
	// settingsEvery is how often the settings are looked at; nobody tells when one changes.
	settingsEvery = time.Minute
	// askAgain is how soon, when it is not known yet what they should be: the agent has just started.
	askAgain = time.Second
)

// Settings keeps connection tracking as the MeshConfig says.
type Settings struct {
	// Table reads and writes settings.
	Table sysctl.Table
	// Config is what is wanted; ok is false while that is not known.
	Config func() (c snapshot.ServiceConfig, ok bool)
	// Cores of the node.
	Cores int
	Log   *slog.Logger
}

// Run keeps the settings until the context ends. What cannot be written is logged, and no reason to
// serve no Services: in a network namespace that is not the machine's first the size is not ours to set.
func (s Settings) Run(ctx context.Context) {
	runtime.LockOSThread() // settings are those of the thread's network namespace
	defer runtime.UnlockOSThread()
	timer := time.NewTimer(settingsEvery)
	defer timer.Stop()
	said := ""
	for {
		text, next := "", settingsEvery
		c, known := s.Config()
		if !known {
			next = askAgain
		} else if err := s.ensure(ctx, c); err != nil && ctx.Err() == nil {
			text = err.Error()
			if text != said {
				s.Log.Warn("connection tracking keeps a setting of its own", "error", err)
			}
		}
		said = text
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

func (s Settings) ensure(ctx context.Context, c snapshot.ServiceConfig) error {
	have, err := s.Table.Observe(ctx, []string{pathMax, pathBuckets, pathEstablished, pathCloseWait, pathLiberal})
	change := sysctl.Diff(have, conntrackSettings(c, s.Cores, have))
	if change.Empty() {
		return err
	}
	s.Log.Info("set connection tracking", "settings", change.String())
	return errors.Join(err, s.Table.Apply(ctx, change))
}

// conntrackSettings are those to write. The size only grows: somebody who set it higher had a reason,
// and to shrink it cuts connections.
func conntrackSettings(c snapshot.ServiceConfig, cores int, have sysctl.Observed) []state.Sysctl {
	current := map[string]int64{}
	for _, s := range have.Settings {
		if n, err := strconv.ParseInt(s.Value, 10, 64); err == nil {
			current[s.Path] = n
		}
	}
	var out []state.Sysctl
	set := func(path string, n int64) {
		out = append(out, state.Sysctl{Path: path, Value: strconv.FormatInt(n, 10)})
	}
	if most := max(c.ConntrackMin, c.ConntrackMaxPerCore*int64(cores)); c.ConntrackMaxPerCore > 0 && current[pathMax] < most {
		set(pathMax, most)
		if current[pathBuckets] < most/perBucket {
			set(pathBuckets, most/perBucket)
		}
	}
	if c.TCPEstablished > 0 {
		set(pathEstablished, int64(c.TCPEstablished/time.Second))
	}
	if c.TCPCloseWait > 0 {
		set(pathCloseWait, int64(c.TCPCloseWait/time.Second))
	}
	if c.TCPBeLiberal {
		set(pathLiberal, 1)
	}
	return out
}

// ConntrackUse reads how many connections are tracked, and how many can be.
func (s Settings) ConntrackUse(ctx context.Context) (used, most int64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	have, err := s.Table.Observe(ctx, []string{pathCount, pathMax})
	if err != nil {
		return 0, 0, err
	}
	for _, v := range have.Settings {
		n, fault := strconv.ParseInt(v.Value, 10, 64)
		err = errors.Join(err, fault)
		if v.Path == pathCount {
			used = n
		} else {
			most = n
		}
	}
	return used, most, err
}

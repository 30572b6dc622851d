//go:build linux

package service

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

func TestConntrackSettings(t *testing.T) {
	small := sysctl.Observed{Settings: []state.Sysctl{{Path: pathMax, Value: "65536"}, {Path: pathBuckets, Value: "16384"}}}
	large := sysctl.Observed{Settings: []state.Sysctl{{Path: pathMax, Value: "1000000"}, {Path: pathBuckets, Value: "250000"}}}
	times := []state.Sysctl{{Path: pathEstablished, Value: "86400"}, {Path: pathCloseWait, Value: "3600"}}
	for _, row := range []struct {
		name  string
		c     snapshot.ServiceConfig
		cores int
		have  sysctl.Observed
		want  []state.Sysctl
	}{
		{"few cores", snapshot.DefaultServiceConfig(), 2, small, append([]state.Sysctl{{Path: pathMax, Value: "131072"}, {Path: pathBuckets, Value: "32768"}}, times...)},
		{"many cores", snapshot.DefaultServiceConfig(), 16, small, append([]state.Sysctl{{Path: pathMax, Value: "524288"}, {Path: pathBuckets, Value: "131072"}}, times...)},
		{"larger already", snapshot.DefaultServiceConfig(), 16, large, times},
		{"left alone", snapshot.ServiceConfig{ConntrackMin: 131072}, 16, small, nil},
		{"liberal", snapshot.ServiceConfig{TCPBeLiberal: true, TCPCloseWait: time.Minute}, 1, large, []state.Sysctl{{Path: pathCloseWait, Value: "60"}, {Path: pathLiberal, Value: "1"}}},
	} {
		if got := conntrackSettings(row.c, row.cores, row.have); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

// refusing takes every setting but the size, as a network namespace does that is not the first.
type refusing struct {
	values map[string]string
}

func (r refusing) Observe(_ context.Context, paths []string) (o sysctl.Observed, err error) {
	for _, p := range paths {
		o.Settings = append(o.Settings, state.Sysctl{Path: p, Value: r.values[p]})
	}
	return o, nil
}

func (r refusing) Apply(_ context.Context, c sysctl.Change) error {
	var err error
	for _, s := range c.Set {
		if s.Path == pathMax {
			err = context.DeadlineExceeded
			continue
		}
		r.values[s.Path] = s.Value
	}
	return err
}

func TestSettingsGoAsFarAsTheyCan(t *testing.T) {
	table := refusing{map[string]string{pathMax: "10", pathBuckets: "10", pathEstablished: "1", pathCloseWait: "1", pathLiberal: "0", pathCount: "3"}}
	s := Settings{
		Table: table, Cores: 1, Log: slog.New(slog.DiscardHandler),
		Config: func() (snapshot.ServiceConfig, bool) { return snapshot.DefaultServiceConfig(), true },
	}
	if err := s.ensure(t.Context(), snapshot.DefaultServiceConfig()); err == nil {
		t.Error("a setting that was refused is no error")
	}
	if table.values[pathEstablished] != "86400" || table.values[pathMax] != "10" {
		t.Errorf("settings are %v", table.values)
	}
	if used, most, err := s.ConntrackUse(t.Context()); used != 3 || most != 10 || err != nil {
		t.Errorf("%d of %d, %v", used, most, err)
	}
}

// TestSettingsDoNotWaitForTheNextLook: an agent that has just started does not know the MeshConfig yet.
func TestSettingsDoNotWaitForTheNextLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := refusing{map[string]string{pathMax: "10", pathBuckets: "10", pathEstablished: "1", pathCloseWait: "1", pathLiberal: "0", pathCount: "3"}}
		begun := time.Now()
		s := Settings{Table: table, Cores: 1, Log: slog.New(slog.DiscardHandler), Config: func() (snapshot.ServiceConfig, bool) {
			return snapshot.DefaultServiceConfig(), time.Since(begun) > 2*time.Second
		}}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		<-time.After(5 * time.Second)
		stop()
		<-done
		if got := table.values[pathEstablished]; got != "86400" {
			t.Errorf("5 s after the start, 3 s after the configuration came, %s is %s", pathEstablished, got)
		}
	})
}

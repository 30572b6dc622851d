//go:build linux && netns

package bpf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/nstest"
)

func (p place) newSwitch(t *testing.T, on bool) *Switch {
	t.Helper()
	mount, group := filepath.Split(p.config.CgroupRoot)
	s := NewSwitch(SwitchConfig{On: on, CgroupMount: filepath.Clean(mount), Cgroup: group, PinDir: p.config.PinDir})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSwitchOnOffAndOnAgain(t *testing.T) {
	p := newPlace(t)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	balanced := func(want unix.Errno) {
		t.Helper()
		if r := c.do(order{To: service4}); r.Errno != want {
			t.Errorf("%s %q, want %q", r.Call, r.Errno, want)
		}
	}
	for range 2 {
		on := p.newSwitch(t, true)
		if err := on.Set(context.Background(), want("v4", service4)); !errors.Is(err, ErrNotSynced) {
			t.Errorf("before the first Sync: %v", err)
		}
		syncAll(t, on, both()...)
		balanced(0)
		if r := on.Report(); !r.On || !r.Asked || r.Failing || r.Frontends != 2 {
			t.Errorf("switched on: %+v", r)
		}
		if err := on.Close(); err != nil {
			t.Error(err)
		}
		off := p.newSwitch(t, false)
		balanced(0) // until the next agent knows what to do
		syncAll(t, off, both()...)
		set(t, off, both()...)
		balanced(unix.ENETUNREACH)
		if r := off.Report(); r.On || !r.Asked || r.Failing || r.Reason != "switched off" {
			t.Errorf("switched off: %+v", r)
		}
		if _, err := os.Stat(p.config.PinDir); !os.IsNotExist(err) {
			t.Errorf("something stayed: %v", err)
		}
	}
}

func TestSwitchWithoutCgroupsOfVersion2(t *testing.T) {
	nstest.RequireRoot(t)
	s := NewSwitch(SwitchConfig{On: true, CgroupMount: t.TempDir(), PinDir: filepath.Join(t.TempDir(), "weftnet")})
	syncAll(t, s, both()...)
	set(t, s, both()...)
	if r := s.Report(); r.On || r.Failing || !strings.Contains(r.Reason, "no: find cgroups of version 2") {
		t.Errorf("%+v", r)
	}
}

// What cannot be kept up to date must not go on leading to endpoints that may be gone.
func TestWhatCannotBeSetRightIsSwitchedOff(t *testing.T) {
	p := newPlace(t)
	k := p.open(t)
	syncAll(t, k, both()...)
	c := newClient(t, p.config.CgroupRoot, newPod(t))
	if r := c.do(order{To: service4}); r.Errno != 0 {
		t.Fatalf("%s %s", r.Call, r.Errno)
	}
	right := k.cgroup
	k.cgroup = cgroup{"/nowhere", 1}
	if err := k.renew(context.Background()); err == nil {
		t.Error("attached to nowhere")
	}
	if r := c.do(order{To: service4}); r.Errno != unix.ENETUNREACH {
		t.Errorf("%s %s, served by %q", r.Call, r.Errno, r.Server)
	}
	k.cgroup = right
	set(t, k, want("v6", service6, servers6[0]))
	for _, o := range []order{{To: service4}, {To: service6}} {
		if r := c.do(o); r.Errno != 0 {
			t.Errorf("set right again, to %s: %s %s", o.To, r.Call, r.Errno)
		}
	}
	// An agent that ends in the middle leaves things as they are.
	ended, end := context.WithCancel(context.Background())
	end()
	if err := k.Set(ended, want("v4", service4)); err == nil {
		t.Error("an ended agent made a change")
	}
	if r := c.do(order{To: service4}); r.Errno != 0 {
		t.Errorf("%s %s", r.Call, r.Errno)
	}
}

//go:build linux

package cniinstall

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/weftnet/weftnet/test/poll"
)

type host struct {
	Config
	ready atomic.Bool
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{Config: Config{
		Plugin: filepath.Join(dir, "plugin"), BinDir: filepath.Join(dir, "opt/cni/bin"), ConfDir: filepath.Join(dir, "etc/cni/net.d"),
		Socket: "/run/weftnet/cni.sock",
	}}
	h.Ready = func() error {
		if !h.ready.Load() {
			return errors.New("no mesh yet")
		}
		return nil
	}
	if err := os.WriteFile(h.Plugin, []byte("the plugin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(h.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(h.Config).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (h *host) conf() string   { return filepath.Join(h.ConfDir, ConfName) }
func (h *host) binary() string { return filepath.Join(h.BinDir, PluginName) }

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	poll.Until(t, time.Minute, what, func() error {
		if !cond() {
			return errors.New("not yet")
		}
		return nil
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestNothingBeforeReady(t *testing.T) {
	h := newHost(t)
	asked := make(chan struct{}, 100)
	ready := h.Ready
	h.Ready = func() error { asked <- struct{}{}; return ready() }
	h.run(t)
	for range 3 {
		<-asked
	}
	if exists(h.conf()) {
		t.Fatal("the configuration is there before the agent is ready")
	}
	h.ready.Store(true)
	eventually(t, "the configuration is there", func() bool { return exists(h.conf()) })
	if got, err := os.ReadFile(h.binary()); err != nil || string(got) != "the plugin" {
		t.Errorf("the plugin: %q, %v", got, err)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	h := newHost(t)
	h.ready.Store(true)
	h.run(t)
	eventually(t, "installed", func() bool { return exists(h.conf()) })
	h.ready.Store(false) // what was installed stays so while the agent is not ready
	want, _ := os.ReadFile(h.conf())
	same := func(path, want string) func() bool {
		return func() bool { got, err := os.ReadFile(path); return err == nil && string(got) == want }
	}
	for _, spoil := range []func() error{
		func() error { return os.Remove(h.conf()) },
		func() error { return os.WriteFile(h.conf(), []byte("{}"), 0o644) },
		func() error { return os.Remove(h.binary()) },
		func() error { return os.WriteFile(h.binary(), []byte("another"), 0o755) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the configuration is back", same(h.conf(), string(want)))
		eventually(t, "the plugin is back", same(h.binary(), "the plugin"))
	}
}

func TestRuntimeTakesOurs(t *testing.T) {
	h := newHost(t)
	other := filepath.Join(h.ConfDir, "10-other.conflist")
	if err := os.WriteFile(other, []byte(`{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"bridge"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(h.BinDir, 0o755), New(h.Config).Install()); err != nil {
		t.Fatal(err)
	}
	files, err := libcni.ConfFiles(h.ConfDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	list, err := libcni.ConfListFromFile(files[0])
	if err != nil || list.Name != "weftnet" || list.CNIVersion != "1.1.0" || list.Plugins[0].Network.Type != PluginName {
		t.Errorf("the runtime takes %+v, %v", list, err)
	}
	if !exists(other) {
		t.Error("the other configuration was touched unasked")
	}
}

func TestDisableOthers(t *testing.T) {
	h := newHost(t)
	h.DisableOthers = true
	other := filepath.Join(h.ConfDir, "00-other.conf")
	if err := os.WriteFile(other, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(h.BinDir, 0o755), New(h.Config).Install()); err != nil {
		t.Fatal(err)
	}
	if exists(other) || !exists(other+DisabledSuffix) {
		t.Error("the other configuration was not set aside")
	}
}

func TestLoopbackIsLinkedOnlyWhereTheHostHasNone(t *testing.T) {
	for name, theirs := range map[string]bool{"host has one": true, "host has none": false} {
		t.Run(name, func(t *testing.T) {
			binDir, confDir, plugin := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "weftnet-cni")
			path := filepath.Join(binDir, LoopbackName)
			if err := os.WriteFile(plugin, []byte("ours"), 0o755); err != nil {
				t.Fatal(err)
			}
			if theirs {
				if err := os.WriteFile(path, []byte("theirs"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			i := New(Config{Plugin: plugin, BinDir: binDir, ConfDir: confDir, Socket: "/run/weftnet/cni.sock"})
			for range 2 {
				if err := i.Install(); err != nil {
					t.Fatal(err)
				}
			}
			want := map[bool]string{true: "theirs", false: "ours"}[theirs]
			if text, err := os.ReadFile(path); err != nil || string(text) != want {
				t.Errorf("loopback is %q (%v), want %q", text, err, want)
			}
		})
	}
}

//go:build netns

package cniinstall

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// lines is what was logged so far.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) with(parts ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.text.String()) {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(line, part)
		}
		if all {
			n++
		}
	}
	return n
}

// TestFullDisk has no room for the plugin: the log says so, once however often it is tried, and the plugin is
// there when there is room.
func TestFullDisk(t *testing.T) {
	h := newHost(t)
	if err := os.MkdirAll(h.BinDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", h.BinDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(h.BinDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	plugin := bytes.Repeat([]byte("the plugin"), 20_000)
	if err := os.WriteFile(h.Plugin, plugin, 0o755); err != nil {
		t.Fatal(err)
	}
	var attempts atomic.Int32
	h.Ready = func() error { attempts.Add(1); return nil }
	log := &lines{}
	h.Logger = slog.New(slog.NewJSONHandler(log, nil))
	h.run(t)
	fault := []string{`"level":"ERROR"`, "install " + h.binary(), "no space left on device"}
	eventually(t, "the log says that there is no room", func() bool { return log.with(fault...) > 0 })
	eventually(t, "it is tried again and again", func() bool { return attempts.Load() > 3 })
	if n := log.with(fault...); n != 1 {
		t.Errorf("the log says %d times that there is no room", n)
	}
	if exists(h.conf()) {
		t.Error("the configuration is there and the plugin is not")
	}
	if err := unix.Mount("tmpfs", h.BinDir, "tmpfs", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the configuration is there", func() bool { return exists(h.conf()) })
	if got, err := os.ReadFile(h.binary()); err != nil || !bytes.Equal(got, plugin) {
		t.Errorf("the plugin has %d bytes of %d: %v", len(got), len(plugin), err)
	}
	if left, err := os.ReadDir(h.BinDir); err != nil || len(left) != 2 { // the plugin and the link for the loopback
		t.Errorf("the folder holds %v, %v", left, err)
	}
	eventually(t, "the log says that it is well", func() bool { return log.with("installed again") == 1 })
}

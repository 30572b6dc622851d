//go:build linux

package sysctl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// contract is what every Table does. The table is made with the values given, all others missing.
func contract(t *testing.T, open func(t *testing.T, values map[string]string) Table) {
	ctx := t.Context()
	forward, filter6 := state.Sysctl{Path: "ipv4/ip_forward", Value: "1"}, state.Sysctl{Path: "ipv6/conf/weft0/accept_ra", Value: "0"}
	t.Run("writes the difference only", func(t *testing.T) {
		table := open(t, map[string]string{"ipv4/ip_forward": "0", "ipv6/conf/weft0/accept_ra": "0", "ipv4/tcp_rmem": "1\t2\t3"})
		want := []state.Sysctl{filter6, forward, {Path: "ipv4/tcp_rmem", Value: "1 2 3"}}
		c, err := ensure(ctx, table, want)
		if err != nil || c.String() != `sysctl -w net/ipv4/ip_forward="1"` {
			t.Errorf("change is %q, error %v", c, err)
		}
		if c, err = ensure(ctx, table, want); err != nil || !c.Empty() {
			t.Errorf("second time: change is %q, error %v", c, err)
		}
	})
	t.Run("no IPv6", func(t *testing.T) {
		table := open(t, map[string]string{"ipv4/ip_forward": "0"})
		c, err := ensure(ctx, table, []state.Sysctl{filter6, forward})
		if err != nil || len(c.Set) != 1 {
			t.Errorf("change is %q, error %v", c, err)
		}
	})
	t.Run("link is gone", func(t *testing.T) {
		table := open(t, map[string]string{"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0"})
		_, err := ensure(ctx, table, []state.Sysctl{filter6, forward})
		if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "net/ipv6/conf/weft0/accept_ra") {
			t.Errorf("error is %v", err)
		}
		o, err := table.Observe(ctx, []string{"ipv4/ip_forward"})
		if err != nil || len(o.Settings) != 1 || o.Settings[0] != forward {
			t.Errorf("the other setting is %v, error %v", o, err)
		}
	})
	t.Run("bad path", func(t *testing.T) {
		table := open(t, map[string]string{"ipv4/ip_forward": "0"})
		for _, path := range []string{"", "/etc/passwd", "../kernel/panic", "ipv4/../../kernel/panic", "ipv4//x"} {
			if _, err := ensure(ctx, table, []state.Sysctl{{Path: path, Value: "1"}, forward}); err == nil {
				t.Errorf("path %q: no error", path)
			}
		}
		if c, err := ensure(ctx, table, []state.Sysctl{forward}); err != nil || !c.Empty() {
			t.Errorf("the good one was not written with them: %q, error %v", c, err)
		}
	})
}

func TestFakeContract(t *testing.T) {
	contract(t, func(_ *testing.T, values map[string]string) Table { return NewFake(values) })
}

// TestKernelContract works on plain files; the kernel's own are in the netns test.
func TestKernelContract(t *testing.T) {
	contract(t, func(t *testing.T, values map[string]string) Table {
		root := t.TempDir()
		for path, value := range values {
			file := filepath.Join(root, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(value+"\n"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		k, err := New(root)
		if err != nil {
			t.Fatal(err)
		}
		return k
	})
}

func TestNewWithoutRoot(t *testing.T) {
	if _, err := New(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestDiffTakesTheLastOfTwo(t *testing.T) {
	want := []state.Sysctl{{Path: "ipv4/a", Value: "2"}, {Path: "ipv4/a", Value: "1"}}
	if c := Diff(Observed{}, want); len(c.Set) != 1 || c.Set[0].Value != "2" {
		t.Errorf("change is %q", c)
	}
}

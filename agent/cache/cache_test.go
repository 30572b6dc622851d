//go:build linux

package cache

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/durable"
	"github.com/weftnet/weftnet/agent/snapshot"
)

func sample() snapshot.Snapshot {
	return snapshot.Snapshot{
		Self: "node1",
		Nodes: []snapshot.Node{
			{
				Name: "node1", Created: time.Unix(1700000000, 0).UTC(), PodCIDRs: []string{"10.244.0.0/24", "fd00:10:244::/64"},
				MeshIPs: []string{"10.244.0.1", "fd00:10:244::1"}, NodeIPs: []string{"192.0.2.1", "2001:db8::1"}, PublicKey: "k1",
				KeyEpoch: 1, Endpoints: []string{"192.0.2.1"}, ListenPort: 51820, MTU: 1440,
			},
			{Name: "node2", PodCIDRs: []string{"garbage stays as it was"}},
		},
		InternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Pools:       []snapshot.Pool{{Name: "default", CIDRs: []string{"10.244.0.0/16"}}},
		Config:      snapshot.Config{ListenPort: 51820, Keepalive: 25 * time.Second, Backend: "Auto", NoMasqueradeCIDRs: []string{"10.0.0.0/8"}},
	}
}

func TestWhatWasSavedComesBackPartial(t *testing.T) {
	c := Cache{Path: filepath.Join(t.TempDir(), "state", "peers.json"), Self: "node1"}
	if _, err := c.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a file: %v", err)
	}
	if err := c.Save(sample()); err != nil {
		t.Fatal(err)
	}
	got, err := c.Load()
	if err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Partial = true
	if !got.Equal(want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if info, err := os.Stat(c.Path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := c.Save(got); err == nil {
		t.Error("a partial snapshot was stored")
	}
}

func TestBadFileIsRefusedAndReplaced(t *testing.T) {
	rows := []struct {
		name, says string
		spoil      func(path string) error
	}{
		{"empty", "is corrupt", func(p string) error { return os.Truncate(p, 0) }},
		{"truncated", "is corrupt", func(p string) error { return os.Truncate(p, 100) }},
		{"zeros", "is corrupt", func(p string) error { return os.WriteFile(p, make([]byte, 100), 0o600) }},
		{"wrong type", "is corrupt", func(p string) error { return os.WriteFile(p, []byte(`{"format":1,"snapshot":{"nodes":7}}`), 0o600) }},
		{"next version", "has format 2", func(p string) error { return os.WriteFile(p, []byte(`{"format":2,"snapshot":[]}`), 0o600) }},
		{"other node", `belongs to node "node9"`, func(p string) error {
			return os.WriteFile(p, []byte(`{"format":1,"snapshot":{"self":"node9"}}`), 0o600)
		}},
		{"writable by others", "only its owner", func(p string) error { return os.Chmod(p, 0o666) }},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := Cache{Path: filepath.Join(t.TempDir(), "peers.json"), Self: "node1"}
			if err := c.Save(sample()); err != nil {
				t.Fatal(err)
			}
			if err := row.spoil(c.Path); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Load(); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("error %v, want one that says %q", err, row.says)
			}
			if err := c.Save(sample()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Load(); err != nil {
				t.Errorf("after saving anew: %v", err)
			}
		})
	}
}

func TestKilledSaveKeepsTheOldCache(t *testing.T) {
	killed := errors.New("killed")
	c := Cache{Path: filepath.Join(t.TempDir(), "peers.json"), Self: "node1"}
	if err := c.Save(sample()); err != nil {
		t.Fatal(err)
	}
	dying := c
	dying.Writer = durable.Writer{Step: func(name string) error {
		if name == "write the rest" {
			return killed
		}
		return nil
	}}
	changed := sample()
	changed.Nodes = changed.Nodes[:1]
	if err := dying.Save(changed); !errors.Is(err, killed) {
		t.Fatalf("error %v", err)
	}
	if got, err := c.Load(); err != nil || len(got.Nodes) != 2 {
		t.Errorf("%d nodes, %v", len(got.Nodes), err)
	}
	if err := c.Save(changed); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(c.Path)); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"format":1,"snapshot":{"self":"a","nodes":[{"name":"b","created":"2026-01-01T00:00:00Z"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decode(data); err == nil && !s.Partial {
			t.Error("what comes from the disk claims to be complete")
		}
	})
}

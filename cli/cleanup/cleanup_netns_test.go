//go:build linux && netns

package cleanup

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/test/nstest"
)

// disk is a node's disk with Weftnet's files and those of others.
func disk(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, path := range []string{
		"opt/cni/bin/weftnet", "opt/cni/bin/loopback", "etc/cni/net.d/05-weftnet.conflist", "etc/cni/net.d/10-other.conflist", "etc/cni/net.d/20-aside.conflist.weftnet-disabled",
		"run/weftnet/cni-queue/1", "run/weftnet/wireguard/weft0.json", "var/lib/weftnet/key-1", "var/lib/weftnet/ipam/10.244.0.7", "var/lib/other/x",
		"var/run/wireguard/weft0.sock", "sys/fs/bpf/weftnet/weft_connect4", "sys/fs/bpf/other/pin",
	} {
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o700), os.WriteFile(full, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func files(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func in(t *testing.T, f func()) { t.Helper(); nstest.New(t).Do(t, f) }

func node(root string) Node {
	return Node{Root: root, CNIBinDir: "/opt/cni/bin", CNIConfDir: "/etc/cni/net.d"}
}

func addLink(t *testing.T, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer0"}); err != nil {
		t.Error(err)
	}
}

func TestNodeLeavesOthersAndItsState(t *testing.T) {
	root := disk(t)
	in(t, func() {
		addLink(t, "weftp1")
		if err := node(root).Run(t.Context(), io.Discard); err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName("weftp1"); err == nil {
			t.Error("the link is still there")
		}
		if err := node(root).Run(t.Context(), io.Discard); err != nil {
			t.Errorf("a second time: %v", err)
		}
	})
	want := []string{"etc/cni/net.d/10-other.conflist", "etc/cni/net.d/20-aside.conflist", "opt/cni/bin/loopback", "sys/fs/bpf/other/pin", "var/lib/other/x", "var/lib/weftnet/ipam/10.244.0.7", "var/lib/weftnet/key-1"}
	if got := files(t, root); !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	if _, err := os.Stat(filepath.Join(root, "run/weftnet")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the run folder: %v", err)
	}
}

// TestLoopbackLinkGoes has a host without a loopback plugin of its own.
func TestLoopbackLinkGoes(t *testing.T) {
	root := disk(t)
	link := filepath.Join(root, "opt/cni/bin/loopback")
	if err := errors.Join(os.Remove(link), os.Symlink("weftnet", link)); err != nil {
		t.Fatal(err)
	}
	in(t, func() {
		if err := node(root).Run(t.Context(), io.Discard); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to nowhere is left: %v", err)
	}
}

func TestStateTakesTheKeyToo(t *testing.T) {
	root := disk(t)
	n := node(root)
	n.State = true
	in(t, func() {
		if err := n.Run(t.Context(), io.Discard); err != nil {
			t.Error(err)
		}
	})
	if got := files(t, root); slices.ContainsFunc(got, func(f string) bool { return strings.Contains(f, "weftnet") }) {
		t.Errorf("left: %v", got)
	}
}

func TestDryRunOnlyTells(t *testing.T) {
	root := disk(t)
	before := files(t, root)
	n := node(root)
	n.DryRun, n.State = true, true
	var told strings.Builder
	in(t, func() {
		addLink(t, "weft0")
		if err := n.Run(t.Context(), &told); err != nil {
			t.Error(err)
		}
		if _, err := netlink.LinkByName("weft0"); err != nil {
			t.Errorf("the link went: %v", err)
		}
	})
	if after := files(t, root); !slices.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	for _, want := range []string{"would remove link weft0", "05-weftnet.conflist", "var/lib/weftnet"} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("did not tell %q:\n%s", want, told.String())
		}
	}
}

// TestRunningAgentIsRefused : with an agent that answers, nothing is touched, and once it has ended
// within the patience, everything is.
func TestRunningAgentIsRefused(t *testing.T) {
	root := disk(t)
	before := files(t, root)
	l, err := net.Listen("unix", filepath.Join(root, "run/weftnet/cni.sock"))
	if err != nil {
		t.Fatal(err)
	}
	in(t, func() {
		if err := node(root).Run(t.Context(), io.Discard); !errors.Is(err, ErrRunning) {
			t.Errorf("with an agent: %v", err)
		}
		if after := files(t, root); len(after) != len(before)+1 { // its socket
			t.Errorf("something was removed: before %v, after %v", before, after)
		}
		n := node(root)
		n.Patience = 30 * time.Second
		go func() {
			conn, err := l.Accept() // it is asked, and ends
			if err == nil {
				_ = conn.Close()
			}
			_ = l.Close()
		}()
		if err := n.Run(t.Context(), io.Discard); err != nil {
			t.Errorf("after the agent has ended: %v", err)
		}
	})
}

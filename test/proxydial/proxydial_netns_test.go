//go:build linux && netns

package proxydial

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/test/nstest"
)

func TestMain(m *testing.M) {
	if !Main() {
		m.Run()
	}
}

func TestDialInAnotherNamespaceAndCgroup(t *testing.T) {
	ns := nstest.New(t)
	root, err := bpf.FindCgroup("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.MkdirTemp(root, "weftnet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(group) })
	d := Start(t, group, ns)
	procs, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(procs)) == "" {
		t.Errorf("no process in the cgroup: %v", err)
	}
	for _, at := range []string{"127.0.0.1:8080", "[::1]:8080"} {
		var l net.Listener
		ns.Do(t, func() { l, err = net.Listen("tcp", at) })
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		c, err := d.Dial("tcp", at, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(c); err != nil || string(text) != "hello" || c.RemoteAddr().String() != at {
			t.Errorf("%q from %s: %v", text, c.RemoteAddr(), err)
		}
		_ = c.Close()
		_ = l.Close()
		if _, err := d.Dial("tcp", at, time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("where nobody listens: %v", err)
		}
	}
}

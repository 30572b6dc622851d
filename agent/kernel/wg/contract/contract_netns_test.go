//go:build netns

package contract

import (
	"os"
	"testing"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/wgtest"
)

// backendVariable chooses what the table runs on: wireguard-go, or with "kernel" the WireGuard of
// the running kernel, which fails where there is none.
const backendVariable = "WEFTNET_BACKEND"

func TestMain(m *testing.M) { wgtest.Main(m) }

func TestBackend(t *testing.T) {
	if os.Getenv(backendVariable) == "kernel" {
		Run(t, kernel(t))
		return
	}
	Run(t, userspace(t))
}

func control(t *testing.T, ns *nstest.Namespace) (*wg.Kernel, *link.Kernel) {
	var devices *wg.Kernel
	var links *link.Kernel
	ns.Do(t, func() {
		var err error
		if devices, err = wg.New(); err != nil {
			t.Error(err)
		}
		if links, err = link.New(); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _ = devices.Close(); links.Close() })
	return devices, links
}

func userspace(t *testing.T) func(t *testing.T) Backend {
	ns := nstest.New(t)
	devices, _ := control(t, ns)
	process := wgtest.Start(t, ns)
	return func(t *testing.T) Backend {
		name := wgtest.DeviceName()
		process.Request(t, devices, name)
		t.Cleanup(func() { process.Release(t, devices, name) })
		return Backend{Interface: devices, Device: name}
	}
}

func kernel(t *testing.T) func(t *testing.T) Backend {
	return func(t *testing.T) Backend {
		devices, links := control(t, nstest.New(t))
		want := []state.Link{{Name: "weft0", Kind: state.LinkWireGuard, MTU: 1420, Up: true}}
		if _, err := links.Ensure(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		return Backend{Interface: devices, Device: "weft0"}
	}
}

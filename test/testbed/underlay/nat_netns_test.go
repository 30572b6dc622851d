//go:build netns

package underlay

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

// TestRouterComesAndGoes has the machine's part of the underlay in a namespace that is not the one of this process's
// main thread: what is taken from behind a router must come back to where it was.
func TestRouterComesAndGoes(t *testing.T) {
	const node = layout.Node(layout.MaxNodes)
	t.Cleanup(func() {
		if err := RemoveNode(node); err != nil {
			t.Error(err)
		}
	})
	var err error
	nstest.New(t).Do(t, func() { err = comeAndGo(node) })
	if err != nil {
		t.Error(err)
	}
}

func comeAndGo(node layout.Node) error {
	if err := EnsureBridge(layout.Dual); err != nil {
		return err
	}
	if err := EnsureNode(node, layout.Dual, node.Addrs(layout.Dual), nil); err != nil {
		return err
	}
	before, err := netlink.LinkByName(node.Port())
	if err != nil {
		return fmt.Errorf("find the node's port: %w", err)
	}
	for range 2 {
		if err := errors.Join(EnsureRouter(node, layout.Dual, NAT{}), RemoveRouter(node, layout.Dual)); err != nil {
			return err
		}
		after, err := netlink.LinkByName(node.Port())
		if err != nil {
			return fmt.Errorf("the node's port has not come back: %w", err)
		}
		if have, want := after.Attrs().HardwareAddr.String(), before.Attrs().HardwareAddr.String(); have != want {
			return fmt.Errorf("another link came back: %s, want %s", have, want)
		}
	}
	return nil
}

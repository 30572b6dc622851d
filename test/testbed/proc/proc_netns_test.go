//go:build netns

package proc

import (
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/nstest"
)

// TestAsideComesBack: a process whose first thread stayed in a node's namespace would be ended with the node.
func TestAsideComesBack(t *testing.T) {
	nstest.RequireRoot(t)
	before := nstest.OfProcess(t)
	var all errgroup.Group
	for range 200 {
		all.Go(func() error {
			return Aside(func() error {
				h, err := netns.New() // moves the thread
				if err != nil {
					return err
				}
				return h.Close()
			})
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if after := nstest.OfProcess(t); after != before {
		t.Errorf("the process was in %s and is in %s", before, after)
	}
}

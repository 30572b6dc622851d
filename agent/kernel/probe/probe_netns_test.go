//go:build linux && netns

package probe_test

import (
	"context"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/probe"
	"github.com/weftnet/weftnet/test/nstest"
)

// TestFeaturesAgreeWithTheKernel : on the machine that runs the tests, on which the data plane's own
// tests pass, everything required is there, and each answer has a reason.
func TestFeaturesAgreeWithTheKernel(t *testing.T) {
	nstest.RequireRoot(t)
	backends := 0
	for _, f := range probe.Features(context.Background()) {
		t.Logf("%-14s %s", f.Name, f.Probe)
		if f.Reason == "" || f.Use == "" {
			t.Errorf("%s: an answer without a reason or a use: %+v", f.Name, f)
		}
		if f.Need == probe.Required && f.Answer != link.Yes {
			t.Errorf("%s is required: %s", f.Name, f.Probe)
		}
		if f.Need == probe.Backend && f.Answer == link.Yes {
			backends++
		}
	}
	if backends == 0 {
		t.Error("neither the kernel's WireGuard nor TUN")
	}
}

// TestProbesLeaveNoTrace : the namespace that the probes are started from stays as it was.
func TestProbesLeaveNoTrace(t *testing.T) {
	nstest.New(t).Do(t, func() {
		before := names(t)
		probe.Features(context.Background())
		if after := names(t); !slices.Equal(before, after) {
			t.Errorf("links before %v, after %v", before, after)
		}
		if rules, err := netlink.RuleList(netlink.FAMILY_ALL); err != nil || slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == 8700 }) {
			t.Errorf("a probe's rule is left: %v, %v", rules, err)
		}
	})
}

func names(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Errorf("list links: %v", err)
	}
	var all []string
	for _, l := range links {
		all = append(all, l.Attrs().Name)
	}
	return all
}

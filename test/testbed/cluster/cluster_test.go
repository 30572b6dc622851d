package cluster

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/record"
)

func TestManifests(t *testing.T) {
	for family, want := range map[layout.Family][]any{
		layout.Dual: {"10.96.0.10", "fd00:10:96::a"}, layout.IPv4: {"10.96.0.10"}, layout.IPv6: {"fd00:10:96::a"},
	} {
		text, err := renderManifests(family)
		if err != nil {
			t.Fatal(err)
		}
		var service map[string]any
		for document := range strings.SplitSeq(text, "\n---\n") {
			var object map[string]any
			if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
				t.Fatalf("%s: %v in\n%s", family, err, document)
			}
			if object["kind"] == "Service" {
				service = object["spec"].(map[string]any)
			}
		}
		if got := service["clusterIPs"].([]any); !slices.Equal(got, want) {
			t.Errorf("%s: cluster addresses %v, want %v", family, got, want)
		}
	}
}

func TestMissingDirs(t *testing.T) {
	base := t.TempDir()
	a, b, c := filepath.Join(base, "a"), filepath.Join(base, "a", "b"), filepath.Join(base, "a", "b", "c")
	missing, err := missingDirs([]string{c, b, base})
	if err != nil || !slices.Equal(missing, []string{a, b, c}) {
		t.Fatalf("got %v, %v", missing, err)
	}
	if err := makeDirs(missing); err != nil {
		t.Fatal(err)
	}
	if again, err := missingDirs([]string{c}); err != nil || len(again) != 0 {
		t.Errorf("after making them: %v, %v", again, err)
	}
	// What somebody else has put there stays, and so does the way to it.
	other := filepath.Join(b, "other")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := removeDirs(missing); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("another's file: %v", err)
	}
	if _, err := os.Stat(c); !os.IsNotExist(err) {
		t.Errorf("our folder is left: %v", err)
	}
}

func TestBaselineRoutesReachEveryOtherNode(t *testing.T) {
	routes := baselineRoutes(2, layout.Nodes(3), layout.Dual)
	var got []string
	for _, r := range routes {
		got = append(got, r.Dst.String()+" via "+r.Via.String())
	}
	want := []string{
		"10.244.1.0/24 via 10.200.0.11", "fd00:10:244:1::/64 via fd00:c8::11",
		"10.244.3.0/24 via 10.200.0.13", "fd00:10:244:3::/64 via fd00:c8::13",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestNodeSysctls(t *testing.T) {
	if got := nodeSysctls(record.Options{CNI: record.None}); len(got) != 0 {
		t.Errorf("without a network, the node is left as it is: %v", got)
	}
	own := record.Options{CNI: record.PTP, Sysctls: map[string]string{"net.ipv4.ip_forward": "0"}}
	if got := nodeSysctls(own); got["net.ipv4.ip_forward"] != "0" || got["net.ipv6.conf.all.forwarding"] != "1" {
		t.Errorf("the user's value must win: %v", got)
	}
}

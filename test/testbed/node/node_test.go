package node

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/weftnet/weftnet/test/testbed/layout"
)

func config(family layout.Family) Config {
	return Config{
		Layout: layout.Layout{Root: "/r"}, Node: 2, Family: family, Addrs: layout.Node(2).Addrs(family), SandboxImage: "localhost/pause:1",
		CA: "/ca", Cert: "/cert", Key: "/key", Kubeconfig: func(n string) string { return "/" + n },
	}
}

func TestPlanMountsTheDiskOnly(t *testing.T) {
	plan := NewPlan(config(layout.Dual), "/boot")
	for _, b := range plan.Binds {
		if b.From != "/boot" && !strings.HasPrefix(b.From, "/r/.testbed/nodes/tb-node2/") {
			t.Errorf("%s comes from %s, outside of the node's disk", b.To, b.From)
		}
	}
	for _, point := range MountPoints() {
		if !slices.ContainsFunc(plan.Binds, func(b Bind) bool { return b.To == point }) {
			t.Errorf("%s is not mounted", point)
		}
	}
}

func TestKubeletFlags(t *testing.T) {
	for family, want := range map[layout.Family]string{
		layout.Dual: "--node-ip=10.200.0.12,fd00:c8::12", layout.IPv4: "--node-ip=10.200.0.12", layout.IPv6: "--node-ip=fd00:c8::12",
	} {
		if s := config(family).kubelet(); !slices.Contains(s.Args, want) {
			t.Errorf("%s: no %s in %v", family, want, s.Args)
		}
	}
}

func TestKubeProxyOnlyWhenChosen(t *testing.T) {
	c := config(layout.Dual)
	if n := len(NewPlan(c, "").Services); n != 2 {
		t.Errorf("without kube-proxy: %d services", n)
	}
	c.KubeProxy = true
	services := NewPlan(c, "").Services
	if len(services) != 3 || !slices.Contains(services[2].Args, "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48") {
		t.Errorf("with kube-proxy: %+v", services)
	}
}

func TestKubeletConfigIsYAML(t *testing.T) {
	text, err := config(layout.IPv6).render("kubelet")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		CgroupRoot string   `json:"cgroupRoot"`
		ClusterDNS []string `json:"clusterDNS"`
	}
	if err := yaml.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if got.CgroupRoot != "/tb-node2" || !slices.Equal(got.ClusterDNS, []string{"fd00:10:96::a"}) {
		t.Errorf("got %+v", got)
	}
}

func TestBaseline(t *testing.T) {
	text, err := baseline(3, layout.Dual)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(text) {
		t.Fatalf("not JSON: %s", text)
	}
	for _, want := range []string{"10.244.3.0/24", "fd00:10:244:3::/64", `"::/0"`, "portmap"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestResolvConf(t *testing.T) {
	got := resolvConf("search a b\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:2\n")
	if got != "search a b\nnameserver 10.0.0.1\noptions ndots:2\n" {
		t.Errorf("got %q", got)
	}
}

func TestMountPoints(t *testing.T) {
	text := "22 1 0:1 / / rw - ext4 a rw\n23 22 0:2 / /run/netns/tb-node1 rw - nsfs nsfs rw\n24 22 0:2 / /runner rw - ext4 a rw\n"
	got, err := mountPoints(strings.NewReader(text), "/run/")
	if err != nil || !slices.Equal(got, []string{"/run/netns/tb-node1"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestCloneTreeKeepsDatabasesApart(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	for _, name := range []string{"meta.db", "blob"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/nowhere", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	if err := cloneTree(from, to); err != nil {
		t.Fatal(err)
	}
	same := func(name string) bool {
		a, errA := os.Lstat(filepath.Join(from, name))
		b, errB := os.Lstat(filepath.Join(to, name))
		return errA == nil && errB == nil && os.SameFile(a, b)
	}
	if same("meta.db") || !same("blob") || !same("link") {
		t.Errorf("shared: meta.db %v, blob %v, link %v", same("meta.db"), same("blob"), same("link"))
	}
}

func TestParseImages(t *testing.T) {
	have := parseImages("REF TYPE DIGEST SIZE PLATFORMS LABELS\n" +
		"weftnet.io/agent:dev application/vnd.oci.image.manifest.v1+json sha256:78a1 57.1 MiB linux/amd64 -\n" +
		"localhost/pause:1 application/vnd.oci.image.manifest.v1+json sha256:1021 1.0 MiB linux/amd64 io.cri-containerd.pinned=pinned\n")
	want := map[string]string{"weftnet.io/agent:dev": "sha256:78a1", "localhost/pause:1": "sha256:1021"}
	if !maps.Equal(have, want) {
		t.Fatalf("have %v, want %v", have, want)
	}
}

package build

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func names(targets []Target) (out []string) {
	for _, t := range targets {
		out = append(out, t.Name)
	}
	return out
}

func TestSelect(t *testing.T) {
	all := names(Targets())
	slices.Sort(all)
	if dup := slices.Compact(slices.Clone(all)); len(dup) != len(all) {
		t.Errorf("a target's name is there twice: %v", all)
	}
	for _, row := range []struct {
		only     []string
		has, not []string
	}{
		{nil, []string{"kubelet", "e2e.test", "ptp"}, []string{"golangci-lint"}},
		{[]string{"cluster"}, []string{"kubelet", "etcd", "containerd-shim-runc-v2"}, []string{"e2e.test", "ptp", "controller-gen"}},
		{[]string{"kubectl", "dev"}, []string{"kubectl", "controller-gen"}, []string{"kubelet"}},
	} {
		targets, err := Select(row.only)
		if err != nil {
			t.Fatal(err)
		}
		got := names(targets)
		for _, n := range row.has {
			if !slices.Contains(got, n) {
				t.Errorf("Select(%v) lacks %s: %v", row.only, n, got)
			}
		}
		for _, n := range row.not {
			if slices.Contains(got, n) {
				t.Errorf("Select(%v) has %s: %v", row.only, n, got)
			}
		}
	}
	if _, err := Select([]string{"kublet"}); err == nil || !strings.Contains(err.Error(), "kubelet") {
		t.Errorf("a misspelt name must be refused with the list of names: %v", err)
	}
}

func TestEveryTargetIsPinned(t *testing.T) {
	for _, target := range Targets() {
		if _, ok := modules[target.Module]; !ok {
			t.Errorf("%s: no entry for module %s", target.Name, target.Module)
			continue
		}
		gomod, err := os.ReadFile(filepath.Join("..", "..", "..", "tools", target.Module, "go.mod"))
		if err != nil {
			t.Error(err)
			continue
		}
		if !strings.Contains(string(gomod), modules[target.Module].versionOf+" v") {
			t.Errorf("%s: tools/%s/go.mod does not require %s", target.Name, target.Module, modules[target.Module].versionOf)
		}
		ours := strings.HasPrefix(target.Package, ".")
		if !ours && !strings.Contains(string(gomod), target.Package+"\n") {
			t.Errorf("%s: %s is no tool of tools/%s/go.mod", target.Name, target.Package, target.Module)
		}
		if sources, err := ownSources(filepath.Join("..", "..", ".."), target); err != nil || (sources != "") != (ours && target.Package != ".") {
			t.Errorf("%s: own sources of %d bytes, %v", target.Name, len(sources), err)
		}
		if !slices.Contains(Sets(), target.Set) || target.Cold == 0 {
			t.Errorf("%s: set %q, cold %v", target.Name, target.Set, target.Cold)
		}
	}
}

func TestKeyNamesEveryInput(t *testing.T) {
	in := Inputs{Toolchain: "go1.26.8 linux/amd64", Sources: "x"}
	kubelet, err := Select([]string{"kubelet", "kubectl"})
	if err != nil {
		t.Fatal(err)
	}
	base := key(kubelet[0], in)
	if base != key(kubelet[0], in) {
		t.Error("the key is not stable")
	}
	others := []string{
		key(kubelet[1], in),
		key(kubelet[0], Inputs{Toolchain: "go1.26.9 linux/amd64", Sources: "x"}),
		key(kubelet[0], Inputs{Toolchain: in.Toolchain, Sources: "y"}),
	}
	if slices.Contains(others, base) {
		t.Errorf("an input is missing in the key: %s in %v", base, others)
	}
}

func TestQueuesKeepAModuleTogether(t *testing.T) {
	targets, err := Select([]string{"kubectl", "kubelet", "e2e.test", "ginkgo", "ctr", "containerd"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, queue := range queues(targets) {
		var jobs []string
		for _, j := range queue {
			jobs = append(jobs, j.name())
		}
		got = append(got, strings.Join(jobs, " | "))
	}
	want := []string{"kubelet kubectl | ginkgo | e2e.test", "containerd ctr"}
	if !slices.Equal(got, want) {
		t.Errorf("queues:\n%q, want\n%q", got, want)
	}
}

func TestCommands(t *testing.T) {
	targets, err := Select([]string{"containerd", "ctr"})
	if err != nil {
		t.Fatal(err)
	}
	got := commands(job{module: "containerd", targets: targets}, "v2.4.2", "/out")
	if len(got) != 1 {
		t.Fatalf("%d commands", len(got))
	}
	line := strings.Join(got[0], " ")
	for _, want := range []string{"build -v ", " -tags no_btrfs ", "/version.Version=v2.4.2", " -o /out/ ", "/cmd/containerd ", "/cmd/ctr"} {
		if !strings.Contains(line+" ", want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	suite, err := Select([]string{"e2e.test"})
	if err != nil {
		t.Fatal(err)
	}
	got = commands(job{module: "kubernetes", test: true, targets: suite}, "v1.37.2", "/out")
	if len(got) != 2 || !strings.Contains(strings.Join(got[1], " "), "test -c ") || !slices.Contains(got[1], "/out/e2e.test") {
		t.Errorf("commands of the suite: %q", got)
	}
}

func TestLinkerFlagsStampTheVersion(t *testing.T) {
	got := linkerFlags(modules["kubernetes"], "v1.37.2")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.37.2", "-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/component-base/version.gitMinor=37", "-X k8s.io/client-go/pkg/version.gitVersion=v1.37.2",
	} {
		if !strings.Contains(got+" ", want+" ") {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if strings.Contains(got, "{") {
		t.Errorf("a placeholder is left in %q", got)
	}
}

func TestBuiltName(t *testing.T) {
	for pkg, want := range map[string]string{
		"k8s.io/kubernetes/cmd/kubelet": "kubelet",
		"go.etcd.io/etcd/server/v3":     "server",
		".":                             "coredns",
	} {
		if got := builtName(Target{Name: "coredns", Package: pkg}); got != want {
			t.Errorf("builtName(%s) = %s, want %s", pkg, got, want)
		}
	}
}

func TestAnnouncementCountsCores(t *testing.T) {
	targets := Targets()
	two, eight := announcement(targets, 2), announcement(targets, 8)
	if two == eight || !strings.Contains(two, "25 programs") || !strings.Contains(two, "2 cores") {
		t.Errorf("announcements:\n%s\n%s", two, eight)
	}
}

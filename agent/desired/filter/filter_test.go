package filter_test

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func prefixes(text ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// example is a node of a cluster of three, with host ports.
func example() filter.Input {
	pod4, pod6 := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("fd00:10:244:1::5")
	return filter.Input{
		ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/48", "10.245.0.0/16", "10.244.128.0/17"),
		NodeIPs:      addrs("10.200.0.11", "10.200.0.12", "10.200.0.13", "fd00:c8::11", "fd00:c8::12", "fd00:c8::13"),
		NoMasquerade: prefixes("192.168.0.0/16", "2001:db8::/32"),
		Pods: []filter.Pod{
			{Link: "weftp0123456789", Addresses: []netip.Addr{pod4, pod6}},
			{Link: "weftpabcdef0123", Addresses: addrs("10.244.1.6")},
		},
		HostPorts: []filter.HostPort{
			{Protocol: 6, Port: 8080, PodIP: pod4, PodPort: 80},
			{Protocol: 6, Port: 8080, PodIP: pod6, PodPort: 80},
			{Protocol: 17, Port: 53, HostIP: netip.MustParseAddr("10.200.0.11"), PodIP: pod4, PodPort: 5353},
			{Protocol: 17, Port: 53, HostIP: netip.MustParseAddr("fd00:c8::11"), PodIP: pod6, PodPort: 5353},
			{Protocol: 132, Port: 9, HostIP: netip.IPv4Unspecified(), PodIP: pod4, PodPort: 9},
		},
	}
}

func TestGolden(t *testing.T) {
	for file, in := range map[string]filter.Input{
		"testdata/empty.nft":   {},
		"testdata/example.nft": example(),
	} {
		got := filter.Table(in).String()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: the table is\n%s", file, got)
		}
	}
}

// TestRulesNeverChange proves that whatever happens in the cluster changes elements only.
func TestRulesNeverChange(t *testing.T) {
	fake := nft.NewFake()
	if _, err := fake.Ensure(t.Context(), filter.Table(filter.Input{})); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		c, err := fake.Ensure(t.Context(), filter.Table(anyInput(rt)))
		if err != nil {
			rt.Fatal(err)
		}
		for line := range strings.Lines(c.String()) {
			if !strings.HasPrefix(line, "add element ") && !strings.HasPrefix(line, "delete element ") {
				rt.Fatalf("the change has more than elements: %q", line)
			}
		}
	})
}

func anyInput(t *rapid.T) filter.Input {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "v6") {
			a := netip.AddrFrom16([16]byte{0xfd, 0, 15: rapid.Byte().Draw(t, "last")})
			return netip.PrefixFrom(a, rapid.IntRange(0, 128).Draw(t, "bits"))
		}
		a := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), 0, rapid.Byte().Draw(t, "d")})
		return netip.PrefixFrom(a, rapid.IntRange(0, 32).Draw(t, "bits"))
	})
	addr := rapid.Custom(func(t *rapid.T) netip.Addr { return prefix.Draw(t, "of").Addr() })
	port := rapid.Custom(func(t *rapid.T) filter.HostPort {
		h := filter.HostPort{
			Protocol: rapid.SampledFrom([]uint8{0, 6, 17, 132}).Draw(t, "protocol"), Port: rapid.Uint16Range(0, 4).Draw(t, "port"),
			PodIP: addr.Draw(t, "pod"), PodPort: rapid.Uint16Range(0, 4).Draw(t, "pod port"),
		}
		if rapid.Bool().Draw(t, "on an address") {
			h.HostIP = addr.Draw(t, "host")
		}
		return h
	})
	pod := rapid.Custom(func(t *rapid.T) filter.Pod {
		return filter.Pod{Link: rapid.SampledFrom([]string{"", "weftp1", "weftp2"}).Draw(t, "link"), Addresses: rapid.SliceOfN(addr, 0, 2).Draw(t, "pod's")}
	})
	return filter.Input{
		Pods:         rapid.SliceOfN(pod, 0, 4).Draw(t, "pods"),
		ClusterCIDRs: rapid.SliceOfN(prefix, 0, 6).Draw(t, "cluster"),
		NoMasquerade: rapid.SliceOfN(prefix, 0, 6).Draw(t, "plain"),
		NodeIPs:      rapid.SliceOfN(addr, 0, 6).Draw(t, "nodes"),
		HostPorts:    rapid.SliceOfN(port, 0, 8).Draw(t, "ports"),
	}
}

// TestOrderDoesNotMatter shuffles and repeats the input.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := anyInput(rt)
		seed := rapid.Uint64().Draw(rt, "seed")
		if got, want := filter.Table(shuffled(in, seed)).String(), filter.Table(in).String(); got != want {
			rt.Fatalf("in another order the table is\n%s\nnot\n%s", got, want)
		}
	})
}

func shuffled(in filter.Input, seed uint64) filter.Input {
	random := rand.New(rand.NewPCG(seed, 1))
	in.ClusterCIDRs = twice(random, in.ClusterCIDRs)
	in.NoMasquerade = twice(random, in.NoMasquerade)
	in.NodeIPs = twice(random, in.NodeIPs)
	in.HostPorts = twice(random, in.HostPorts)
	in.Pods = twice(random, in.Pods)
	return in
}

func twice[T any](random *rand.Rand, in []T) []T {
	out := slices.Concat(in, in)
	random.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// TestRangesCover proves that the elements of a set are just the addresses of its prefixes.
func TestRangesCover(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := anyInput(rt)
		table := filter.Table(in)
		for _, p := range append(slices.Clone(in.ClusterCIDRs), netip.MustParsePrefix("10.1.0.1/32"), netip.MustParsePrefix("fd00::1/128")) {
			a := p.Addr()
			want := slices.ContainsFunc(in.ClusterCIDRs, func(c netip.Prefix) bool { return c.Contains(a) })
			name := "cluster4"
			if a.Is6() {
				name = "cluster6"
			}
			set, _ := table.Set(name)
			got := slices.ContainsFunc(set.Elements, func(e state.Element) bool {
				v := state.AddrValue(a)
				return v == e.Key || (e.Key <= v && v <= e.KeyEnd)
			})
			if got != want {
				rt.Fatalf("%s in %s is %v, want %v\n%s", a, name, got, want, set)
			}
		}
	})
}

func TestHostPortsThatClashAreLeftOut(t *testing.T) {
	pod, other := netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("10.244.1.6")
	good := filter.HostPort{Protocol: 6, Port: 80, PodIP: pod, PodPort: 80}
	clash := filter.HostPort{Protocol: 6, Port: 80, PodIP: other, PodPort: 80, HostIP: netip.IPv4Unspecified()}
	wrongFamily := filter.HostPort{Protocol: 6, Port: 81, HostIP: netip.MustParseAddr("fd00::1"), PodIP: pod, PodPort: 80}
	elsewhere := filter.HostPort{Protocol: 6, Port: 80, HostIP: netip.MustParseAddr("10.200.0.11"), PodIP: other, PodPort: 80}
	table := func(ports ...filter.HostPort) string { return filter.Table(filter.Input{HostPorts: ports}).String() }
	if got, want := table(wrongFamily, clash, elsewhere, good, good), table(elsewhere, good); got != want {
		t.Errorf("the table is\n%s\nnot\n%s", got, want)
	}
	if table(elsewhere, good) == table(good) || table(clash) == table() {
		t.Error("a good host port is left out")
	}
}

// TestPodElementsAreTheTables proves that what CNI ADD puts in by itself is what the table has of the Pod.
func TestPodElementsAreTheTables(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in := anyInput(rt)
		added := in
		added.Pods = nil
		table := filter.Table(added)
		for _, p := range in.Pods {
			for _, s := range filter.PodElements(p) {
				i := slices.IndexFunc(table.Sets, func(o state.Set) bool { return o.Name == s.Name })
				head := s
				head.Elements = nil
				if have := table.Sets[i]; !have.SameHead(head) {
					rt.Fatalf("the head of %s is %s, not %s", s.Name, head, have)
				}
				table.Sets[i].Elements = state.SortElements(slices.Concat(table.Sets[i].Elements, s.Elements))
			}
		}
		if got, want := table.String(), filter.Table(in).String(); got != want {
			rt.Fatalf("with the elements added the table is\n%s\nnot\n%s", got, want)
		}
	})
}

package importlaw

import (
	"fmt"
	"slices"
	"strings"
)

// Depth says how far a law looks.
type Depth int

const (
	// Direct judges only the imports of the package itself.
	Direct Depth = iota
	// Own follows the imports through the module's own packages, and judges all that these
	// import. The insides of libraries are not looked at: fmt imports os, and that is no breach.
	Own
	// Full follows every import, libraries included.
	Full
)

// Law is one rule about imports: packages under Of (and not under Except) must not reach a
// package under Forbid. With Only set, it is the other way round: whatever is not in the standard
// library and not under Only is forbidden.
type Law struct {
	Of     []string
	Except []string
	Depth  Depth
	Forbid []string
	Spare  []string // beneath Forbid, yet allowed
	Only   []string
	Why    string
}

// pureFolders hold the decisions: what they compute follows from their arguments alone.
var pureFolders = []string{"agent/desired", "operator/plan"}

var (
	kernelLibraries = []string{
		"github.com/vishvananda/netlink", "github.com/vishvananda/netns", "golang.zx2c4.com/wireguard/wgctrl",
		"github.com/google/nftables", "github.com/cilium/ebpf", "github.com/mdlayher/netlink",
	}
	loggers = []string{"log", "github.com/go-logr", "go.uber.org/zap", "k8s.io/klog"}
	clients = []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"}
)

// Laws are the laws of DESIGN, section 3.
func Laws() []Law {
	return []Law{
		{
			Of: pureFolders, Depth: Own, Forbid: loggers,
			Spare: []string{"log/slog"}, // its values are welcome; see uses
			Why:   "a pure stage returns its problems; what is logged is decided by who called it",
		}, {
			Of: pureFolders, Depth: Own, Forbid: []string{"os", "io/ioutil", "io/fs", "embed", "syscall", "golang.org/x/sys", "net", "plugin"},
			Spare: []string{"net/netip"},
			Why:   "a pure stage reads no file and opens no socket: gather everything first, then decide",
		}, {
			Of: pureFolders, Depth: Own, Forbid: []string{"math/rand", "crypto/rand"},
			Why: "the same input gives the same plan; a choice at random would move things at every run",
		}, {
			Of: pureFolders, Depth: Full, Forbid: clients,
			Why: "a pure stage works on a snapshot; no API call stands between two decisions",
		}, {
			Of: pureFolders, Depth: Full, Forbid: append(slices.Clone(kernelLibraries), inModule("agent/kernel")),
			Why: "desired state is computed from facts and compared with the kernel later, by agent/kernel's Diff",
		}, {
			Of: pureFolders, Depth: Own, Forbid: []string{inModule("agent/reconcile"), inModule("agent/source"), inModule("agent/status"), inModule("operator/controllers")},
			Why: "source, facts -> desired -> reconcile -> kernel: nobody calls upstream",
		}, {
			Of: []string{"agent/source/policy/object"}, Depth: Full, Forbid: append(append(slices.Clone(clients), kernelLibraries...), loggers...),
			Spare: []string{"log", "log/slog", "github.com/go-logr", "k8s.io/klog"}, // of the API types
			Why:   "agent, operator and the weft command read policies alike: a function of the object and nothing else",
		}, {
			Of: []string{"agent/state"}, Depth: Full, Only: []string{inModule("agent/state")},
			Why: "agent/state is the vocabulary that pure stages and kernel packages share: plain values, standard library only",
		}, {
			Of: []string{"agent/kernel"}, Depth: Full, Forbid: []string{"k8s.io", "sigs.k8s.io", inModule("crds")},
			Why: "the kernel packages know links, peers, routes and rules, and nothing of Kubernetes",
		}, {
			Of: []string{"agent/kernel"}, Depth: Own, Forbid: []string{
				inModule("agent/desired"), inModule("agent/reconcile"), inModule("agent/source"), inModule("agent/status"), inModule("agent/cniserver"),
			},
			Why: "source, facts -> desired -> reconcile -> kernel: nobody calls upstream",
		}, {
			Of: []string{"."}, Except: []string{"agent/kernel", "test"}, Depth: Direct, Forbid: kernelLibraries,
			Why: "only agent/kernel talks to the kernel: Observe, Diff and Apply live there, with a fake beside them",
		}, {
			Of: []string{"."}, Except: []string{"wireguard", "test"}, Depth: Direct, Forbid: []string{"golang.zx2c4.com/wireguard"},
			Spare: []string{"golang.zx2c4.com/wireguard/wgctrl"},
			Why:   "wireguard-go runs in a process of its own, so that restarting the agent never touches a tunnel",
		}, {
			Of: []string{"agent", "cni", "wireguard"}, Depth: Own, Forbid: []string{inModule("operator")},
			Why: "operator and node share the API types in crds/ and nothing else",
		}, {
			Of: []string{"operator"}, Depth: Own, Forbid: []string{inModule("agent"), inModule("cni"), inModule("wireguard")},
			Spare: []string{inModule("agent/desired/policy"), inModule("agent/source/policy/object"), inModule("agent/snapshot"), inModule("agent/state")},
			Why:   "operator and node share the API types in crds/, the meaning of policies, and nothing else",
		}, {
			Of: []string{"cni"}, Depth: Full, Only: []string{
				inModule("cni"), inModule("version"), "github.com/containernetworking/cni", "golang.org/x/sys",
			},
			Why: "the plugin is started for every Pod and must be up in milliseconds: few imports, no client, no netlink",
		},
	}
}

// Breach is a way in which the law is broken.
type Breach struct {
	Chain []string // from the package judged to the one it must not reach
	Why   string
}

// String tells the chain and the reason.
func (b Breach) String() string {
	names := make([]string, len(b.Chain))
	for i, path := range b.Chain {
		names[i] = short(path)
	}
	return fmt.Sprintf("%s\n    %s", strings.Join(names, " -> "), b.Why)
}

// Check returns every breach of the laws, in the order of the laws and packages.
func Check(g Graph, laws []Law) []Breach {
	var breaches []Breach
	for _, law := range laws {
		breaches = append(breaches, law.check(g)...)
	}
	return breaches
}

func (l Law) check(g Graph) []Breach {
	var breaches []Breach
	for _, p := range g.sorted(l.folders()...) {
		if slices.ContainsFunc(l.Except, func(f string) bool { return under(p.ImportPath, inModule(f)) }) {
			continue
		}
		var found [][]string
		for path, chain := range g.chains(p.ImportPath, l.through) {
			if path != p.ImportPath && l.forbids(g[path], path) {
				found = append(found, chain)
			}
		}
		slices.SortFunc(found, slices.Compare[[]string])
		for _, chain := range found {
			breaches = append(breaches, Breach{Chain: chain, Why: l.Why})
		}
	}
	return breaches
}

// folders are those of the law, the whole module written as a dot.
func (l Law) folders() []string {
	if slices.Equal(l.Of, []string{"."}) {
		return []string{"agent", "cli", "cni", "crds", "operator", "test", "version", "wireguard"}
	}
	return l.Of
}

func (l Law) through(p Package) bool {
	switch l.Depth {
	case Full:
		return !p.Standard
	case Own:
		return p.own()
	default:
		return false
	}
}

func (l Law) forbids(p Package, path string) bool {
	covers := func(prefixes []string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return under(path, prefix) })
	}
	if l.Only != nil {
		return !p.Standard && !covers(l.Only)
	}
	return covers(l.Forbid) && !covers(l.Spare)
}

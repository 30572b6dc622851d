// Package cluster brings the testbed's Kubernetes cluster up, changes it and
// takes it down. Its functions are what the command line and the end-to-end
// tests call; each brings about a state, so that calling it twice is as good
// as once, and each keeps other commands out while it works.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weftnet/test/testbed/build"
	"github.com/weftnet/weftnet/test/testbed/image"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/pki"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// Cluster is the testbed of one repository.
type Cluster struct {
	Layout layout.Layout
	out    io.Writer
	start  time.Time
}

// Open finds the testbed of the repository around the working directory.
// Progress goes to out; nil means nowhere.
func Open(out io.Writer) (*Cluster, error) {
	l, err := layout.Find()
	if err != nil {
		return nil, err
	}
	if out == nil {
		out = io.Discard
	}
	return &Cluster{Layout: l, out: out, start: time.Now()}, nil
}

var printing sync.Mutex

// say prints a step with the time since the command began.
func (c *Cluster) say(format string, args ...any) {
	printing.Lock()
	defer printing.Unlock()
	fmt.Fprintf(c.out, "[%5.1fs] %s\n", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
}

// session is one command's hold on the cluster.
type session struct {
	*Cluster
	rec *record.Record
	pki *pki.Authority
	// program is the copy of this program that nodes run.
	program string
}

// change runs f while no other command can; with mustExist only if there is a
// cluster.
func (c *Cluster) change(mustExist bool, f func(*session) error) error {
	if os.Geteuid() != 0 {
		return errors.New("change the testbed: it makes network namespaces and mounts, and must run as root")
	}
	rec, err := record.Open(c.Layout)
	if err != nil {
		return err
	}
	defer rec.Close()
	if mustExist && !rec.Exists() {
		return record.ErrNone
	}
	s := &session{Cluster: c, rec: rec, program: c.Layout.Path("run", "testbed")}
	if s.pki, err = pki.Open(c.Layout.Path("pki"), time.Now()); err != nil {
		return err
	}
	return f(s)
}

// State is what the cluster is made of right now.
func (c *Cluster) State() (record.State, error) { return record.Read(c.Layout) }

// Up brings the cluster up, or completes it after a crash. It returns when
// the API server answers, all nodes are registered and CoreDNS is applied;
// nodes become ready with a network.
func (c *Cluster) Up(ctx context.Context, asked record.Options) error {
	if err := asked.Validate(); err != nil {
		return err
	}
	return c.change(false, func(s *session) error {
		if s.rec.Exists() && !s.rec.State().Options.Same(asked) {
			return errors.New("a cluster with other options is there: take it `down` first")
		}
		template, err := s.materials(ctx, asked)
		if err != nil {
			return err
		}
		if err := s.begin(asked); err != nil {
			return err
		}
		if err := s.startAll(ctx, template); err != nil {
			return err
		}
		return s.finish(ctx)
	})
}

// materials builds programs and images, or finds them built.
func (s *session) materials(ctx context.Context, asked record.Options) (string, error) {
	only := []string{build.SetCluster}
	if asked.CNI == record.PTP {
		only = append(only, "ptp", "host-local", "portmap", "loopback")
	}
	s.say("programs")
	if err := build.Run(ctx, build.Options{Root: s.Layout.Root, Only: only, Progress: s.out}); err != nil {
		return "", err
	}
	s.say("images")
	basic := []string{image.ArchivePause, image.ArchiveCoreDNS, image.ArchiveAgnhost}
	archives, err := image.Testbed(ctx, image.TestbedOptions{Root: s.Layout.Root, Only: basic, Progress: s.out})
	if err != nil {
		return "", err
	}
	// The upstream suite's image is large; it comes along once it was made.
	suite := s.Layout.Path("images", image.ArchiveE2E+".tar")
	if _, err := os.Stat(suite); err == nil {
		archives = append(archives, suite)
	}
	if err := node.CopyProgram(s.program); err != nil {
		return "", err
	}
	s.say("unpacked images")
	return node.Template(ctx, s.Layout, s.program, archives)
}

// begin records what is about to be made, and what to put back.
func (s *session) begin(asked record.Options) error {
	sysctls, err := machineSysctls()
	if err != nil {
		return err
	}
	made, err := missingDirs(append(node.MountPoints(), "/run/netns"))
	if err != nil {
		return err
	}
	return s.rec.Update(func(state *record.State) {
		if state.Options.Nodes == 0 {
			state.Options, state.Sysctls = asked, sysctls
		}
		state.Dirs = append(state.Dirs, made...)
		for _, n := range layout.Nodes(asked.Nodes) {
			if _, there := state.Nodes[n.String()]; !there {
				state.Nodes[n.String()] = record.Node{}
			}
		}
	})
}

// startAll starts what does not run: control plane and nodes side by side.
func (s *session) startAll(ctx context.Context, template string) error {
	state := s.rec.State()
	if err := s.certificates(state); err != nil {
		return err
	}
	if err := makeDirs(state.Dirs); err != nil {
		return err
	}
	s.say("underlay %s", layout.Bridge)
	if err := underlay.EnsureBridge(state.Options.Family); err != nil {
		return err
	}
	for _, n := range state.NodeList() {
		if err := s.wire(n); err != nil {
			return err
		}
	}
	if err := s.loadFaults(); err != nil {
		return err
	}
	if err := s.endUnrecorded(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.startControlPlane(ctx) })
	for _, n := range state.NodeList() {
		group.Go(func() error { return s.startNode(n, template, awaitAPI) })
	}
	return group.Wait()
}

const (
	// awaitAPI is how long a kubelet of a new cluster holds back.
	awaitAPI = 30 * time.Second
	// patience is the most that a step of `up` may take.
	patience = 3 * time.Minute
)

// wire connects a node, with the faults on record: a NAT, a cable out.
func (s *session) wire(n layout.Node) error {
	state := s.rec.State()
	family, entry := state.Options.Family, state.Nodes[n.String()]
	sysctls := nodeSysctls(state.Options)
	if entry.NAT == "" {
		if err := underlay.EnsureNode(n, family, addrsOf(n, family, entry), sysctls); err != nil {
			return err
		}
	} else if err := s.wireBehindNAT(n, natOf(entry), sysctls); err != nil {
		return err
	}
	if entry.LinkDown {
		if err := underlay.SetPort(n, false); err != nil {
			return err
		}
	}
	if state.Options.CNI != record.PTP {
		return nil
	}
	return underlay.EnsureRoutes(n, baselineRoutes(n, state.NodeList(), family))
}

// nodeSysctls are the values for a node's network namespace. The baseline
// needs forwarding; Weftnet sets that itself.
func nodeSysctls(o record.Options) map[string]string {
	out := map[string]string{}
	if o.CNI == record.PTP {
		out["net.ipv4.ip_forward"] = "1"
		out["net.ipv6.conf.all.forwarding"] = "1"
	}
	for key, value := range o.Sysctls {
		out[key] = value
	}
	return out
}

func baselineRoutes(n layout.Node, all []layout.Node, family layout.Family) []underlay.Route {
	var out []underlay.Route
	for _, other := range all {
		if other == n {
			continue
		}
		for i, p := range other.BaselinePods(family) {
			out = append(out, underlay.Route{Dst: p, Via: other.Addrs(family)[i].Addr()})
		}
	}
	return out
}

// startNode boots a node that does not run.
func (s *session) startNode(n layout.Node, template string, await time.Duration) error {
	state := s.rec.State()
	if state.Nodes[n.String()].Init.Alive() {
		return nil
	}
	config := s.nodeConfig(n, state.Options, await)
	if err := node.UseTemplate(config, template); err != nil {
		return err
	}
	if state.Options.CNI == record.PTP {
		if err := node.InstallBaseline(s.Layout, n, state.Options.Family); err != nil {
			return err
		}
	}
	init, err := node.Start(config, s.program)
	if err != nil {
		return err
	}
	err = s.rec.Update(func(state *record.State) {
		entry := state.Nodes[n.String()]
		entry.Init = init
		state.Nodes[n.String()] = entry
	})
	if err != nil {
		return err
	}
	s.say("%s started", n)
	return nil
}

// addrsOf are the addresses that a node has now.
func addrsOf(n layout.Node, family layout.Family, entry record.Node) []netip.Prefix {
	if entry.Moved {
		return n.MovedAddrs(family)
	}
	return n.Addrs(family)
}

func (s *session) nodeConfig(n layout.Node, o record.Options, await time.Duration) node.Config {
	return node.Config{
		Layout: s.Layout, Node: n, Family: o.Family, Addrs: addrsOf(n, o.Family, s.rec.State().Nodes[n.String()]),
		KubeProxy: o.Proxy == record.KubeProxy, StorageLimits: o.StorageLimits,
		SandboxImage: image.Pause,
		CA:           s.pki.CertFile(), Cert: s.pki.Cert(n.String()), Key: s.pki.Key(n.String()),
		Kubeconfig: s.kubeconfig,
		AwaitAPI:   await,
	}
}

// finish waits for the nodes and gives the cluster its name service.
func (s *session) finish(ctx context.Context) error {
	state := s.rec.State()
	client, err := s.Client()
	if err != nil {
		return err
	}
	if err := awaitRegistered(ctx, client, state.NodeList()); err != nil {
		return err
	}
	s.say("%d nodes registered", len(state.Nodes))
	if err := labelControlPlane(ctx, client); err != nil {
		return err
	}
	if err := s.applyCoreDNS(ctx, state.Options.Family); err != nil {
		return err
	}
	s.say("CoreDNS applied")
	return nil
}

// Load imports image archives into every node that has not got what is in them, nodes side by side.
func (c *Cluster) Load(ctx context.Context, archives []string) error {
	wanted := map[string][]image.Ref{}
	for _, archive := range archives {
		refs, err := image.Read(archive)
		if err != nil {
			return err
		}
		wanted[archive] = refs
	}
	return c.change(true, func(s *session) error {
		group, ctx := errgroup.WithContext(ctx)
		for name, entry := range s.rec.State().Nodes {
			group.Go(func() error {
				n, err := s.load(ctx, entry.Init, wanted)
				if err != nil {
					return fmt.Errorf("load images into %s: %w", name, err)
				}
				s.say("%s has %d archives more", name, n)
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		return s.rec.Update(func(state *record.State) { state.Loaded = withPaths(state.Loaded, archives) })
	})
}

// withPaths adds what the list lacks, so that a path holds wherever the next command runs.
func withPaths(list, more []string) []string {
	for _, path := range more {
		if full, err := filepath.Abs(path); err == nil && !slices.Contains(list, full) {
			list = append(list, full)
		}
	}
	return list
}

// load imports the archives that the node lacks, and tells how many those were.
func (s *session) load(ctx context.Context, init proc.Process, wanted map[string][]image.Ref) (int, error) {
	have, err := node.Images(ctx, s.Layout, init)
	if err != nil {
		return 0, err
	}
	count := 0
	for archive, refs := range wanted {
		lacks := func(r image.Ref) bool { return have[r.Name] != r.Digest.String() }
		if !slices.ContainsFunc(refs, lacks) {
			continue
		}
		if err := node.Import(ctx, s.Layout, init, archive); err != nil {
			return count, err
		}
		count++
	}
	return count, nil
}

// init is the first process of a running node.
func (s *session) init(n layout.Node) (proc.Process, error) {
	entry, ok := s.rec.State().Nodes[n.String()]
	if !ok {
		return proc.Process{}, fmt.Errorf("find %s: no such node in the cluster", n)
	}
	if !entry.Init.Alive() {
		return proc.Process{}, fmt.Errorf("find %s: it does not run", n)
	}
	return entry.Init, nil
}

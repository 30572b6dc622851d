// Package record remembers, on disk, what the testbed has made on this
// machine: it is written before or right after each effect, so that `down`
// and the next `up` know about everything even after a crash.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Options are the choices made at `up`; they hold until `down`.
type Options struct {
	Nodes int `json:"nodes"`
	// Proxy is kube-proxy or none.
	Proxy string `json:"proxy"`
	// CNI is none, or ptp for the baseline network.
	CNI    string        `json:"cni"`
	Family layout.Family `json:"ipFamily"`
	// Sysctls are set in every node.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// StorageLimits has kubelets measure what Pods write, and evict those above their limit of
	// ephemeral storage.
	StorageLimits bool `json:"storageLimits,omitempty"`
}

// The values of Options.Proxy and Options.CNI.
const (
	KubeProxy = "kube-proxy"
	PTP       = "ptp"
	None      = "none"
)

// Validate names every fault at once.
func (o Options) Validate() error {
	var errs []error
	if o.Nodes < 1 || o.Nodes > layout.MaxNodes {
		errs = append(errs, fmt.Errorf("nodes: %d, want 1 to %d", o.Nodes, layout.MaxNodes))
	}
	if o.Proxy != KubeProxy && o.Proxy != None {
		errs = append(errs, fmt.Errorf("proxy: %q, want %s or %s", o.Proxy, KubeProxy, None))
	}
	if o.CNI != PTP && o.CNI != None {
		errs = append(errs, fmt.Errorf("cni: %q, want %s or %s", o.CNI, PTP, None))
	}
	if _, err := layout.ParseFamily(string(o.Family)); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Same says whether a running cluster with options o is what was asked for.
// The number of nodes may have changed through `node add` and `node remove`. Limits of storage disturb
// nobody who has not asked for them.
func (o Options) Same(asked Options) bool {
	return o.Proxy == asked.Proxy && o.CNI == asked.CNI && o.Family == asked.Family && maps.Equal(o.Sysctls, asked.Sysctls) &&
		(o.StorageLimits || !asked.StorageLimits)
}

// Node is what runs for one node.
type Node struct {
	// Init is the first process of the node: ending it ends all of the node.
	Init proc.Process `json:"init"`
	// NAT is empty, plain or symmetric.
	NAT string `json:"nat,omitempty"`
	// NATTimeout is after how long the NAT forgets an idle UDP flow; 0 is the kernel's default.
	NATTimeout time.Duration `json:"natTimeout,omitempty"`
	// LinkDown says that the node's cable is out.
	LinkDown bool `json:"linkDown,omitempty"`
	// Moved says that the node has its other addresses.
	Moved bool `json:"moved,omitempty"`
}

// State is everything that the testbed has made.
type State struct {
	Options Options `json:"options"`
	// Nodes by name.
	Nodes map[string]Node `json:"nodes"`
	// Control are the control plane's processes, by name.
	Control map[string]proc.Process `json:"control"`
	// Loaded are the archives that were loaded into the nodes, for those that come later.
	Loaded []string `json:"loaded,omitempty"`
	// Audit is the running leak audit.
	Audit proc.Process `json:"audit"`
	// Dirs are folders made outside of the state folder, parents first.
	Dirs []string `json:"dirs,omitempty"`
	// Sysctls are the machine's values before `up`.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Faults are the packet faults in force.
	Faults []fault.Rule `json:"faults,omitempty"`
}

// NodeList lists the nodes by number.
func (s State) NodeList() []layout.Node {
	var out []layout.Node
	for name := range s.Nodes {
		if n, err := layout.ParseNode(name); err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// Record is the state on disk; safe for concurrent use in one process.
type Record struct {
	file string
	lock *os.File

	mu    sync.Mutex
	state State
}

// ErrNone says that there is no cluster.
var ErrNone = errors.New("no cluster here: run `up` first")

// Read takes a look at the state without locking it.
func Read(l layout.Layout) (State, error) {
	text, err := os.ReadFile(file(l))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, ErrNone
	}
	if err != nil {
		return State{}, fmt.Errorf("read the testbed's state: %w", err)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return State{}, fmt.Errorf("parse %s (remove it, then run `down`, which finds the rest by name): %w", file(l), err)
	}
	return s, nil
}

func file(l layout.Layout) string { return l.Path("state.json") }

// Open locks the state against other commands and reads it; with no state, the
// record is new and its Exists is false. It waits for a running command.
func Open(l layout.Layout) (*Record, error) {
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	lock, err := os.OpenFile(l.Path("lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := flock(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the testbed's state: %w", err), lock.Close())
	}
	s, err := Read(l)
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, errors.Join(err, lock.Close())
	}
	return &Record{file: file(l), lock: lock, state: s}, nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Close lets other commands in.
func (r *Record) Close() error { return r.lock.Close() }

// Exists says whether there is a cluster.
func (r *Record) Exists() bool { return r.State().Options.Nodes > 0 }

// State is a copy of the state.
func (r *Record) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.state
	s.Nodes, s.Control, s.Sysctls = maps.Clone(s.Nodes), maps.Clone(s.Control), maps.Clone(s.Sysctls)
	s.Dirs, s.Faults = slices.Clone(s.Dirs), slices.Clone(s.Faults)
	return s
}

// Update changes the state and writes it.
func (r *Record) Update(change func(*State)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Nodes == nil {
		r.state.Nodes = map[string]Node{}
	}
	if r.state.Control == nil {
		r.state.Control = map[string]proc.Process{}
	}
	change(&r.state)
	text, err := json.MarshalIndent(r.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the testbed's state: %w", err)
	}
	temp := filepath.Join(filepath.Dir(r.file), "state.json.new")
	if err := os.WriteFile(temp, text, 0o644); err != nil {
		return fmt.Errorf("write the testbed's state: %w", err)
	}
	return os.Rename(temp, r.file)
}

// Delete forgets everything: the last act of `down`.
func (r *Record) Delete() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = State{}
	if err := os.Remove(r.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the testbed's state: %w", err)
	}
	return nil
}

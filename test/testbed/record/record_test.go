package record

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

var options = Options{Nodes: 3, Proxy: KubeProxy, CNI: None, Family: layout.Dual}

func TestStateSurvives(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if _, err := Read(l); !errors.Is(err, ErrNone) {
		t.Fatalf("read nothing: %v", err)
	}
	first, err := Open(l)
	if err != nil {
		t.Fatal(err)
	}
	if first.Exists() {
		t.Error("a new record exists")
	}
	err = first.Update(func(s *State) {
		s.Options = options
		s.Nodes["tb-node10"] = Node{NAT: "plain"}
		s.Nodes["tb-node2"] = Node{Init: proc.Process{PID: 7, Start: 8, Boot: "b"}}
		s.Control["etcd"] = proc.Process{PID: 9}
		s.Faults = fault.Pair(1, 2, false, true, 5)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(l)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got, want := second.State(), first.State(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := second.State().NodeList(); !reflect.DeepEqual(got, []layout.Node{2, 10}) {
		t.Errorf("nodes: %v", got)
	}
	if err := second.Delete(); err != nil || second.Exists() {
		t.Errorf("delete: %v, exists %v", err, second.Exists())
	}
}

func TestStateIsACopy(t *testing.T) {
	r, err := Open(layout.Layout{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Update(func(s *State) { s.Nodes["tb-node1"] = Node{} }); err != nil {
		t.Fatal(err)
	}
	r.State().Nodes["tb-node2"] = Node{}
	if n := len(r.State().Nodes); n != 1 {
		t.Errorf("a change of the copy shows: %d nodes", n)
	}
}

func TestOneCommandAtATime(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	first, err := Open(l)
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		second, err := Open(l)
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	if err := first.Update(func(s *State) { s.Options = options }); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-opened:
		t.Fatalf("two hold the record: %v", err)
	default:
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}

func TestBrokenStateIsAnError(t *testing.T) {
	l := layout.Layout{Root: t.TempDir()}
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.Dir(), "state.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(l); err == nil {
		t.Error("a broken state is taken for none")
	}
}

func TestOptions(t *testing.T) {
	if err := options.Validate(); err != nil {
		t.Error(err)
	}
	bad := Options{Nodes: 0, Proxy: "x", CNI: "y", Family: "z"}
	var joined interface{ Unwrap() []error }
	if err := bad.Validate(); !errors.As(err, &joined) || len(joined.Unwrap()) != 4 {
		t.Errorf("want four faults, got %v", err)
	}
	more := options
	more.Nodes = 5
	if !options.Same(more) {
		t.Error("another number of nodes is another cluster")
	}
	more.StorageLimits = true
	if options.Same(more) || !more.Same(options) {
		t.Error("a cluster without limits of storage will do for one who wants them, or one with them not for one who does not")
	}
	more = options
	more.Sysctls = map[string]string{"a": "b"}
	if options.Same(more) {
		t.Error("another kernel parameter is the same cluster")
	}
}

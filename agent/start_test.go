//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/attachlog"
	"github.com/weftnet/weftnet/agent/cniserver"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/reconcile"
	"github.com/weftnet/weftnet/agent/state"
)

// noLinks is a kernel after a reboot: no Pod has a link.
type noLinks struct{}

func (noLinks) Attach(pod.Spec) (pod.Wiring, error) { return pod.Wiring{}, nil }
func (noLinks) Detach(string) error                 { return nil }
func (noLinks) Check(pod.Spec) error                { return nil }
func (noLinks) Observe() ([]pod.Found, error)       { return nil, nil }
func (noLinks) IsHome(int) bool                     { return false }

// TestStartAfterReboot has a Pod with a host port on record that the reboot has ended. Its rules go
// with the loop's first pass, which comes after the CNI server has been made: waiting for it would
// be for ever.
func TestStartAfterReboot(t *testing.T) {
	dir := t.TempDir()
	log, _, err := attachlog.Open(attachlog.Config{Dir: dir, Boot: "before", Now: func() time.Duration { return time.Hour }})
	if err != nil {
		t.Fatal(err)
	}
	gone := state.Attachment{
		HostLink: "weftp0000000001", ContainerID: "c", IfName: "eth0",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:10:244:1::2")},
		HostPorts: []state.HostPort{{Protocol: state.UDP, HostPort: 53, ContainerPort: 53}},
	}
	if err := log.Add(gone).Durable(); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	loop := reconcile.New(reconcile.Config{})
	made := make(chan error, 1)
	go func() {
		_, err := cniserver.New(cniserver.Config{
			NodeName: "node1", StateDir: dir, Pods: noLinks{}, Rules: rules{&agent{loop: loop, running: t.Context()}}, Ready: loop.Ready,
		})
		made <- err
	}()
	select {
	case err := <-made:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the CNI server waits for a loop that has not started")
	}
	text, err := os.ReadFile(dir + "/" + attachlog.FileName)
	if err != nil || !strings.Contains(string(text), `"del":"weftp0000000001"`) {
		t.Errorf("the attachment was not ended: %v\n%.500s", err, text)
	}
}

// TestStopLetsRequestsGo has an ADD wait for a loop that has ended: it is told to come again, at once.
func TestStopLetsRequestsGo(t *testing.T) {
	running, stop := context.WithCancel(t.Context())
	r := rules{&agent{loop: reconcile.New(reconcile.Config{}), running: running}}
	added := make(chan error, 1)
	go func() {
		added <- r.Add(context.WithoutCancel(running), state.Attachment{HostPorts: []state.HostPort{{HostPort: 53}}})
	}()
	select {
	case err := <-added:
		t.Fatalf("nothing is in force, and ADD ends with %v", err)
	default:
	}
	stop()
	select {
	case err := <-added:
		if !errors.Is(err, cniserver.ErrTryAgain) {
			t.Errorf("ADD ends with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("ADD waits for a loop that has ended")
	}
}

//go:build netns

package node

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/nstest"
)

// TestAddresses: those of every link are listed, and each that comes or goes is told; the interfaces of
// Pods, with their link-local addresses, are not.
func TestAddresses(t *testing.T) {
	ns := nstest.New(t)
	run := func(command string) {
		t.Helper()
		words := strings.Fields(command)
		ns.Do(t, func() {
			if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", command, err, out)
			}
		})
	}
	run("ip link add eth0 type veth peer name far")
	run("ip link set far up")
	run("ip link set eth0 up")
	run("ip addr add 192.0.2.1/24 dev eth0")
	run("ip addr add 192.0.2.9 peer 198.51.100.9 dev eth0")
	var a *Addresses
	var err error
	ns.Do(t, func() { a, err = NewAddresses() })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	events, err := a.Subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list := func(want ...string) {
		t.Helper()
		got, err := a.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, ip := range got {
			text = append(text, ip.String())
		}
		if !slices.Equal(text, want) {
			t.Errorf("listed %v, want %v", text, want)
		}
	}
	told := func(what string) {
		t.Helper()
		select {
		case <-events:
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody is told of %s", what)
		}
	}
	list("192.0.2.1", "192.0.2.9")

	// A Pod's interface comes, with a link-local address; nothing is told of it before what follows.
	run("ip link add weftp1 type veth peer name p1")
	run("ip link set p1 up")
	run("ip link set weftp1 up")
	run("ip addr add 169.254.7.7/32 dev weftp1")
	run("ip addr add fe80::7/64 dev weftp1 nodad")
	run("ip link del weftp1")
	if silent(events, 300*time.Millisecond) != nil {
		t.Error("a Pod's interface makes everybody look again")
	}
	run("ip addr add 2001:db8::1/64 dev eth0 nodad")
	told("an IPv6 address")
	list("192.0.2.1", "192.0.2.9", "2001:db8::1")
	run("ip addr del 192.0.2.1/24 dev eth0")
	told("an IPv4 address that goes")
	run("ip addr add 192.0.2.2/24 dev eth0")
	told("an IPv4 address")
	list("192.0.2.2", "192.0.2.9", "2001:db8::1")

	cancel()
	for range events {
	}
	if _, err := a.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("listed in spite of the context: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// silent waits for an event that should not come.
func silent(events <-chan struct{}, d time.Duration) error {
	select {
	case <-events:
		return errors.New("an event")
	case <-time.After(d):
		return nil
	}
}

//go:build linux

package main

import (
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	o, err := parse([]string{"--node-name=node1", "--api-server=[2001:db8::1]:6443", "--backend=Kernel", "--log-level=debug"})
	if err != nil || o.node != "node1" || o.connection.Server != "[2001:db8::1]:6443" || o.stateDir != "/var/lib/weftnet" || o.runDir != "/run/weftnet" {
		t.Errorf("%+v, %v", o, err)
	}
	t.Setenv("NODE_NAME", "node2")
	if o, err := parse([]string{"--kubeconfig=/k"}); err != nil || o.node != "node2" {
		t.Errorf("%+v, %v", o, err)
	}
}

// All faults are told at once.
func TestBadFlags(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	_, err := parse([]string{"--backend=Fast", "--state-dir=here", "--run-dir=", "--proc-sys-net=x"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--node-name", "--api-server", "--backend", "--state-dir", "--run-dir", "--proc-sys-net"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not tell of %s: %v", want, err)
		}
	}
	if _, err := parse([]string{"--log-level=loud"}); err == nil {
		t.Error("an unknown log level is no error")
	}
}

//go:build linux

package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/agent/reconcile/socket"
	"github.com/weftnet/weftnet/agent/status"
)

// buildSockets makes the balancer at the socket, which the service proxy fills. Without that one, what
// an earlier run left must not go on.
func (a *agent) buildSockets(registry *prometheus.Registry) {
	balancer := bpf.NewSwitch(bpf.SwitchConfig{
		On:          a.o.serviceProxy && a.o.socketLB == "auto",
		CgroupMount: a.o.cgroupMount, Cgroup: a.o.cgroup, PinDir: a.o.bpfDir,
	})
	a.sockets = socket.New(balancer, a.log.With("part", "sockets"))
	registry.MustRegister(status.SocketCollector{Report: a.sockets.Report})
	if !a.o.serviceProxy {
		_ = a.sockets.Complete(context.Background()) // logs what fails
	}
}

// socketReport tells nothing while the service proxy is switched off.
func (a *agent) socketReport() (bpf.Report, bool) {
	if !a.o.serviceProxy {
		return bpf.Report{}, false
	}
	return a.sockets.Report()
}

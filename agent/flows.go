//go:build linux

package main

import (
	"github.com/prometheus/client_golang/prometheus"

	kernelflow "github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/kernel/sysctl"
	"github.com/weftnet/weftnet/agent/reconcile/flow"
	"github.com/weftnet/weftnet/agent/status"
)

// buildFlows makes the fast path between the Pods of this node, or what removes an earlier agent's.
func (a *agent) buildFlows(registry *prometheus.Registry) error {
	kernel, err := kernelflow.Open()
	if err != nil {
		return err
	}
	settings, err := sysctl.New(a.o.procSysNet)
	if err != nil {
		return err
	}
	a.flows = flow.New(flow.Config{
		On: a.o.fastPath == "auto", Kernel: kernel, Probe: kernelflow.Probe,
		Attachments: a.cni.Present, Changed: a.cni.Changed(), Sysctls: settings, Log: a.log.With("part", "fast path"),
	})
	registry.MustRegister(status.FlowCollector{Report: a.flows.Report})
	return nil
}

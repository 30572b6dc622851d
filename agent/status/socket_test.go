package status

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func TestSocketBalancing(t *testing.T) {
	for name, row := range map[string]struct {
		report               bpf.Report
		status, reason, says string
	}{
		"on":            {bpf.Report{Asked: true, Allowed: true, On: true, Reason: "yes"}, "True", "InForce", "when they connect"},
		"switched off":  {bpf.Report{Asked: true, Reason: "switched off"}, "False", "SwitchedOff", "socketLB is off"},
		"not supported": {bpf.Report{Asked: true, Allowed: true, Reason: "no: too old"}, "False", "NotSupported", "too old; nftables serves"},
		"failing":       {bpf.Report{Asked: true, Allowed: true, Failing: true, Err: errors.New("no room")}, "False", "Failing", "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Compute(Observed{Sockets: &row.report, Now: time.Unix(1, 0)})
			c := find(t, s, v1alpha1.ConditionSocketBalancing)
			if string(c.Status) != row.status || c.Reason != row.reason || !strings.Contains(c.Message, row.says) {
				t.Errorf("%+v", c)
			}
		})
	}
	for _, c := range Compute(Observed{Now: time.Unix(1, 0)}).Conditions {
		if c.Type == v1alpha1.ConditionSocketBalancing {
			t.Errorf("without a service proxy: %+v", c)
		}
	}
}

func TestSocketMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(SocketCollector{Report: func() (bpf.Report, bool) {
		return bpf.Report{On: true, Stats: bpf.Stats{Balanced: 7, Refused: 2, Unnamed: 1, Frontends: 3, Endpoints: 9}}, true
	}})
	want := `
# HELP weftnet_socket_balancing Whether TCP connections of local processes get their endpoint when they connect.
# TYPE weftnet_socket_balancing gauge
weftnet_socket_balancing 1
# HELP weftnet_socket_connects_total Connections to Services that were judged at the socket.
# TYPE weftnet_socket_connects_total counter
weftnet_socket_connects_total{outcome="balanced"} 7
weftnet_socket_connects_total{outcome="refused"} 2
weftnet_socket_connects_total{outcome="unnamed"} 1
weftnet_socket_connects_total{outcome="unsure"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "weftnet_socket_balancing", "weftnet_socket_connects_total"); err != nil {
		t.Error(err)
	}
}

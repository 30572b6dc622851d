package status

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	kernelflow "github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/reconcile/flow"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func TestFastPath(t *testing.T) {
	can, cannot := link.Probe{Answer: link.Yes, Reason: "tried"}, link.Probe{Answer: link.No, Reason: "too old"}
	for name, row := range map[string]struct {
		report               flow.Report
		status, reason, says string
	}{
		"on":            {flow.Report{Allowed: true, Asked: true, Possible: can, On: true}, "True", "InForce", "take the fast path"},
		"no echoes":     {flow.Report{Allowed: true, Asked: true, Possible: can, On: true, Stats: kernelflow.Stats{NoEchoes: true}}, "True", "InForce", "echoes of ICMP do not"},
		"not supported": {flow.Report{Allowed: true, Asked: true, Possible: cannot}, "False", "NotSupported", "too old; every packet"},
		"failing":       {flow.Report{Allowed: true, Asked: true, Possible: can, On: true, Err: errors.New("no room")}, "True", "Failing", "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			c := find(t, Compute(Observed{FastPath: &row.report, Now: time.Unix(1, 0)}), v1alpha1.ConditionFastPath)
			if string(c.Status) != row.status || c.Reason != row.reason || !strings.Contains(c.Message, row.says) {
				t.Errorf("%+v", c)
			}
		})
	}
}

// TestFastPathUnasked: nothing is told of what nobody wants, or nobody could use yet.
func TestFastPathUnasked(t *testing.T) {
	for _, row := range []struct {
		report flow.Report
		want   bool
	}{
		{flow.Report{}, false}, {flow.Report{Allowed: true}, false}, {flow.Report{Allowed: true, Asked: true}, true},
		{flow.Report{Allowed: true, Err: errors.New("no links")}, true},
		{flow.Report{Err: errors.New("left behind")}, true},
	} {
		p := &Publisher{cfg: Config{FastPath: func() flow.Report { return row.report }}}
		if got := p.fastPath(); (got != nil) != row.want {
			t.Errorf("of %+v: told: %t", row.report, !row.want)
		}
	}
}

func TestFastPathMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(FlowCollector{Report: func() flow.Report {
		return flow.Report{Links: 3, Stats: kernelflow.Stats{Fast: 7, Ordinary: 2}}
	}})
	want := `
# HELP weftnet_fast_path_packets_total TCP and UDP packets and echoes of ICMP from Pods in the fast path to Pods in it, by the way they took; packets that open or end a connection are not counted. It begins with the agent.
# TYPE weftnet_fast_path_packets_total counter
weftnet_fast_path_packets_total{way="fast"} 7
weftnet_fast_path_packets_total{way="ordinary"} 2
# HELP weftnet_fast_path_pod_links Links of Pods of this node that are in the fast path.
# TYPE weftnet_fast_path_pod_links gauge
weftnet_fast_path_pod_links 3
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

//go:build linux && netns

package policy_test

import (
	"bufio"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weftnet/weftnet/agent/reconcile/policy"
	"github.com/weftnet/weftnet/agent/status"
)

// meter is the agent's registry, as it is wired.
type meter struct{ *status.Metrics }

func (m meter) Recorder() policy.Recorder { return m.Policy() }

func (m meter) Watch(l *policy.Loop, d policy.Denied) {
	m.Registry.MustRegister(status.PolicyCollector{Loop: l, Denied: d})
}

// Read scrapes it.
func (m meter) Read(t *testing.T) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	out := map[string]float64{}
	for lines := bufio.NewScanner(w.Body); lines.Scan(); {
		name, value, found := strings.Cut(lines.Text(), "} ")
		if found {
			name += "}"
		} else {
			name, value, _ = strings.Cut(lines.Text(), " ")
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = v
		}
	}
	return out
}

// TestMetrics is outside the package, since the metrics build on it.
func TestMetrics(t *testing.T) { policy.MetricsOnTheKernel(t, meter{status.NewMetrics()}) }
